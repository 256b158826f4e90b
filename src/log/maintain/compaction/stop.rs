//! Stops a compaction early and limits its rate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a rate-limited compaction sleeps between two checks for a stop.
const PACE_SLICE: Duration = Duration::from_millis(20);

/// A request or a time limit that stops a compaction early and cleanly.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    at: Option<Instant>,
}

impl Stop {
    /// A stop that comes due after `limit` without a request.
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

/// Limits the rate of a compaction, so that it does not starve appends.
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

    /// Counts `bytes` and sleeps until the rate allows them, or until the stop is due.
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
