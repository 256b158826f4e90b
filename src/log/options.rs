//! Every knob of a segment log, named with its unit, and its limits.

use std::path::Path;
use std::sync::Arc;

use partd_format::segment::{SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::names::RESERVE_MIN_BYTES;
use crate::threads::LentPool;

/// How a [`SegmentLog`](crate::SegmentLog) is opened.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("store");
/// use partd::SegmentLog;
/// let p = SegmentLog::options().segment_len_bytes(1 << 20).open(&path)?;
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "setters return the options with the change; `open` makes a store of them"]
pub struct Options {
    pub(crate) segment_len_bytes: u64,
    pub(crate) verify_on_read: bool,
    pub(crate) any_file_system: bool,
    pub(crate) ignore_damage: bool,
    pub(crate) compaction_dead_share: Option<f64>,
    pub(crate) compaction_bytes_per_second: Option<u64>,
    pub(crate) compaction_run_bytes: u64,
    pub(crate) max_store_bytes: Option<u64>,
    pub(crate) recycled_segments: usize,
    pub(crate) release_after_read: bool,
    pub(crate) max_read_bytes: Option<u64>,
    pub(crate) create: bool,
    pub(crate) thread_pool: Option<LentPool>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_len_bytes: 64 << 20,
            verify_on_read: true,
            any_file_system: false,
            ignore_damage: false,
            compaction_dead_share: Some(0.5),
            compaction_bytes_per_second: None,
            compaction_run_bytes: 1 << 30,
            max_store_bytes: None,
            recycled_segments: 8,
            release_after_read: false,
            max_read_bytes: None,
            create: true,
            thread_pool: None,
        }
    }
}

impl Options {
    /// The length of the segment files that this handle makes, in bytes: 64 MiB unless set, from
    /// 64 KiB to 4 GiB; rounded up to whole pages. Each handle that writes has one segment open.
    /// A batch that does not fit gets a segment of its own size.
    pub fn segment_len_bytes(mut self, bytes: u64) -> Options {
        self.segment_len_bytes = bytes;
        self
    }

    /// Whether a read compares the checksums of the values; true unless set.
    ///
    /// Without it, damage of a value on disk is returned as bytes. Headers are always checked.
    pub fn verify_on_read(mut self, verify: bool) -> Options {
        self.verify_on_read = verify;
        self
    }

    /// Whether to open a store on a network or unknown file system; false unless set.
    ///
    /// There, shared mappings of two machines are not coherent and locks may not exclude: use it
    /// only where one machine uses the store, and expect no promise to hold after a crash.
    pub fn any_file_system(mut self, any: bool) -> Options {
        self.any_file_system = any;
        self
    }

    /// Whether [`open_read_only`](Options::open_read_only) reads a damaged store as far as its
    /// history is whole, instead of refusing it; false unless set. Of what a compaction has looked
    /// at, or written, everything is read that can be.
    pub fn ignore_damage(mut self, ignore: bool) -> Options {
        self.ignore_damage = ignore;
        self
    }

    /// The share of the store that may be dead before the handle compacts by itself; 0.5 unless
    /// set, `None` for never.
    ///
    /// It looks after something was removed through it, after it has begun another segment, and for
    /// five seconds at most when it is closed, and compacts if that gives back more than this
    /// share and more than two segments, or if 64 small segments can be joined. Open segments do
    /// not count. A thread of the handle does it, which ends with it.
    pub fn compaction_dead_share(mut self, share: impl Into<Option<f64>>) -> Options {
        self.compaction_dead_share = share.into();
        self
    }

    /// The bytes of values that a compaction copies in a second, at most; no limit unless set.
    pub fn compaction_bytes_per_second(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.compaction_bytes_per_second = bytes.into();
        self
    }

    /// The bytes of live values that one run of a compaction copies, at most, and so the disk space
    /// that it needs beside the store: 1 GiB unless set. A segment that holds more is a run alone.
    pub fn compaction_run_bytes(mut self, bytes: u64) -> Options {
        self.compaction_run_bytes = bytes;
        self
    }

