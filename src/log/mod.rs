//! The segment log: a store in fixed-size mapped files that many threads and processes append to.
//!
//! Its files lie on floors. What stands on one knows those below it and nobody above; `tests/tidy` checks it.
//!
//! | floor | what it owns |
//! |---|---|
//! | [`fs`] | the file-system abstraction, the file system of Linux behind it, mappings, and the open directory of a store |
//! | [`shared`] | the words that processes share, and the protocol that gives batches their numbers |
//! | `store`, `options` | what is open, and how: every floor above borrows it |
//! | `segment` | one segment file: who may touch which of its bytes, the walker of its batches, and space for new ones |
//! | `write` | claim, copy, commit |
//! | `read` | what a reader knows, how it keeps up, and values out of extents |
//! | `pop` | a read and a removal as one step |
//! | `open` | opening, alone or not, after a crash or not; stores that are removed with their handle |
//! | `verify`, `stats` | every checksum of every segment; counts |
//! | `maintain` | stable storage, compaction, and the thread that compacts by itself |

pub mod fs;
mod maintain;
mod open;
mod options;
mod pop;
mod read;
mod segment;
pub mod shared;
mod stats;
mod store;
mod verify;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::maintain::compaction::{Compaction, Skipped};
pub use self::options::Options;
pub use self::read::view::View;
pub use self::stats::Stats;
pub use self::verify::Verified;

use self::fs::{Disk, OsDisk};
use self::maintain::background::{Background, drop_gone};
use self::maintain::compaction::{Aim, Stop, compact};
use self::maintain::engine::Engine;
use self::open::Opened;
use self::open::sweep::sweep;
use crate::Key;
use crate::error::{Error, Result};
use crate::partd::{Batch, Chunks, Durability, Partd};
use crate::threads;

/// A store on disk: a log of mapped segment files in a directory.
///
/// Any number of threads and up to 1,024 writing handles, of any processes on one machine, use a
/// directory at once. Batches are atomic and have one order, which every handle sees; once an
/// operation has returned, every later one sees what it did. `kill -9` of any process loses nothing
/// that was acknowledged; a power cut leaves the store as it was at one moment, at or after the last
/// [`append_durable`](Partd::append_durable) or [`sync`](Partd::sync) that returned.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("store");
/// use partd::{Partd, SegmentLog};
/// let p = SegmentLog::open(&path)?;
/// p.append([("x", "Hello "), ("y", "123")])?;
/// p.append([("x", "world!"), ("y", "456")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
///
/// No operation waits for a process that is dead. Two may wait for one that is stopped. A sync, and so a
/// compaction, waits half a second for another process that syncs and makes no progress, then does the
/// work itself.
/// Opening waits up to 30 seconds for a process that opens the store alone, as the first of all does,
/// and recovers it if need be; then it returns an error. It waits two seconds for one that was stopped
/// between taking its two locks.
///
/// Opened before a `fork`, a handle serves the parent alone; in the child it gives an error.
/// A disk that fails under a mapping can end the process with SIGBUS, as with every mapped file.
pub struct SegmentLog<D: Disk = OsDisk> {
    engine: Arc<Engine<D>>,
    background: Background,
}

impl SegmentLog {
    /// Opens a store, and makes it if it is missing.
    ///
    /// # Errors
    /// An error that names the path and says what to do: where the path is a file, or a directory
    /// that holds other things; for a store of a newer format, of another machine's file system, or
    /// damaged below what was synced; and where the rights are missing.
    pub fn open(path: impl AsRef<Path>) -> Result<SegmentLog> {
        Options::default().open(path)
    }

    /// Opens a store for reading; no file of it is changed. (On overlayfs its control file is copied up.)
    ///
    /// A store that is in use, or was closed, is followed as it grows. One that needs recovery is
    /// read as recovery would leave it, which is worked out in memory; that handle stays at that
    /// moment, and gives errors once somebody has opened the store for writing.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<SegmentLog> {
        Options::default().open_read_only(path)
    }

    /// Makes a store in the directory for temporary files, which is removed with the handle.
    pub fn temporary() -> Result<SegmentLog> {
        Options::default().temporary()
    }

    /// Removes the temporary stores in a directory whose handles are gone: those of processes that
    /// were killed. Returns what was removed; one that is in use is left alone.
    pub fn sweep(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep(&OsDisk, dir.as_ref())
    }

    /// The options to open a store with.
    pub fn options() -> Options {
        Options::default()
    }
}

impl<D: Disk> SegmentLog<D> {
    fn of(opened: Opened<D>) -> SegmentLog<D> {
        let engine = Engine::new(opened.store, opened.reader);
        SegmentLog { engine: Arc::new(engine), background: Background::new() }
    }

    /// [`sweep`](SegmentLog::sweep) on a disk other than that of the operating system.
    #[doc(hidden)]
    pub fn sweep_on(disk: &D, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep(disk, dir.as_ref())
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        self.engine.store.directory.path()
    }

    /// The key's value as chunks that borrow the mapped segments; nothing is copied.
    pub fn view(&self, key: impl Into<Key>) -> Result<View<D>> {
        let Engine { store, reader, .. } = &*self.engine;
        View::new(reader.snapshot(store, &[key.into()])?, store.pool())
    }

    /// Rewrites the live values of all sealed segments, each key's in one piece, and removes what is
    /// dead. Runs beside everything that other threads and processes do.
    ///
    /// Where another compaction is under way, it returns at once; [`Compaction::skipped`] says so.
    /// It waits for no reader and no pop, however slow: those keep what they need.
    ///
    /// # Errors
    /// On damage, after a failed sync, and on a full disk where not even one segment could be
    /// rewritten: the store is then as it was. Where the disk allows a part of it, that is done.
    pub fn compact(&self) -> Result<Compaction> {
        self.engine.store.check_writable()?;
        compact(&self.engine, Aim::Everything, &Stop::default())
    }

