//! The segment log: a store in fixed-size mapped files that many threads and processes append to.
//!
//! | file | what it owns |
//! |---|---|
//! | `store` | the directory of a store, which everything else stands on |
//! | `disk` | the file-system abstraction, and the file system of Linux behind it |
//! | `segment` | one segment file, and who may touch which of its bytes |
//! | `control` | the words that processes share |
//! | `commit` | the protocol that gives batches their numbers |
//! | `writer` | claim, copy, commit |
//! | `discovery`, `version`, `index` | what a reader knows, and how it keeps up |
//! | `read` | values out of extents |
//! | `pop` | a read and a removal as one step |
//! | `verify` | every checksum of every segment |
//! | `sync` | stable storage, one sync for all who wait |
//! | `compaction` | space: live entries move together, the rest goes |
//! | `recycle` | dead segments that a temporary store writes again |
//! | `background` | when a handle compacts by itself |
//! | `open`, `recovery` | opening, alone or not, after a crash or not |
//! | `temporary` | stores that are removed with their handle |

pub mod fs;
mod maintain;
mod open;
mod options;
mod pop;
mod read;
mod segment;
pub mod shared;
mod verify;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use self::maintain::compaction::{Compaction, Skipped};
pub use self::options::Options;
pub use self::read::view::View;
pub use self::verify::Verified;

use self::fs::mapping::ForkMark;
use self::fs::{Dir, Disk, DiskFile, FileId, OsDisk};
use self::maintain::background::Background;
use self::maintain::compaction::{Aim, Stop};
use self::maintain::sync::Syncer;
use self::read::snapshot::Snapshot;
use self::read::version::Version;
use self::segment::Segment;
use self::segment::recycle::Recycler;
use self::shared::control::Control;
use self::write::Writer;
use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::CONTROL;
use crate::log::fs::names::segment_name;
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::threads::{self, LentPool};

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
    core: Arc<Core<D>>,
    background: Background,
}

/// What a handle is made of.
#[derive(Debug)]
pub(crate) struct Core<D: Disk> {
    store: Directory<D>,
    options: Options,
    uuid: [u8; 16],
    /// None where a store that nobody has open is read as it lies.
    control: Option<Control<D>>,
    /// In place of a control file, where the store is read as recovery would leave it.
    frozen: Option<Frozen>,
    /// In the order in which they are given back.
    locks: Vec<D::Lock>,
    mark: ForkMark,
    is_read_only: bool,
    is_temporary: bool,
    writer: Writer<D>,
    version: RwLock<Version<D>>,
    syncer: Syncer<D>,
    recycler: Recycler<D::File>,
}

/// A store as recovery would leave it.
#[derive(Clone, Copy, Debug)]
struct Frozen {
    /// The last number of the history.
    sequence: u64,
    /// The control file that was there.
    control: Option<FileId>,
}

/// What [`SegmentLog::stats`] counts. What it says of the history, the keys and the segments is as of
/// one moment; `disk_bytes`, `segments_recycled` and `compactions` are as of a moment a little later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The sequence number of the last batch.
    pub sequence: u64,
    /// The sequence number up to which everything is on stable storage.
    pub durable_seq: u64,
    /// The number of keys.
    pub keys: u64,
    /// The pieces in which the values of all keys lie.
    pub extents: u64,
    /// The bytes of the values of all keys.
    pub live_bytes: u64,
    /// The bytes of values that are in the segments and in no key's value any more.
    pub dead_bytes: u64,
    /// The batches in the segments; those of a compaction's output among them.
    pub batches: u64,
    /// The deletes and clears in the segments.
    pub removals: u64,
    /// The segments that writers may still add to.
    pub segments_open: u64,
    /// The segments of writers that will not change any more.
    pub segments_sealed: u64,
    /// The segments that compactions have written.
    pub segments_compacted: u64,
    /// The lengths of all segment files, in bytes.
    pub segment_bytes: u64,
    /// The dead segments that a temporary store keeps to write them again.
    pub segments_recycled: u64,
    /// The disk space that all segments take, in bytes: less than their lengths where closed handles gave
    /// back what they had not used.
    pub disk_bytes: u64,
    /// The compactions that were done since the control file was made.
    pub compactions: u64,
    /// The memory that the index takes, in bytes. It is the handle's own.
    pub index_bytes: u64,
    /// The bytes of segment files that the handle has mapped to read them: address space, of which only
    /// what was touched lately is in memory, in pages that the system can take back at any time.
    pub mapped_bytes: u64,
}

impl Stats {
    /// The number of segment files.
    pub fn segments(&self) -> u64 {
        self.segments_open + self.segments_sealed + self.segments_compacted
    }
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
        open::temporary::sweep(&OsDisk, dir.as_ref())
    }

    /// The options to open a store with.
    pub fn options() -> Options {
        Options::default()
    }
}

