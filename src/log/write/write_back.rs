//! Begins to write appended bytes to disk early if the process has a memory limit.
//!
//! A memory cgroup counts dirty pages. They can fill it before the kernel starts writeback by
//! itself, and an append then waits for the disk. With early writeback, the disk works while
//! appends go on. Writeback of each byte is requested about once.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::fs::memory_limit::memory_limit;
use crate::log::options::{Options, WriteBackAfter};

/// Writeback is requested for about this many bytes at a time.
pub(crate) const STEP_BYTES: u64 = 4 << 20;
/// By default, early writeback begins after 1/`LIMIT_PARTS` of the memory limit was appended.
const LIMIT_PARTS: u64 = 4;

/// Counts the bytes that a handle appends.
#[derive(Debug)]
pub(super) struct WriteBack {
    /// `None` without early writeback.
    after_bytes: Option<u64>,
    appended_bytes: AtomicU64,
}

impl WriteBack {
    pub(super) fn new(options: &Options) -> WriteBack {
        let after_bytes = match options.write_back_after {
            WriteBackAfter::Bytes(bytes) => Some(bytes),
            WriteBackAfter::Never => None,
            WriteBackAfter::ShareOfLimit => memory_limit().map(|limit| limit / LIMIT_PARTS),
        };
        WriteBack { after_bytes, appended_bytes: AtomicU64::new(0) }
    }

    /// Counts a batch of `len` bytes that ends at `end` in its segment. `waiting_bytes` counts the bytes
    /// of the segment for which no writeback was requested yet. Returns the range of the segment to
    /// write back now, if any.
    #[inline]
    pub(super) fn appended(
        &self,
        waiting_bytes: &AtomicU64,
        end: u64,
        len: u64,
    ) -> Option<Range<u64>> {
        let after_bytes = self.after_bytes?;
        let appended = self.appended_bytes.fetch_add(len, Ordering::Relaxed) + len;
        let waiting = waiting_bytes.fetch_add(len, Ordering::Relaxed) + len;
        if appended < after_bytes || waiting < STEP_BYTES {
            return None;
        }
        take(waiting_bytes, end)
    }

    /// Returns the range to write back now, if any, of a segment that was sealed at `end`.
    pub(super) fn sealed(&self, waiting_bytes: &AtomicU64, end: u64) -> Option<Range<u64>> {
        let range = take(waiting_bytes, end);
        let appended = self.appended_bytes.load(Ordering::Relaxed);
        range.filter(|_| self.after_bytes.is_some_and(|after| appended >= after))
    }
}

/// Takes the waiting bytes, as the range that ends at `end`; `None` if another thread took them. With
/// concurrent appends, the range may differ slightly from the bytes that were waiting.
fn take(waiting_bytes: &AtomicU64, end: u64) -> Option<Range<u64>> {
    let taken = waiting_bytes.swap(0, Ordering::Relaxed);
    (taken > 0).then(|| end.saturating_sub(taken)..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_threshold_on_writeback_covers_all_but_the_last_step() {
        const BATCH: u64 = 100_000;
        let options = Options::default().write_back_after_bytes(20 << 20);
        let write_back = WriteBack::new(&options);
        let waiting = AtomicU64::new(0);
        let mut started = 0;
        for number in 1..=1000_u64 {
            if let Some(range) = write_back.appended(&waiting, number * BATCH, BATCH) {
                assert!(number * BATCH >= 20 << 20, "started after batch {number}");
                assert_eq!(range, started..number * BATCH);
                started = range.end;
            }
        }
        assert!(1000 * BATCH - started < STEP_BYTES, "{started} bytes");
        assert_eq!(write_back.sealed(&waiting, 1000 * BATCH), Some(started..1000 * BATCH));
        assert_eq!(write_back.sealed(&waiting, 1000 * BATCH), None);
    }

    #[test]
    fn a_segment_sealed_before_the_threshold_is_never_written_back_early() {
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(10 << 20));
        let waiting = AtomicU64::new(0);
        assert_eq!(write_back.appended(&waiting, 9 << 20, 9 << 20), None);
        assert_eq!(write_back.sealed(&waiting, 9 << 20), None);
        assert_eq!(write_back.appended(&waiting, 2 << 20, 2 << 20), None);
        assert_eq!(write_back.appended(&waiting, 5 << 20, 3 << 20), Some(0..5 << 20));
    }

    #[test]
    fn concurrent_appends_request_writeback_of_each_byte_about_once() {
        const BATCHES: u64 = 200_000;
        const LEN: u64 = STEP_BYTES - 1;
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(0));
        let waiting = AtomicU64::new(0);
        let started: u64 = std::thread::scope(|scope| {
            let append = || {
                let ranges =
                    (0..BATCHES).filter_map(|_| write_back.appended(&waiting, u64::MAX, LEN));
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
    fn there_is_no_early_writeback_if_it_is_turned_off() {
        let write_back = WriteBack::new(&Options::default().write_back_after_bytes(None));
        let waiting = AtomicU64::new(0);
        assert!((1..100).all(|n| write_back.appended(&waiting, n << 20, 1 << 20).is_none()));
        assert_eq!(write_back.sealed(&waiting, 100 << 20), None);
    }
}
