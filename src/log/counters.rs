//! Counters of the work of one handle.
//!
//! Every increment is relaxed and placed so that it adds no contention: the counters of writes are
//! stored by the thread that holds the handle's commit lock, those of the index by the thread that
//! holds the index exclusively, and those of reads are sharded over cache lines by thread.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The work of one handle since it was opened, returned by
/// [`SegmentLog::counters`](crate::SegmentLog::counters).
///
/// Each number only grows. The work of other handles on the same store is not included, and the
/// numbers are read one after the other, not at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// The batches that the handle has written, including the removals of pops.
    pub batches_written: u64,
    /// The appends, sets and removals in those batches.
    pub entries_written: u64,
    /// The bytes of values in those batches.
    pub bytes_written: u64,
    /// The calls that read values: gets, pops and views. One call may read many keys.
    pub reads: u64,
    /// The bytes of values that those calls returned or lent.
    pub bytes_read: u64,
    /// The syncs that the handle has done itself. A call whose data another handle or thread syncs
    /// at the same time adds nothing.
    pub syncs: u64,
    /// The updates of the index because batches were committed, or segments added or removed.
    pub index_refreshes: u64,
    /// The builds of the index from all segments: on its first use, and after a compaction.
    pub index_rebuilds: u64,
    /// The runs of compactions that the handle has finished, by itself or on request.
    pub compactions: u64,
    /// The length of the segments that those runs removed minus that of their outputs, in bytes.
    pub bytes_reclaimed: u64,
    /// The errors of work that no caller waits for, such as background compactions.
    pub background_errors: u64,
    /// The last of those errors.
    pub last_background_error: Option<BackgroundError>,
}

/// An error of work that no caller waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackgroundError {
    /// The work that failed, such as `compaction`.
    pub task: &'static str,
    /// The error, as a sentence.
    pub message: String,
    /// When it happened.
    pub at: SystemTime,
}

/// How many cache lines the counters of reads are spread over.
const SHARDS: usize = 16;

/// The counters of a handle while it works.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    reads: [Reads; SHARDS],
    writes: Writes,
    index_refreshes: AtomicU64,
    index_rebuilds: AtomicU64,
    syncs: AtomicU64,
    compactions: AtomicU64,
    bytes_reclaimed: AtomicU64,
    background_errors: AtomicU64,
    last_background_error: Mutex<Option<BackgroundError>>,
}

/// The reads of the threads of one shard. Two cache lines, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Reads {
    calls: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Writes {
    batches: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

/// Returns the shard of the calling thread.
#[inline]
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: usize = NEXT.fetch_add(1, Relaxed) % SHARDS);
    // A thread that is ending has no shard of its own any more.
    SHARD.try_with(|shard| *shard).unwrap_or(0)
}

/// Adds to a counter that no other thread changes at the same time.
#[inline]
fn add_alone(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Tally {
    /// Counts a batch. The caller holds the lock under which the handle commits.
    #[inline]
    pub(crate) fn wrote(&self, entries: u64, bytes: u64) {
        add_alone(&self.writes.batches, 1);
        add_alone(&self.writes.entries, entries);
        add_alone(&self.writes.bytes, bytes);
    }

    /// Counts a call that read values of `bytes` in total.
    #[inline]
    pub(crate) fn read(&self, bytes: u64) {
        let shard = &self.reads[shard()];
        shard.calls.fetch_add(1, Relaxed);
        shard.bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts an update of the index, or its construction. The caller has the index to itself.
    #[inline]
    pub(crate) fn indexed(&self, from_start: bool) {
        add_alone(if from_start { &self.index_rebuilds } else { &self.index_refreshes }, 1);
    }

    /// Counts a sync.
    pub(crate) fn synced(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }

    /// Counts a run of a compaction.
    pub(crate) fn compacted(&self, bytes_reclaimed: u64) {
        self.compactions.fetch_add(1, Relaxed);
        self.bytes_reclaimed.fetch_add(bytes_reclaimed, Relaxed);
    }

    /// Counts and keeps an error of background work.
    pub(crate) fn failed(&self, task: &'static str, error: &dyn Display, now_unix_ms: u64) {
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(now_unix_ms)).unwrap_or(UNIX_EPOCH);
        let error = BackgroundError { task, message: error.to_string(), at };
        self.background_errors.fetch_add(1, Relaxed);
        let mut last = self.last_background_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(error);
    }

    /// Returns the counters as they are now. A child of `fork` passes `is_forked`, since a thread
    /// that does not exist in it may hold the lock of the last error.
    pub(crate) fn counters(&self, is_forked: bool) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let last = (!is_forked).then(|| {
            self.last_background_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
        });
        Counters {
            batches_written: load(&self.writes.batches),
            entries_written: load(&self.writes.entries),
            bytes_written: load(&self.writes.bytes),
            reads: self.reads.iter().map(|shard| load(&shard.calls)).sum(),
            bytes_read: self.reads.iter().map(|shard| load(&shard.bytes)).sum(),
            syncs: load(&self.syncs),
            index_refreshes: load(&self.index_refreshes),
            index_rebuilds: load(&self.index_rebuilds),
            compactions: load(&self.compactions),
            bytes_reclaimed: load(&self.bytes_reclaimed),
            background_errors: load(&self.background_errors),
            last_background_error: last.flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_many_threads_are_all_counted() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| tally.read(3)));
            }
        });
        let counters = tally.counters(false);
        assert_eq!(counters.reads, 2000 * SHARDS as u64);
        assert_eq!(counters.bytes_read, 6000 * SHARDS as u64);
    }

    #[test]
    fn the_last_background_error_is_kept_with_its_time() {
        let tally = Tally::default();
        tally.failed("compaction", &"the first", 1000);
        tally.failed("compaction", &"the second", 2500);
        let counters = tally.counters(false);
        assert_eq!(counters.background_errors, 2);
        let last = counters.last_background_error.unwrap();
        assert_eq!((last.task, &*last.message), ("compaction", "the second"));
        assert_eq!(last.at, UNIX_EPOCH + Duration::from_millis(2500));
        assert_eq!(tally.counters(true).last_background_error, None);
    }
}