impl<D: Disk> SegmentLog<D> {
    /// [`sweep`](SegmentLog::sweep) on a disk other than that of the operating system.
    #[doc(hidden)]
    pub fn sweep_on(disk: &D, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        open::temporary::sweep(disk, dir.as_ref())
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        self.core.store.path()
    }

    /// The key's value as chunks that borrow the mapped segments; nothing is copied.
    pub fn view(&self, key: impl Into<Key>) -> Result<View<D>> {
        View::new(self.core.snapshot(&[key.into()])?, self.core.pool())
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
        self.core.check_writable()?;
        self.core.compact(Aim::Everything, &Stop::default())
    }

    /// Counts what the store holds.
    pub fn stats(&self) -> Result<Stats> {
        let core = &*self.core;
        let control = core.control.as_ref();
        let (mut stats, names) = core.with_walked_version(|version| {
            let current = || version.current().map(|number| &version.segments[number as usize]);
            let is_output = |segment: &&Arc<Segment<_>>| segment.header().output.is_some();
            let segments = current().count() as u64;
            let compacted = current().filter(is_output).count() as u64;
            let open = version.open.len() as u64;
            let values: u64 = version.value_bytes.iter().sum();
            let stats = Stats {
                sequence: version.sequence,
                // A sync may have moved the mark on since.
                durable_seq: control.map_or(0, Control::durable_seq).min(version.sequence),
                keys: version.index.len() as u64,
                extents: version.index.extents(),
                live_bytes: version.index.live_bytes(),
                dead_bytes: values - version.index.live_bytes(),
                batches: version.applied.batches,
                removals: version.applied.removals,
                segments_open: open,
                segments_sealed: segments - compacted - open,
                segments_compacted: compacted,
                segment_bytes: current().map(|segment| segment.header().len).sum(),
                segments_recycled: core.recycler.len(),
                disk_bytes: 0,
                compactions: control.map_or(0, Control::compactions),
                index_bytes: version.index.memory_bytes(),
                mapped_bytes: version.segments.iter().map(|s| s.file().mapping().len()).sum(),
            };
            (stats, current().map(|segment| segment_name(segment.id())).collect::<Vec<_>>())
        })?;
        // One that a compaction has taken away since takes nothing.
        stats.disk_bytes =
            names.iter().map(|name| core.store.dir.disk_bytes(name).unwrap_or(0)).sum();
        Ok(stats)
    }

    /// Walks every segment of the store as it is now, and compares every checksum in it: of headers,
    /// links, states, batches and values, also of values that were deleted and lie there still.
    ///
    /// Several threads share the work. What is appended meanwhile is not looked at.
    ///
    /// # Errors
    /// The first damage that is found, with its file and offset.
    pub fn verify(&self) -> Result<Verified> {
        verify::verify(&self.core)
    }
}

impl<D: Disk> Drop for SegmentLog<D> {
    fn drop(&mut self) {
        if !self.core.mark.is_forked() {
            self.background.close(&self.core);
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
        let core = &*self.core;
        self.check(durability)?;
        let sequence = match batch.is_empty() {
            true => core.visible(),
            false => match core.writer.write(core, batch) {
                // What is dead as a whole makes room at once, without a copy.
                Err(Error::StoreFull { .. }) if core.drop_gone()? => core.writer.write(core, batch),
                written => written,
            }
            .inspect_err(|error| {
                if matches!(error, Error::StoreFull { .. }) {
                    self.background.removed(&self.core);
                }
            })?,
        };
        self.background.wrote(&self.core);
        if batch.ops().iter().any(|op| matches!(op, Op::Delete(_) | Op::Clear)) {
            self.background.removed(&self.core);
        }
        match durability {
            Durability::Plain => Ok(()),
            Durability::Durable => core.syncer.sync_to(core, sequence),
        }
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let snapshot = self.core.snapshot(keys)?;
        self.core.check_read(&snapshot)?;
        snapshot.values(self.core.pool())
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.core.check_writable()?;
        let values = self.core.take(keys)?;
        self.background.removed(&self.core);
        Ok(values)
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.core.with_version(|version| {
            keys.iter().map(|key| version.index.get(key.as_bytes()).map(|slot| slot.len)).collect()
        })
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let mut keys: Vec<Key> = self
            .core
            .with_version(|version| version.index.keys().map(|slot| slot.key.clone()).collect())?;
        threads::sort(self.core.pool(), &mut keys);
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        let core = &*self.core;
        core.check_writable()?;
        core.syncer.sync_to(core, core.visible())
    }

    #[inline]
    fn check(&self, durability: Durability) -> Result<()> {
        self.core.check_writable()?;
        match durability {
            Durability::Plain => Ok(()),
            // Nothing is written that could not be promised.
            Durability::Durable => self.core.check_sync(self.core.control()?),
        }
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let snapshot = self.core.snapshot(keys)?;
        visit(&snapshot.chunks(self.core.pool())?)
    }
}

impl<D: Disk> Core<D> {
    fn control(&self) -> Result<&Control<D>> {
        self.control
            .as_ref()
            .ok_or_else(|| Error::ReadOnly { path: self.store.path().to_path_buf() })
    }

