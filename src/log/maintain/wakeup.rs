//! Lets a thread sleep until there is a reason to work, or until it is told to end.
//!
//! All state that the sleeper tests changes under the same mutex. Otherwise a change and its
//! notification could fall between the sleeper's test and its wait, and the sleeper would miss
//! both.
//!
//! `loom/` compiles this same file with loom's mutex and condition variable.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::blocking::{Condvar, Mutex, MutexGuard};

/// The most urgent pending reason, and whether the sleeper should end.
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
        // Each statement leaves the state consistent, so a poisoned mutex is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the sleeper for a reason; returns false if a reason at least as urgent is pending.
    pub(crate) fn wake(&self, reason: R) -> bool {
        let mut state = self.state();
        if state.reason >= Some(reason) {
            return false;
        }
        state.reason = Some(reason);
        self.changed.notify_one();
        true
    }

    /// Makes every current and later sleep return `None`.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        self.changed.notify_one();
    }

    /// Takes the pending reason.
    pub(crate) fn take(&self) -> Option<R> {
        self.state().reason.take()
    }

    /// Sleeps until there is a reason, then for `pause`, in which a more urgent one may replace it.
    /// Returns `None` once closed. A reason that arrives after the pause stays for the next sleep.
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
