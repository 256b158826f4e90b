//! The sleep of the background thread under loom: the source of `src/log/maintain/wakeup.rs`, and
//! a variant whose flag is outside the mutex.

mod blocking {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[path = "../../src/log/maintain/wakeup.rs"]
mod wakeup;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use self::wakeup::Wakeup;

/// A sleep that can be woken and ended.
pub trait Sleep: Send + Sync + 'static {
    /// A sleep without any reason to wake up.
    fn new() -> Self;
    /// Wakes the sleeper for a reason.
    fn wake(&self, reason: u8);
    /// Ends the sleep permanently.
    fn close(&self);
    /// Sleeps until there is a reason and a pause is over; `None` once it is closed.
    fn sleep(&self, pause: Duration) -> Option<u8>;
    /// Takes the pending reason, if any.
    fn take(&self) -> Option<u8>;
}

/// The engine's own.
#[derive(Debug)]
pub struct Engine(Wakeup<u8>);

impl Sleep for Engine {
    fn new() -> Engine {
        Engine(Wakeup::new())
    }

    fn wake(&self, reason: u8) {
        self.0.wake(reason);
    }

    fn close(&self) {
        self.0.close();
    }

    fn sleep(&self, pause: Duration) -> Option<u8> {
        self.0.sleep(pause)
    }

    fn take(&self) -> Option<u8> {
        self.0.take()
    }
}

/// A variant whose end is a flag beside the mutex, as in an earlier version of the engine.
#[derive(Debug)]
pub struct FlagOutside {
    reason: loom::sync::Mutex<Option<u8>>,
    changed: loom::sync::Condvar,
    is_closed: AtomicBool,
}

impl Sleep for FlagOutside {
    fn new() -> FlagOutside {
        FlagOutside {
            reason: loom::sync::Mutex::new(None),
            changed: loom::sync::Condvar::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn wake(&self, reason: u8) {
        *self.reason.lock().expect("the thread does not panic") = Some(reason);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn sleep(&self, _pause: Duration) -> Option<u8> {
        let mut reason = self.reason.lock().expect("the thread does not panic");
        while reason.is_none() && !self.is_closed.load(Ordering::SeqCst) {
            reason = self.changed.wait(reason).expect("the thread does not panic");
        }
        if self.is_closed.load(Ordering::SeqCst) { None } else { reason.take() }
    }

    fn take(&self) -> Option<u8> {
        self.reason.lock().expect("the thread does not panic").take()
    }
}

/// Explores every execution of a thread that sleeps until it is closed, while others wake it for
/// the given reasons and close it. Returns the number of executions.
///
/// # Panics
/// Panics if a reason is lost, or if an execution does not end.
pub fn explore<S: Sleep>(reasons: &'static [u8], pause: Duration) -> u64 {
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&executions);
    Builder::new().check(move || {
        counted.fetch_add(1, Relaxed);
        let sleep = Arc::new(S::new());
        let sleeper = {
            let sleep = Arc::clone(&sleep);
            thread::spawn(move || {
                let mut seen = 0;
                while let Some(reason) = sleep.sleep(pause) {
                    seen = seen.max(reason);
                }
                seen
            })
        };
        let waker = {
            let sleep = Arc::clone(&sleep);
            thread::spawn(move || reasons.iter().for_each(|&reason| sleep.wake(reason)))
        };
        waker.join().expect("the thread does not panic");
        sleep.close();
        let seen = sleeper.join().expect("the thread does not panic");
        let left = sleep.take().unwrap_or(0);
        assert_eq!(seen.max(left), reasons.iter().copied().max().unwrap_or(0), "a reason is lost");
    });
    executions.load(Relaxed)
}