    /// The disk space that the segments of the store may take, in bytes; no limit unless set.
    ///
    /// A write that needs a new segment beyond it fails before anything is written; deletes and
    /// clears go on, in segments no longer than they need. It is looked at when a segment is made,
    /// so processes that make one at the same moment may each take what was left. A compaction is
    /// not held to it, since it frees more than it takes: the output of a run lies beside what it
    /// replaces for as long as the run lasts, and counts from then on.
    pub fn max_store_bytes(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.max_store_bytes = bytes.into();
        self
    }

    /// How many dead segments of full length a temporary store keeps to write them again instead of fresh files,
    /// which is faster: 8 unless set, 0 for none.
    ///
    /// Set it to what one fill takes where a store is filled and cleared again and again. Other stores remove dead
    /// segments.
    pub fn recycled_segments(mut self, segments: usize) -> Options {
        self.recycled_segments = segments;
        self
    }

    /// Whether what a read had to fetch from disk leaves memory again once it was read; false unless set.
    ///
    /// For values that are read once and do not fit into memory: the page cache is then left to what is written, and
    /// to others. What was in memory before the read stays. A [`pop`](crate::Partd::pop) and a compaction do so in
    /// any case.
    pub fn release_after_read(mut self, release: bool) -> Options {
        self.release_after_read = release;
        self
    }

    /// The bytes of values that one read may return; no limit unless set.
    ///
    /// A read of more, of one key or of many together, is an error before any memory is allocated, and a pop of
    /// more has removed nothing. A [`view`](crate::SegmentLog::view) copies nothing and is not held to it.
    pub fn max_read_bytes(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.max_read_bytes = bytes.into();
        self
    }

    /// Whether [`open`](Options::open) makes a store where there is none; true unless set.
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// The threads that reads of many bytes share; unless set, a pool that belongs to the process,
    /// with as many threads as the machine has cores, or as `RAYON_NUM_THREADS` says.
    ///
    /// A read that is called inside a rayon task uses the pool of that task in any case. Where no
    /// thread can be started, or none of the pool has answered yet, the calling thread does the
    /// work. A pool is of no use in a child of `fork`, where its threads do not exist: a store that
    /// is opened there uses threads of its own.
    ///
    /// A read waits for the threads of the pool: do not call it while you hold a lock that a task in
    /// the same pool may want.
    pub fn thread_pool(mut self, pool: Arc<rayon::ThreadPool>) -> Options {
        self.thread_pool = Some(LentPool::new(pool));
        self
    }

    /// Checks the options for a store at `path`.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let len = self.segment_len_bytes;
        if !(SEGMENT_LEN_MIN..=SEGMENT_LEN_MAX).contains(&len) {
            let why = format!(
                "segment_len_bytes is {len}; it must be from {SEGMENT_LEN_MIN} (64 KiB) to \
                 {SEGMENT_LEN_MAX} (4 GiB)"
            );
            return Err(Error::refused(ErrorKind::Invalid, path, why));
        }
        if let Some(share) = self.compaction_dead_share.filter(|s| !(0.0..=1.0).contains(s)) {
            let why = format!("compaction_dead_share is {share}; it must be from 0 to 1, or None");
            return Err(Error::refused(ErrorKind::Invalid, path, why));
        }
        Ok(())
    }

    /// The length of a segment, in whole pages.
    pub(crate) fn segment_len(&self) -> u64 {
        self.segment_len_bytes.next_multiple_of(4096)
    }

    /// The part of a segment that is kept for deletes and clears, so that a full disk can be
    /// emptied.
    pub(crate) fn reserve(&self) -> u64 {
        (self.segment_len() / 64).min(64 << 10)
    }

    /// The length of the file that keeps disk space for a removal on a full disk.
    pub(crate) fn reserve_file_len(&self) -> u64 {
        (self.segment_len() / 64).clamp(RESERVE_MIN_BYTES, 1 << 20).next_multiple_of(4096)
    }

    /// The length of the file that keeps disk space for the output of a compaction, in a store whose segments take
    /// so many bytes of disk: a sixteenth of those, up to one segment, so that any of them can be rewritten.
    pub(crate) fn output_reserve_len(&self, disk_bytes: u64) -> u64 {
        let share = disk_bytes / 16;
        share.clamp(RESERVE_MIN_BYTES, self.segment_len()).next_multiple_of(4096)
    }
}
