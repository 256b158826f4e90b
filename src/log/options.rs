//! The options of a segment log, with their units and limits.

use std::path::Path;
use std::sync::Arc;

use partd_format::segment::{SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::names::RESERVE_MIN_BYTES;
use crate::threads::LentPool;

/// Options for opening a [`SegmentLog`](crate::SegmentLog).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("store");
/// use partd::SegmentLog;
/// let p = SegmentLog::options().segment_len_bytes(1 << 20).open(&path)?;
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a setter returns the changed options; call `open` to open a store with them"]
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
    pub(crate) write_back_after: WriteBackAfter,
    pub(crate) create: bool,
    pub(crate) thread_pool: Option<LentPool>,
}

/// When a handle begins to write appended bytes to disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteBackAfter {
    Bytes(u64),
    Never,
    /// After a share of the memory limit of the process.
    ShareOfLimit,
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
            write_back_after: WriteBackAfter::ShareOfLimit,
            create: true,
            thread_pool: None,
        }
    }
}

impl Options {
    /// Sets the length of the segments that this handle creates, in bytes. The default is 64 MiB.
    ///
    /// It must be from 64 KiB to 4 GiB, and is rounded up to whole pages. Each writing handle has
    /// one segment open, or up to four once several of its threads append 64 KiB or more at the
    /// same time. A batch that does not fit gets a longer segment of its own.
    pub fn segment_len_bytes(mut self, bytes: u64) -> Options {
        self.segment_len_bytes = bytes;
        self
    }

    /// Sets whether a read compares the checksums of values. The default is true.
    ///
    /// If false, a read may return the damaged bytes of a value. Headers are always checked.
    pub fn verify_on_read(mut self, verify: bool) -> Options {
        self.verify_on_read = verify;
        self
    }

    /// Sets whether to open a store on a network or unknown file system. The default is false.
    ///
    /// On such a file system, mappings on two machines are not coherent and locks may not work. Set
    /// it only if one machine uses the store, and do not rely on any guarantee after a crash.
    pub fn any_file_system(mut self, any: bool) -> Options {
        self.any_file_system = any;
        self
    }

    /// Sets whether [`open_read_only`](Options::open_read_only) opens a damaged store and reads it
    /// as far as its history is intact, instead of refusing it. The default is false.
    ///
    /// Of the batches that a compaction has processed or written, it reads all that are readable.
    /// The handle shows the store as it was when it was opened, even if others write to it.
    pub fn ignore_damage(mut self, ignore: bool) -> Options {
        self.ignore_damage = ignore;
        self
    }

    /// Sets the share of dead bytes in the store from which the handle compacts it in the
    /// background. The default is 0.5; `None` turns background compaction off.
    ///
    /// The handle checks after a removal, after it starts a new segment, and when it is closed, for
    /// at most five seconds. It compacts if that frees at least this share and at least two
    /// segments, or if it can join 64 small segments. Open segments do not count. Segments in which
    /// all values are dead are removed whatever the share. The work runs on a thread of the handle,
    /// which ends with the handle.
    pub fn compaction_dead_share(mut self, share: impl Into<Option<f64>>) -> Options {
        self.compaction_dead_share = share.into();
        self
    }

    /// Limits the bytes of values that a compaction copies per second. The default is no limit.
    pub fn compaction_bytes_per_second(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.compaction_bytes_per_second = bytes.into();
        self
    }

    /// Limits the live bytes that one run of a compaction copies, and so the additional disk space
    /// that it needs. The default is 1 GiB. A segment with more live bytes is a run of its own.
    pub fn compaction_run_bytes(mut self, bytes: u64) -> Options {
        self.compaction_run_bytes = bytes;
        self
    }

    /// Limits the disk space of the store's segments, in bytes. The default is no limit.
    ///
    /// A write that needs a new segment beyond the limit fails before it writes anything. Deletes
    /// and clears still work, in segments no longer than they need. The limit is checked when a
    /// segment is created, so two processes that create one at the same moment may together exceed
    /// it. The limit does not apply to a compaction, since it frees more than it takes. During a
    /// run, its output exists alongside its inputs; afterwards the output counts against the limit.
    pub fn max_store_bytes(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.max_store_bytes = bytes.into();
        self
    }

    /// Sets how many dead segments of full length a temporary store keeps for recycling, which is
    /// faster than creating files. The default is 8; 0 turns recycling off.
    ///
    /// If a store is filled and cleared repeatedly, set it to the number of segments of one fill.
    /// Other stores remove dead segments.
    pub fn recycled_segments(mut self, segments: usize) -> Options {
        self.recycled_segments = segments;
        self
    }

