//! How a thread sleeps until there is a reason to work, or it is to end.
//!
//! Everything the sleeper tests changes under the mutex that it tests it under. Otherwise a change
//! and its notification can fall between the test and the sleep, and the sleeper misses both.
//!
//! `loom/` compiles this very file with loom's mutex and condition variable.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::blocking::{Condvar, Mutex, MutexGuard};

/// The most urgent reason so far, and whether to end.
#[derive(Debug)]
pub(crate) struct Wakeup<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<R> {
    reason: Option<R>,
    is_closed: bool,
}

impl<R: Copy + Ord> Wakeup<R> {
    pub(crate) fn new() -> Wakeup<R> {
        let state = State { reason: None, is_closed: false };
        Wakeup { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // What the mutex guards is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the sleeper for a reason; false if it has one that is as urgent.
    pub(crate) fn wake(&self, reason: R) -> bool {
        let mut state = self.state();
        if state.reason >= Some(reason) {
            return false;
        }
        state.reason = Some(reason);
        self.changed.notify_one();
        true
    }

    /// Ends the sleep for good.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        self.changed.notify_one();
    }

    /// The reason that nobody has acted on.
    pub(crate) fn take(&self) -> Option<R> {
        self.state().reason.take()
    }

    /// Sleeps until there is a reason, and then for a pause in which others may join it; `None` once
    /// it is closed. A reason that comes too late stays.
    pub(crate) fn sleep(&self, pause: Duration) -> Option<R> {
        let mut state = self.state();
        while state.reason.is_none() && !state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + pause;
        while !state.is_closed
            && let Some(rest) = end.checked_duration_since(Instant::now())
            && !rest.is_zero()
        {
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.is_closed { None } else { state.reason.take() }
    }
}
