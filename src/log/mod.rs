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

mod background;
pub mod commit;
mod compaction;
mod control;
mod discovery;
pub mod disk;
mod index;
mod open;
mod options;
mod outputs;
mod pop;
mod read;
mod recovery;
mod recycle;
pub(crate) mod segment;
mod store;
mod sync;
mod temporary;
mod verify;
mod version;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use self::compaction::{Compaction, Skipped};
pub use self::options::Options;
pub use self::read::View;
pub use self::verify::Verified;

use self::background::Background;
use self::compaction::{Aim, Stop};
use self::control::Control;
use self::disk::{Dir, Disk, DiskFile, FileId, OsDisk};
use self::read::Snapshot;
use self::recycle::Recycler;
use self::segment::Segment;
use self::segment::mapping::ForkMark;
use self::store::CONTROL;
use self::store::{Store, segment_name};
use self::sync::Syncer;
use self::version::Version;
use self::writer::Writer;
use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::threads::{self, LentPool};

/// A store on disk: a log of memory-mapped segment files in a directory.
///
/// Any number of threads, and up to 1,024 writing handles in any processes of one machine, can use
/// a directory at the same time. Batches are atomic and have one order, which every handle sees.
/// Once an operation returns, every operation that starts later sees its effect. `kill -9` of any
/// process loses nothing acknowledged. A power cut leaves the store as it was at one moment, at or
/// after the last [`append_durable`](Partd::append_durable) or [`sync`](Partd::sync) that returned.
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
/// No operation waits for a dead process, and only two may wait for a stopped one:
///
/// - A sync, and so a compaction, waits half a second for another process whose sync makes no
///   progress, then does the work itself.
/// - Opening waits up to 30 seconds for a process that holds the store exclusively, as the first
///   process to open it does to create or recover it, and two seconds for one that was stopped
///   between taking its two locks. Then it returns an error.
///
/// After a `fork`, a handle works only in the parent; in the child it returns an error. A disk that
/// fails under a mapping can end the process with SIGBUS, as with every mapped file.
pub struct SegmentLog<D: Disk = OsDisk> {
    core: Arc<Core<D>>,
    background: Background,
}

/// What a handle is made of.
#[derive(Debug)]
pub(crate) struct Core<D: Disk> {
    store: Store<D>,
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

/// The counters that [`SegmentLog::stats`] returns.
///
/// They describe one moment, except `disk_bytes`, `segments_recycled` and `compactions`, which are
/// taken slightly later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The sequence number of the last batch.
    pub sequence: u64,
    /// The sequence number up to which everything is on stable storage.
    pub durable_seq: u64,
    /// The number of keys.
    pub keys: u64,
    /// The number of extents that hold the values of all keys.
    pub extents: u64,
    /// The total length of the values of all keys, in bytes.
    pub live_bytes: u64,
    /// The bytes of values in the segments that no longer belong to a key.
    pub dead_bytes: u64,
    /// The batches in the segments, compaction outputs included.
    pub batches: u64,
    /// The deletes and clears in the segments.
    pub removals: u64,
    /// The segments that may still get batches.
    pub segments_open: u64,
    /// The segments of writers that get no more batches.
    pub segments_sealed: u64,
    /// The compaction outputs.
    pub segments_compacted: u64,
    /// The total length of all segment files, in bytes.
    pub segment_bytes: u64,
    /// The dead segments that a temporary store keeps for recycling.
    pub segments_recycled: u64,
    /// The disk space of all segments, in bytes. It is less than their length if closed handles
    /// have freed unused space.
    pub disk_bytes: u64,
    /// The compactions since the control file was created.
    pub compactions: u64,
    /// The memory of this handle's index, in bytes.
    pub index_bytes: u64,
    /// The bytes of segment files that the handle has mapped for reading. This is address space:
    /// only pages that were used recently are in memory, and the system can reclaim them at any
    /// time.
    pub mapped_bytes: u64,
}

impl Stats {
    /// Returns the number of segment files.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segments_open + self.segments_sealed + self.segments_compacted
    }
}

