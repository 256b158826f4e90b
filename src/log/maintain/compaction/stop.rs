//! How a compaction is ended early, and how it holds a rate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a compaction that keeps a rate sleeps before it looks whether it is to stop.
const PACE_SLICE: Duration = Duration::from_millis(20);

/// Ends a compaction early, and cleanly.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    at: Option<Instant>,
}

impl Stop {
    /// One that ends it after a while by itself.
    pub(crate) fn after(limit: Duration) -> Stop {
        Stop { asked: AtomicBool::new(false), at: Some(Instant::now() + limit) }
    }

    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }
}

/// Holds a rate, so that appends are not starved.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    start: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, start: Instant::now(), bytes: 0 }
    }

    /// Sleeps until that many more bytes are due, or it is to stop.
    pub(super) fn keep(&mut self, bytes: u64, stop: &Stop) {
        self.bytes += bytes;
        let Some(rate) = self.bytes_per_second else { return };
        let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
        while let Some(rest) = due.checked_sub(self.start.elapsed())
            && !rest.is_zero()
            && !stop.is_due()
        {
            std::thread::sleep(rest.min(PACE_SLICE));
        }
    }
}