    /// The last sequence number that is visible now.
    #[inline]
    fn visible(&self) -> u64 {
        let frozen = || self.frozen.map_or(0, |frozen| frozen.sequence);
        self.control.as_ref().map_or_else(frozen, Control::visible)
    }

    /// An error if a read would return more than it may.
    fn check_read(&self, snapshot: &Snapshot<D::File>) -> Result<()> {
        match self.options.max_read_bytes {
            Some(max) if snapshot.bytes() > max => {
                let path = self.store.path().to_path_buf();
                Err(Error::ReadTooLarge { path, bytes: snapshot.bytes(), max })
            }
            _ => Ok(()),
        }
    }

    /// The pool that the handle was lent.
    fn pool(&self) -> Option<&LentPool> {
        self.options.thread_pool.as_ref()
    }

    /// Whether damage is read around; only where nobody else has the store open.
    fn ignores_damage(&self) -> bool {
        self.options.ignore_damage && self.control.is_none()
    }

    #[inline]
    fn directory_epoch(&self) -> u64 {
        self.control.as_ref().map_or(1, Control::directory_epoch)
    }

    #[inline]
    fn check_process(&self) -> Result<()> {
        if self.mark.is_forked() {
            return Err(Error::Forked { path: self.store.path().to_path_buf() });
        }
        Ok(())
    }

    /// Fails if the store was recovered since this handle has worked out how: others then write to it, and this
    /// handle would not see it.
    fn check_frozen(&self) -> Result<()> {
        let Some(frozen) = self.frozen.filter(|_| !self.options.ignore_damage) else {
            return Ok(());
        };
        match self.store.dir.id_of(CONTROL) {
            Ok(now) if Some(now) != frozen.control => {
                let why = "the store needed recovery when this handle was opened for reading, and somebody has \
                           opened it for writing since; open it again to see what was written";
                Err(Error::refused(ErrorKind::Busy, &**self.store.path(), why))
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn check_writable(&self) -> Result<()> {
        self.check_process()?;
        if self.is_read_only {
            return Err(Error::ReadOnly { path: self.store.path().to_path_buf() });
        }
        Ok(())
    }

    /// Looks at the picture as of now.
    fn with_version<T>(&self, look: impl FnOnce(&Version<D>) -> T) -> Result<T> {
        self.check_process()?;
        self.check_frozen()?;
        let version = self.version();
        if version.is_current(self) {
            return Ok(look(&version));
        }
        drop(version);
        let mut version = self.version.write().unwrap_or_else(PoisonError::into_inner);
        version.refresh(self, false)?;
        Ok(look(&version))
    }

    fn version(&self) -> RwLockReadGuard<'_, Version<D>> {
        self.version.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back the memory of the picture.
    fn forget_picture(&self) {
        self.version.write().unwrap_or_else(PoisonError::into_inner).reset();
    }

    /// Looks at the picture as of now, also at which segments were sealed since the last batch.
    fn with_walked_version<T>(&self, look: impl FnOnce(&Version<D>) -> T) -> Result<T> {
        self.check_process()?;
        self.check_frozen()?;
        let mut version = self.version.write().unwrap_or_else(PoisonError::into_inner);
        version.refresh(self, true)?;
        Ok(look(&version))
    }

    /// What some keys hold now.
    fn snapshot(&self, keys: &[Key]) -> Result<Snapshot<D::File>> {
        self.with_version(|version| self.snapshot_of(version, keys))
    }

    fn snapshot_of(&self, version: &Version<D>, keys: &[Key]) -> Snapshot<D::File> {
        let extents =
            |key: &Key| version.index.get(key.as_bytes()).map(|slot| slot.extents.clone());
        let Options { verify_on_read, release_after_read, .. } = self.options;
        let extents = keys.iter().map(extents).collect();
        Snapshot::new(version, extents, verify_on_read, release_after_read)
    }
}

impl<D: Disk> Drop for Core<D> {
    fn drop(&mut self) {
        if self.mark.is_forked() {
            // The locks and the slot are the parent's; closing our copies of them changes nothing.
            return;
        }
        if let Some(control) = self.control.as_ref().filter(|_| !self.is_read_only) {
            self.writer.close(control);
            if self.is_temporary {
                // Nobody is left to tell; what stays behind can be swept later.
                if let Ok(Some(files)) = open::temporary::remove(&self.store, None) {
                    let version = std::mem::take(&mut self.version);
                    let recycler = std::mem::replace(&mut self.recycler, Recycler::new());
                    let writer = std::mem::replace(&mut self.writer, Writer::new(0));
                    open::temporary::give_back(files, (version, recycler, writer));
                }
                return;
            }
            self.locks.clear();
            // Only the last handle gets the lock, and only then nothing more will happen.
            if let Ok(Some(_alone)) = self.store.dir.try_lock(true)
                && control.is_in_place().unwrap_or(false)
                && control.reserve().is_ok()
            {
                control.set_clean();
            }
        }
    }
}