    /// Sets whether a read drops the pages that it fetched from disk once it has read them. The
    /// default is false.
    ///
    /// Set it for values that are read once and do not fit into memory; it leaves the page cache to
    /// writes and to other processes. If all pages of a read were in memory before, they
    /// stay. A [`pop`](crate::Partd::pop) and a compaction always drop the pages that they fetched.
    pub fn release_after_read(mut self, release: bool) -> Options {
        self.release_after_read = release;
        self
    }

    /// Limits the bytes of values that one read may return, for all its keys together. The default
    /// is no limit.
    ///
    /// A larger read fails before it allocates memory, and a larger pop fails without removing
    /// anything. The limit does not apply to calls that lend values and copy nothing, such as
    /// [`view`](crate::SegmentLog::view), [`visit`](crate::Partd::visit) and
    /// [`visit_unverified`](crate::SegmentLog::visit_unverified).
    pub fn max_read_bytes(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.max_read_bytes = bytes.into();
        self
    }

    /// Sets the number of appended bytes after which the handle begins to write its appends to disk
    /// early, without waiting for them. With `None`, the kernel decides when. The default is a
    /// quarter of the smallest memory limit of the process's cgroup and its ancestors, and `None`
    /// without a limit. The limit is read once per process.
    ///
    /// Under a limit, dirty pages can fill the cgroup before the kernel starts writeback by itself,
    /// and appends then wait for the disk. Without one, bytes that are soon deleted may never have
    /// to be written. The count is of all that the handle has ever appended, deleted or not, so a
    /// handle that lives long and deletes much may want `None`; and each handle counts its own, so
    /// many that write in one cgroup may want a smaller number.
    pub fn write_back_after_bytes(mut self, bytes: impl Into<Option<u64>>) -> Options {
        self.write_back_after = bytes.into().map_or(WriteBackAfter::Never, WriteBackAfter::Bytes);
        self
    }

    /// Sets whether [`open`](Options::open) creates a store if there is none. The default is true.
    ///
    /// If false, a path without a store is an error, so a mistyped path creates nothing:
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use partd::{ErrorKind, SegmentLog};
    /// let path = dir.path().join("stroe");
    /// let error = SegmentLog::options().create(false).open(&path).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotAStore);
    /// assert!(!path.exists());
    /// ```
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// Sets the thread pool for large reads, and for the layers over the store, which encode and
    /// decode in it. The default is a pool of partd that the whole process shares, with one thread
    /// per core or as many as `RAYON_NUM_THREADS` says.
    ///
    /// A call inside a rayon task always uses the pool of that task. If no thread can be started,
    /// or no thread of the pool has answered yet, the calling thread does the work. The threads of
    /// a pool do not exist in a child of `fork`, so a store that is opened there uses threads of
    /// its own.
    ///
    /// To index many entries, a read starts as many threads as the pool has, but at most three
    /// beside its own: they work under a lock of the handle, which tasks in the pool may need.
    ///
    /// A read waits for the threads of the pool. Do not read while you hold a lock that a task in
    /// the same pool may need.
    pub fn thread_pool(mut self, pool: Arc<rayon::ThreadPool>) -> Options {
        self.thread_pool = Some(LentPool::new(pool));
        self
    }

    /// Checks that the options are in range, for a store at `path`.
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

    /// Returns the length of a segment in bytes, rounded up to whole pages.
    pub(crate) fn segment_len(&self) -> u64 {
        self.segment_len_bytes.next_multiple_of(4096)
    }

    /// Returns the number of bytes of a segment that are reserved for deletes and clears, so that a
    /// full disk does not stop them from freeing space.
    pub(crate) fn reserve(&self) -> u64 {
        (self.segment_len() / 64).min(64 << 10)
    }

    /// Returns the length of the file that reserves disk space for deletes and clears on a full
    /// disk.
    pub(crate) fn reserve_file_len(&self) -> u64 {
        (self.segment_len() / 64).clamp(RESERVE_MIN_BYTES, 1 << 20).next_multiple_of(4096)
    }

    /// Returns the length of the file that reserves disk space for a compaction output: a sixteenth
    /// of the segments' disk space, up to one segment, so that any of them can be rewritten.
    pub(crate) fn output_reserve_len(&self, disk_bytes: u64) -> u64 {
        let share = disk_bytes / 16;
        share.clamp(RESERVE_MIN_BYTES, self.segment_len()).next_multiple_of(4096)
    }
}
