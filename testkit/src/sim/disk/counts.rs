//! Counts of the calls to a simulated disk.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of the calls to the disk.
#[derive(Debug, Default)]
pub struct Counts {
    pub loads: AtomicU64,
    pub loaded_bytes: AtomicU64,
    pub stores: AtomicU64,
    pub stored_bytes: AtomicU64,
    /// The requests of early writeback, each with the end of what was stored by then.
    pub write_backs: Mutex<Vec<(Range<u64>, u64)>>,
    pub opens: AtomicU64,
    pub creates: AtomicU64,
    pub names: AtomicU64,
    pub lists: AtomicU64,
    pub locks: AtomicU64,
    pub syncs: AtomicU64,
}

impl Counts {
    /// Loads, bytes loaded, stores, and every other call, in that order.
    pub fn now(&self) -> [u64; 4] {
        let calls =
            [&self.opens, &self.creates, &self.names, &self.lists, &self.locks, &self.syncs];
        let calls = calls.iter().map(|count| count.load(Relaxed)).sum();
        [
            self.loads.load(Relaxed),
            self.loaded_bytes.load(Relaxed),
            self.stores.load(Relaxed),
            calls,
        ]
    }
}
