//! Begins to write appended bytes to disk early if the process has a memory limit.
//!
//! A memory cgroup counts the pages of files that are not on disk yet. Left to itself, the kernel
//! writes them only once the limit is reached, and an append then waits for the disk. If the writes
//! start earlier, the disk works while the appends go on.
//!
//! Each byte is started about once: pages that are on disk already would leave memory.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::fs::memory_limit::memory_limit;
use crate::log::options::{Options, WriteBackAfter};

/// The bytes that are started together.
const STEP_BYTES: u64 = 4 << 20;
/// The share of the memory limit that a handle appends before it starts bytes early.
const LIMIT_PARTS: u64 = 4;

/// Counts the bytes that a handle appends.
#[derive(Debug)]
pub(super) struct WriteBack {
    /// `None` if nothing is started early.
    after_bytes: Option<u64>,
    appended_bytes: AtomicU64,
    /// Those in the active segment that were not started yet.
    waiting_bytes: AtomicU64,
}

impl WriteBack {
    pub(super) fn new(options: &Options) -> WriteBack {
        let after_bytes = match options.write_back_after {
            WriteBackAfter::Bytes(bytes) => Some(bytes),
            WriteBackAfter::Never => None,
            WriteBackAfter::ShareOfLimit => memory_limit().map(|limit| limit / LIMIT_PARTS),
        };
        let (appended_bytes, waiting_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        WriteBack { after_bytes, appended_bytes, waiting_bytes }
    }

    /// Counts a batch of `len` bytes that ends at `end` in its segment. Returns the range of the
    /// segment that should be started now, if any.
    #[inline]
    pub(super) fn appended(&self, end: u64, len: u64) -> Option<Range<u64>> {
        let after_bytes = self.after_bytes?;
        let appended = self.appended_bytes.fetch_add(len, Ordering::Relaxed) + len;
        let waiting = self.waiting_bytes.fetch_add(len, Ordering::Relaxed) + len;
        if appended < after_bytes || waiting < STEP_BYTES {
            return None;
        }
        self.take_waiting(end)
    }

    /// Returns the range of a segment that was sealed at `end` that should be started now, if any.
    pub(super) fn sealed(&self, end: u64) -> Option<Range<u64>> {
        let range = self.take_waiting(end);
        let appended = self.appended_bytes.load(Ordering::Relaxed);
        range.filter(|_| self.after_bytes.is_some_and(|after| appended >= after))
    }

    /// Takes the bytes before `end` that wait, if another thread has not taken them meanwhile. They
    /// may be a few too many if threads append at the same time.
    fn take_waiting(&self, end: u64) -> Option<Range<u64>> {
        let taken = self.waiting_bytes.swap(0, Ordering::Relaxed);
        (taken > 0).then(|| end.saturating_sub(taken)..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_last_bytes_are_started_once_enough_were_appended() {
        const BATCH: u64 = 100_000;
        let options = Options::default().write_back_after_bytes(20 << 20);
        let write_back = WriteBack::new(&options);
        let mut started = 0;
        for number in 1..=1000_u64 {
            if let Some(range) = write_back.appended(number * BATCH, BATCH) {
                assert!(number * BATCH >= 20 << 20, "started after batch {number}");
                assert_eq!(range, started..number * BATCH);
                started = range.end;
            }
        }
        assert!(1000 * BATCH - started < STEP_BYTES, "{started} bytes");
        assert_eq!(write_back.sealed(1000 * BATCH), Some(started..1000 * BATCH));
        assert_eq!(write_back.sealed(1000 * BATCH), None);
    }

    #[test]
    fn bytes_of_a_segment_that_was_sealed_before_enough_were_appended_are_never_started() {
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(10 << 20));
        assert_eq!(write_back.appended(9 << 20, 9 << 20), None);
        assert_eq!(write_back.sealed(9 << 20), None);
        assert_eq!(write_back.appended(2 << 20, 2 << 20), None);
        assert_eq!(write_back.appended(5 << 20, 3 << 20), Some(0..5 << 20));
    }

    #[test]
    fn threads_that_append_at_the_same_time_start_each_byte_about_once() {
        const BATCHES: u64 = 200_000;
        const LEN: u64 = STEP_BYTES - 1;
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(0));
        let started: u64 = std::thread::scope(|scope| {
            let append = || {
                let ranges = (0..BATCHES).filter_map(|_| write_back.appended(u64::MAX, LEN));
                ranges.map(|range| range.end - range.start).sum::<u64>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(append)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let appended = 4 * BATCHES * LEN;
        assert!(
            (appended - 2 * STEP_BYTES..=appended).contains(&started),
            "{started} of {appended}"
        );
    }

    #[test]
    fn nothing_is_started_if_it_is_turned_off() {
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(None));
        assert!((1..100).all(|n| write_back.appended(n << 20, 1 << 20).is_none()));
        assert_eq!(write_back.sealed(100 << 20), None);
    }
}