impl SegmentLog {
    /// Opens a store for reading and writing, and creates it if there is none.
    ///
    /// # Errors
    ///
    /// The error names the path and says what to do. Its [kind](Error::kind) is
    ///
    /// - [`NotAStore`](ErrorKind::NotAStore) if the path is a file, or a directory with other
    ///   files;
    /// - [`NewerVersion`](ErrorKind::NewerVersion) if the store has a newer format;
    /// - [`UnsupportedFileSystem`](ErrorKind::UnsupportedFileSystem) on a network file system;
    /// - [`Corrupt`](ErrorKind::Corrupt) if bytes that were synced are damaged;
    /// - [`Busy`](ErrorKind::Busy) if another process has the store locked for too long, or the
    ///   store is temporary;
    /// - [`ReadOnly`](ErrorKind::ReadOnly) if this process may not write to the store;
    /// - [`Io`](ErrorKind::Io) if another system call fails.
    pub fn open(path: impl AsRef<Path>) -> Result<SegmentLog> {
        Options::default().open(path)
    }

    /// Opens a store for reading, and changes no file in it. (On overlayfs, opening copies up the
    /// control file.)
    ///
    /// The handle follows a store that is in use or was closed cleanly. If a store needs recovery,
    /// the handle recovers it in memory only and shows that state; once another handle has opened
    /// the store for writing, it returns errors.
    ///
    /// # Errors
    ///
    /// Those of [`open`](SegmentLog::open), and [`NotAStore`](ErrorKind::NotAStore) if there is no
    /// store.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<SegmentLog> {
        Options::default().open_read_only(path)
    }

    /// Creates a store in the directory for temporary files, and removes it when the handle is
    /// dropped.
    ///
    /// A temporary store belongs to one handle. It syncs nothing, and recycles its dead segments.
    ///
    /// # Errors
    ///
    /// Those of [`open`](SegmentLog::open).
    pub fn temporary() -> Result<SegmentLog> {
        Options::default().temporary()
    }

    /// Removes the temporary stores in a directory that killed processes left behind, and returns
    /// their paths. Stores in use stay.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) if the directory cannot be read, or a store cannot be removed.
    pub fn sweep(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        temporary::sweep(&OsDisk, dir.as_ref())
    }

    /// Returns the default options, to change them and open a store.
    pub fn options() -> Options {
        Options::default()
    }
}

impl<D: Disk> SegmentLog<D> {
    /// [`sweep`](SegmentLog::sweep) on a disk other than that of the operating system.
    #[doc(hidden)]
    pub fn sweep_on(disk: &D, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        temporary::sweep(disk, dir.as_ref())
    }

    /// Returns the path at which the store was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.core.store.path()
    }

    /// Returns the key's value as chunks that borrow the mapped segments, without a copy.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("x", "world!")])?;
    /// let view = p.view("x")?;
    /// p.delete(["x"])?; // the view keeps its bytes
    /// assert_eq!(view.chunks().collect::<Vec<_>>().concat(), b"Hello world!");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read`](Partd::read), except that a view has no limit on its length.
    pub fn view(&self, key: impl Into<Key>) -> Result<View<D>> {
        View::new(self.core.snapshot(&[key.into()])?, self.core.pool())
    }

    /// Rewrites the live values of all sealed segments, with each key's value in one piece, and
    /// frees the dead bytes. Other threads and processes can use the store meanwhile.
    ///
    /// If another compaction is running, this one returns at once, and [`Compaction::skipped`] says
    /// so. It never waits for a reader or a pop; they keep the segments that they need.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) on damage, [`SyncFailed`](ErrorKind::SyncFailed) after a
    /// failed sync, [`ReadOnly`](ErrorKind::ReadOnly) on a read-only handle, and
    /// [`DiskFull`](ErrorKind::DiskFull) if not even one segment can be rewritten. The store is
    /// then unchanged. If the disk has room for a part of the work, that part is done.
    pub fn compact(&self) -> Result<Compaction> {
        self.core.check_writable()?;
        self.core.compact(Aim::Everything, &Stop::default())
    }

    /// Counts what the store holds.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) on damage, [`Io`](ErrorKind::Io) if a segment cannot be
    /// opened, and [`Forked`](ErrorKind::Forked) in a child of `fork`.
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

    /// Checks every checksum in every segment of the store: of headers, links, states, batches and
    /// values, deleted values included.
    ///
    /// Several threads share the work. Batches appended during the check are not checked.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) with the file and offset of the first damage found, and
    /// [`Io`](ErrorKind::Io) if a segment cannot be opened.
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

    /// Fails if the store was recovered since this handle has worked out how: others then write to
    /// it, and this handle would not see it.
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
                if let Ok(Some(files)) = temporary::remove(&self.store, None) {
                    let version = std::mem::take(&mut self.version);
                    let recycler = std::mem::replace(&mut self.recycler, Recycler::new());
                    let writer = std::mem::replace(&mut self.writer, Writer::new(0));
                    temporary::give_back(files, (version, recycler, writer));
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
