//! Disk space for new segments: within the size limit of the store, from recycled segments if there
//! are any, and from the reserves if the disk is full.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::log::fs::names::{OUTPUT_RESERVE, RESERVE, segment_name};
use crate::log::fs::{Dir, Disk, is_full};
use crate::log::segment::recycle::Recycler;
use crate::log::segment::unpublished::Unpublished;
use crate::log::store::Store;

/// The reserves stop growing after this number of segments.
const RESERVED_FOR_MAX: usize = 16;

/// How long to wait for the space of unlinked files: many times what a program needs to start, and
/// short for a caller that gets an error in the end.
const FREED_PATIENCE: Duration = Duration::from_millis(500);
/// How often to try.
const FREED_PAUSE: Duration = Duration::from_millis(10);

/// A handle's record of the disk space for its segments.
#[derive(Debug)]
pub(crate) struct Space<D: Disk> {
    pub(crate) recycler: Recycler<D::File>,
    /// Whether the store has its reserves, as far as this handle has checked.
    has_reserves: AtomicBool,
    /// The number of segments that the handle has created.
    made: AtomicUsize,
}

impl<D: Disk> Space<D> {
    pub(crate) fn new() -> Space<D> {
        let has_reserves = AtomicBool::new(false);
        Space { recycler: Recycler::new(), has_reserves, made: AtomicUsize::new(0) }
    }

    /// The length of a new segment within the size limit of the store: `len`, or the rest of the
    /// limit if that is at least `least` and a quarter of `len`. The output of a compaction, a few
    /// KiB, therefore does not cost a whole segment of the limit.
    pub(crate) fn room_for(&self, store: &Store<D>, len: u64, least: u64) -> Result<u64> {
        match self.check(store, len) {
            Err(Error::StoreFull { used, max, .. })
                if max.saturating_sub(used) >= least.max(len / 4) =>
            {
                Ok((max - used) & !4095)
            }
            checked => checked.map(|()| len),
        }
    }

    /// Fails if a new segment of `len` bytes would exceed the size limit of the store.
    pub(crate) fn check(&self, store: &Store<D>, len: u64) -> Result<()> {
        let Some(max) = store.options.max_store_bytes else { return Ok(()) };
        let used = || -> Result<u64> {
            let mut used = self.recycler.disk_bytes(store);
            for_each_segment(store, |bytes| used += bytes)?;
            Ok(used)
        };
        // A new segment of the usual length reuses a recycled one and takes no further space. For
        // other lengths, unlinking the recycled segments may make room.
        if self.recycler.len() > 0 && len == store.options.segment_len()
            || used()? + len <= max
            || self.recycler.drop_all(store)? && used()? + len <= max
        {
            return Ok(());
        }
        let path = store.directory.path().to_path_buf();
        Err(Error::StoreFull { path, used: used()?, needed: len, max })
    }

    /// Provides a file for a writer's segment: a recycled one, or a new one.
    pub(crate) fn recycled_or_new<'s>(
        &self,
        store: &'s Store<D>,
        name: &str,
        len: u64,
    ) -> Result<Unpublished<'s, D>> {
        match self.recycler.take_of_len(store, len) {
            Some((name, file)) => Unpublished::of_file(&store.directory, name, file, true),
            None => self.new_file(store, name, len),
        }
    }

    /// Creates a file for a segment. If the disk is full, first frees the segments that wait for
    /// reuse.
    pub(crate) fn new_file<'s>(
        &self,
        store: &'s Store<D>,
        name: &str,
        len: u64,
    ) -> Result<Unpublished<'s, D>> {
        let create = || Unpublished::create(&store.directory, name, len, &store.uuid);
        match create() {
            Err(error) if is_full(&error) && self.recycler.drop_all(store)? => {
                // An append holds the writer's lock here, so other appends of the handle wait too.
                wait_for_freed(create, || false)
            }
            created => created,
        }
    }

    /// Takes a reserve of at least `len` bytes. It is replaced once there is space again.
    pub(crate) fn take_reserve<'s>(
        &self,
        store: &'s Store<D>,
        reserve: &str,
        name: &str,
        len: u64,
    ) -> Result<Option<Unpublished<'s, D>>> {
        let directory = &store.directory;
        let Some(file) = directory.take_reserve(reserve, name, len, &store.uuid)? else {
            return Ok(None);
        };
        self.has_reserves.store(false, Ordering::Relaxed);
        Unpublished::of_file(directory, name.to_owned(), file, false).map(Some)
    }

    /// Counts a new segment of this handle, and creates or enlarges the reserves if needed. The
    /// reserves must exist before the disk is full. No other process may use the name `unfinished`.
    pub(crate) fn count_new_segment(&self, store: &Store<D>, unfinished: &str) {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let grows = made.is_power_of_two() && made <= RESERVED_FOR_MAX;
        if grows || !self.has_reserves.load(Ordering::Relaxed) {
            self.keep_reserves(store, unfinished);
        }
    }

    /// Creates reserves that suffice for the existing segments. No other process may use the name
    /// `unfinished`.
    pub(crate) fn keep_reserves(&self, store: &Store<D>, unfinished: &str) {
        if store.is_temporary {
            return;
        }
        let (directory, options, uuid) = (&store.directory, &store.options, &store.uuid);
        let Ok(ids) = directory.segment_ids() else { return };
        let disk_bytes = |id: u64| directory.dir.disk_bytes(&segment_name(id)).unwrap_or(0);
        let used = ids.into_iter().map(disk_bytes).sum();
        let lens = [options.reserve_file_len(), options.output_reserve_len(used)];
        for (name, len) in [RESERVE, OUTPUT_RESERVE].into_iter().zip(lens) {
            directory.keep_reserve(name, len, unfinished, uuid);
        }
        self.has_reserves.store(true, Ordering::Relaxed);
    }
}

/// Calls `create` again while the disk is full, for up to [`FREED_PATIENCE`] or until `is_due`
/// returns true. Files that were unlinked before, by any process, may still give their space back.
///
/// The kernel frees an unlinked file when its last descriptor and mapping are gone. Between `fork`
/// and `exec`, a program that another thread starts holds copies of all of them.
pub(crate) fn wait_for_freed<T>(
    mut create: impl FnMut() -> Result<T>,
    is_due: impl Fn() -> bool,
) -> Result<T> {
    let since = Instant::now();
    loop {
        match create() {
            Err(error) if is_full(&error) && since.elapsed() < FREED_PATIENCE && !is_due() => {
                thread::sleep(FREED_PAUSE);
            }
            done => return done,
        }
    }
}

/// Calls `each` with the disk space of each segment file, without opening the files.
pub(crate) fn for_each_segment<D: Disk>(store: &Store<D>, mut each: impl FnMut(u64)) -> Result<()> {
    let directory = &store.directory;
    for name in directory.segment_ids()?.into_iter().map(segment_name) {
        match directory.dir.disk_bytes(&name) {
            // A compaction has removed the segment meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            bytes => each(bytes.map_err(|error| directory.error("measure", &name, error))?),
        }
    }
    Ok(())
}