    /// Counts what the store holds.
    pub fn stats(&self) -> Result<Stats> {
        let Engine { store, reader, writer, .. } = &*self.engine;
        stats::count(store, reader, &writer.space)
    }

    /// Walks every segment of the store as it is now, and compares every checksum in it: of headers,
    /// links, states, batches and values, also of values that were deleted and lie there still.
    ///
    /// Several threads share the work. What is appended meanwhile is not looked at.
    ///
    /// # Errors
    /// The first damage that is found, with its file and offset.
    pub fn verify(&self) -> Result<Verified> {
        verify::verify(&self.engine.store, &self.engine.reader)
    }
}

impl<D: Disk> Drop for SegmentLog<D> {
    fn drop(&mut self) {
        if self.engine.store.is_forked() {
            // The locks and the slot are the parent's; closing our copies of them changes nothing.
            return;
        }
        self.background.close(&self.engine);
        // The thread has ended, so that nobody else has it.
        if let Some(engine) = Arc::get_mut(&mut self.engine) {
            engine.close();
        }
    }
}

impl<D: Disk> fmt::Debug for SegmentLog<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLog").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl<D: Disk> Partd for SegmentLog<D> {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let Engine { store, writer, syncer, .. } = &*self.engine;
        self.check(durability)?;
        let (sequence, removes) = if batch.is_empty() {
            (store.visible(), false)
        } else {
            let written = match writer.write(store, batch) {
                // What is dead as a whole makes room at once, without a copy.
                Err(Error::StoreFull { .. }) if drop_gone(&self.engine)? => {
                    writer.write(store, batch)
                }
                written => written,
            };
            let written = written.inspect_err(|error| {
                if matches!(error, Error::StoreFull { .. }) {
                    self.background.removed(&self.engine);
                }
            })?;
            (written.sequence, written.removes)
        };
        self.background.wrote(&self.engine);
        if removes {
            self.background.removed(&self.engine);
        }
        match durability {
            Durability::Plain => Ok(()),
            Durability::Durable => syncer.sync_to(store, sequence),
        }
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let Engine { store, reader, .. } = &*self.engine;
        let snapshot = reader.snapshot(store, keys)?;
        snapshot.check_read(store)?;
        snapshot.values(store.pool())
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let Engine { store, reader, writer, .. } = &*self.engine;
        store.check_writable()?;
        let values = pop::take(store, reader, writer, keys)?;
        self.background.removed(&self.engine);
        Ok(values)
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        let Engine { store, reader, .. } = &*self.engine;
        reader.with_version(store, |version| {
            keys.iter().map(|key| version.index.get(key.as_bytes()).map(|slot| slot.len)).collect()
        })
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let Engine { store, reader, .. } = &*self.engine;
        let mut keys: Vec<Key> = reader.with_version(store, |version| {
            version.index.keys().map(|slot| slot.key.clone()).collect()
        })?;
        threads::sort(store.pool(), &mut keys);
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        let Engine { store, syncer, .. } = &*self.engine;
        store.check_writable()?;
        syncer.sync_to(store, store.visible())
    }

    #[inline]
    fn check(&self, durability: Durability) -> Result<()> {
        let store = &self.engine.store;
        store.check_writable()?;
        match durability {
            Durability::Plain => Ok(()),
            // Nothing is written that could not be promised.
            Durability::Durable => store.check_sync(store.control()?),
        }
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let Engine { store, reader, .. } = &*self.engine;
        let snapshot = reader.snapshot(store, keys)?;
        visit(&snapshot.chunks(store.pool())?)
    }
}

impl Options {
    /// Opens a store for reading and writing, and makes it if it is missing.
    ///
    /// # Errors
    /// See [`SegmentLog::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<SegmentLog> {
        self.open_on(OsDisk, path)
    }

    /// Opens a store for reading alone; nothing in it is changed. See
    /// [`SegmentLog::open_read_only`].
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<SegmentLog> {
        self.open_read_only_on(OsDisk, path)
    }

    /// Makes a store that is removed with its handle, in the directory for temporary files.
    pub fn temporary(&self) -> Result<SegmentLog> {
        self.temporary_in(std::env::temp_dir())
    }

    /// Makes a store that is removed with its handle, in a directory of your choice.
    pub fn temporary_in(&self, dir: impl AsRef<Path>) -> Result<SegmentLog> {
        self.temporary_in_on(OsDisk, dir)
    }

    /// [`temporary_in`](Options::temporary_in) on a disk other than that of the operating system.
    #[doc(hidden)]
    pub fn temporary_in_on<D: Disk>(
        &self,
        disk: D,
        dir: impl AsRef<Path>,
    ) -> Result<SegmentLog<D>> {
        self.check(dir.as_ref())?;
        open::temporary::temporary(disk, dir.as_ref(), self).map(SegmentLog::of)
    }

    /// [`open`](Options::open) on a disk other than that of the operating system.
    #[doc(hidden)]
    pub fn open_on<D: Disk>(&self, disk: D, path: impl AsRef<Path>) -> Result<SegmentLog<D>> {
        self.check(path.as_ref())?;
        open::open(disk, path.as_ref(), self).map(SegmentLog::of)
    }

    /// [`open_read_only`](Options::open_read_only) on a disk other than that of the operating
    /// system.
    #[doc(hidden)]
    pub fn open_read_only_on<D: Disk>(
        &self,
        disk: D,
        path: impl AsRef<Path>,
    ) -> Result<SegmentLog<D>> {
        open::read_only::open_read_only(disk, path.as_ref(), self).map(SegmentLog::of)
    }
}
