//! The segment log: a store in fixed-size mapped files that many threads and processes append to.
//!
//! The engine's files form levels. A file imports only from the levels below its own; `tests/tidy`
//! checks this.
//!
//! | level | what it owns |
//! |---|---|
//! | `trace` | what is reported through the crate `tracing` |
//! | [`fs`] | the file-system abstraction, its Linux implementation, mappings, directories |
//! | [`shared`] | the control file that processes share, and the protocol that numbers batches |
//! | `options`, `seq`, `counters`, `store` | the open store, its options and counters, which every level above borrows |
//! | `segment` | one segment file: its bytes, the walk along its batches, space for new ones |
//! | `write` | the write path: claim space, copy the batch, commit |
//! | `read` | the read path: the version of the store, its refresh, and reads of values |
//! | `pop` | a read and a removal in one step |
//! | `open` | opening, creating and recovering a store; temporary stores |
//! | `backup`, `verify`, `stats` | copies of the store; the check of every checksum; the counts of keys, bytes and segments |
//! | `maintain` | syncs, compaction, and the background compaction thread |
//! | `mod` | `SegmentLog` |
//! | `opening`, `as_partd` | the methods of `Options` that open a store; `SegmentLog` as a `Partd` |
//! | `lend`, `stream` | its methods that lend values, and those that read them piece by piece |

mod as_partd;
mod backup;
mod counters;
pub mod fs;
mod lend;
mod maintain;
mod open;
mod opening;
mod options;
mod pop;
mod read;
mod segment;
mod seq;
pub mod shared;
mod stats;
mod store;
mod stream;
mod trace;
mod verify;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::backup::Backup;
pub use self::counters::{BackgroundError, Counters};
pub use self::maintain::compaction::{Compaction, Skipped};
pub use self::options::Options;
pub use self::read::entries::Entries;
pub use self::read::file_extents::{FileExtent, FileExtents};
pub use self::read::follow::{Follower, Position, Update};
#[cfg(feature = "tokio")]
pub(crate) use self::read::follow::{News, State as FollowState, pause};
pub use self::read::unverified::Unverified;
pub use self::read::value_reader::ValueReader;
pub use self::read::view::View;
pub use self::read::view_reader::ViewReader;
pub use self::seq::Seq;
pub use self::stats::Stats;
pub use self::verify::Verified;

use self::fs::{Disk, OsDisk};
use self::maintain::background::{Background, drop_gone};
use self::maintain::compaction::{Aim, Stop, compact};
use self::maintain::engine::Engine;
use self::open::Opened;
use self::open::sweep::sweep;
use crate::error::{Error, Result};
use crate::partd::{Batch, Durability, Partd};

/// A store on disk: a log of memory-mapped segment files in a directory.
///
/// Any number of threads, and up to 1,024 writing handles in any processes of one machine, can use
/// a directory at the same time; at least 512, if they append large batches from several threads.
/// Batches are atomic and have one order, which every handle sees.
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
/// No operation waits for a dead process, and only these may wait for a stopped one:
///
/// - A sync, and so a compaction, waits half a second for another process whose sync makes no
///   progress, then does the work itself.
/// - An append that finds the store at [`max_store_bytes`](Options::max_store_bytes) removes dead
///   segments, and waits half a second for another process that is compacting.
/// - On a full disk, each run of a compaction waits up to half a second for the space of segments
///   that it has removed, and so does an append to a temporary store if its batch is longer than a
///   segment. A stopped process that still has these segments open keeps their space, even one
///   between `fork` and `exec`.
/// - Opening waits up to 30 seconds for a process that holds the store exclusively, as the first
///   one to open it does while it creates or recovers the store. It waits two seconds for a process
///   that was stopped between taking its two locks. Then it returns an error.
///
/// After a `fork`, a handle works only in the parent; in the child it returns an error. A disk that
/// fails under a mapping can end the process with SIGBUS, as with every mapped file.
///
/// The parameter `D` is the disk that partd's own tests replace. Leave it out: `SegmentLog` alone is
/// the store on the disk of the operating system.
pub struct SegmentLog<D: Disk = OsDisk> {
    engine: Arc<Engine<D>>,
    background: Background,
}

impl SegmentLog {
    /// Opens a store for reading and writing, and creates it if there is none.
    ///
    /// # Errors
    ///
    /// The error names the path and says what to do. Its [kind](crate::Error::kind) is
    ///
    /// - [`NotAStore`](crate::ErrorKind::NotAStore) if the path is a file, or a directory with
    ///   other files;
    /// - [`NewerVersion`](crate::ErrorKind::NewerVersion) if the store has a newer format;
    /// - [`UnsupportedFileSystem`](crate::ErrorKind::UnsupportedFileSystem) on a network file
    ///   system;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if bytes that were synced are damaged;
    /// - [`Busy`](crate::ErrorKind::Busy) if another process has the store locked for too long, or
    ///   the store is temporary;
    /// - [`Removed`](crate::ErrorKind::Removed) if processes have the store open, but its control
    ///   file was removed or replaced;
    /// - [`ReadOnly`](crate::ErrorKind::ReadOnly) if this process may not write to the store;
    /// - [`Io`](crate::ErrorKind::Io) if another system call fails.
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
    /// Those of [`open`](SegmentLog::open), and [`NotAStore`](crate::ErrorKind::NotAStore) if there
    /// is no store.
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
    /// [`Io`](crate::ErrorKind::Io) if the directory cannot be read, or a store cannot be removed.
    pub fn sweep(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep(&OsDisk, dir.as_ref())
    }

    /// Returns the default options, to change them and open a store.
    pub fn options() -> Options {
        Options::default()
    }
}

impl<D: Disk> SegmentLog<D> {
    fn of(opened: Opened<D>) -> SegmentLog<D> {
        let engine = Engine::new(opened.store, opened.reader);
        SegmentLog { engine: Arc::new(engine), background: Background::new() }
    }

    /// Does the same as [`sweep`](SegmentLog::sweep), on another disk than the operating system's.
    #[doc(hidden)]
    pub fn sweep_on(disk: &D, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        sweep(disk, dir.as_ref())
    }

    /// Returns the path at which the store was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.engine.store.directory.path()
    }

    /// Rewrites the live values of all sealed segments and frees the dead bytes. Other threads and
    /// processes can use the store meanwhile.
    ///
    /// Neighbouring appends to a key become one chunk, except that an append of 1 KiB or more
    /// begins a new chunk if its bytes would otherwise lose their alignment, and that a value that
    /// was set stays a chunk of its own.
    ///
    /// If another compaction is running, this one returns at once, and [`Compaction::skipped`] says
    /// so. It does not wait until readers and pops are done; they keep the segments that they need.
    /// On a full disk, each run waits up to half a second for the space of segments that this
    /// compaction has removed.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) on damage,
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed) after a failed sync,
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) on a read-only handle, and
    /// [`DiskFull`](crate::ErrorKind::DiskFull) if not even one segment can be rewritten. The values
    /// are then unchanged. If the disk has room for a part of the work, that part is done.
    pub fn compact(&self) -> Result<Compaction> {
        self.engine.store.check_writable()?;
        compact(&self.engine, Aim::Everything, &Stop::default())
    }

    /// Writes one batch as [`write`](Partd::write) does, and returns its sequence number.
    ///
    /// An engine that writes many batches and makes them durable later needs only one sync, up to
    /// the last batch:
    ///
    /// ```
    /// use partd::{Batch, Durability, Partd, SegmentLog};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let p = SegmentLog::open(dir.path().join("store"))?;
    /// let first = p.commit(Batch::new().append("x", b"Hello "), Durability::Plain)?;
    /// let last = p.commit(Batch::new().append("x", b"world!"), Durability::Plain)?;
    /// assert!(first < last && p.durable_seq()? < first);
    /// p.sync_to(last)?;
    /// assert!(p.durable_seq()? >= last);
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// An empty batch is not written; the returned number is then that of the last batch of the
    /// history.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Partd::write).
    pub fn commit(&self, batch: &Batch<'_>, durability: Durability) -> Result<Seq> {
        let Engine { store, writer, .. } = &*self.engine;
        self.check(durability)?;
        let (sequence, removes) = if batch.is_empty() {
            (store.visible(), false)
        } else {
            let written = match writer.write(store, batch, durability) {
                // Wholly dead segments can be removed immediately, without copying anything.
                Err(Error::StoreFull { .. }) if drop_gone(&self.engine)? => {
                    writer.write(store, batch, durability)
                }
                written => written,
            };
            let written = written.inspect_err(|error| {
                trace::out_of_space(self.path(), "write", error);
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
        if durability == Durability::Durable {
            self.sync_up_to(sequence)?;
        }
        Ok(Seq::from(sequence))
    }

    /// Returns the sequence number of the last batch that any handle has written; 0 for a new
    /// store.
    ///
    /// # Errors
    ///
    /// [`Forked`](crate::ErrorKind::Forked) in a child of `fork`.
    pub fn last_seq(&self) -> Result<Seq> {
        let store = &self.engine.store;
        store.check_process()?;
        Ok(Seq::from(store.visible()))
    }

    /// Returns the sequence number up to which the history is on stable storage.
    ///
    /// A temporary store is never reopened, so for it this is only the number of the last sync. A
    /// read-only handle that reads the store as recovery would leave it returns 0.
    ///
    /// # Errors
    ///
    /// [`Forked`](crate::ErrorKind::Forked) in a child of `fork`.
    pub fn durable_seq(&self) -> Result<Seq> {
        let store = &self.engine.store;
        store.check_process()?;
        Ok(Seq::from(store.shared().map_or(0, shared::control::Control::durable_seq)))
    }

    /// Syncs the history up to `seq`, and possibly more of it, to stable storage. Returns at once
    /// if it is already there, even after a later sync has failed.
    ///
    /// `seq` must come from this store: a number from another store is not detected.
    ///
    /// # Errors
    ///
    /// Those of [`sync`](Partd::sync), and [`Invalid`](crate::ErrorKind::Invalid) if `seq` is
    /// greater than the last sequence number.
    pub fn sync_to(&self, seq: Seq) -> Result<()> {
        let store = &self.engine.store;
        store.check_writable()?;
        let last = store.visible();
        if seq.get() > last {
            return Err(Error::Invalid(format!(
                "{}: cannot sync up to batch {seq}, since the last batch of the store is {last}",
                self.path().display()
            )));
        }
        match store.control()?.durable_seq() >= seq.get() {
            true => Ok(()),
            false => self.sync_up_to(seq.get()),
        }
    }

    fn sync_up_to(&self, sequence: u64) -> Result<()> {
        let Engine { store, syncer, .. } = &*self.engine;
        let synced = syncer.sync_to(store, sequence);
        synced.inspect_err(|error| trace::out_of_space(self.path(), "sync", error))
    }

    /// Counts the store's keys, bytes, batches and segments.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) on damage, [`Io`](crate::ErrorKind::Io) if a segment
    /// cannot be opened, and [`Forked`](crate::ErrorKind::Forked) in a child of `fork`.
    pub fn stats(&self) -> Result<Stats> {
        let Engine { store, reader, writer, .. } = &*self.engine;
        stats::count(store, reader, &writer.space)
    }

    /// Returns the counters of this handle's work.
    ///
    /// It reads nothing of the store, waits for nothing and needs no index, so it may be called at
    /// any rate. [`stats`](SegmentLog::stats) describes the store.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("y", "world!")])?;
    /// p.get("x")?;
    /// let counters = p.counters();
    /// assert_eq!((counters.entries_written, counters.bytes_written), (2, 12));
    /// assert_eq!((counters.reads, counters.bytes_read), (1, 6));
    /// # Ok::<(), partd::Error>(())
    /// ```
    #[must_use]
    pub fn counters(&self) -> Counters {
        let store = &self.engine.store;
        store.tally.counters(store.is_forked())
    }

    /// Writes a copy of the store, as of one sequence number, into a directory that does not exist
    /// or is empty. Other threads and processes can use the store meanwhile.
    ///
    /// The copy is a store that opens anywhere, including on another machine. It is complete and on
    /// stable storage when this returns. If the process dies before that, opening the directory is
    /// an error that says so.
    ///
    /// On the same file system, sealed segments become hard links, so a backup takes little time
    /// and space; the space of a segment is freed when both the store and its backups have removed
    /// it. Changes to one never reach the other, but damage to a shared file on disk affects both:
    /// to be safe from that, copy the directory to another disk. Everything else is copied.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::open(&path)?;
    /// p.append([("x", "Hello ")])?;
    /// let backup = p.backup(&copy)?;
    /// assert_eq!(backup.seq, p.last_seq()?);
    /// p.append([("x", "world!")])?;
    /// assert_eq!(SegmentLog::open(&copy)?.get("x")?, b"Hello ");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) if the directory is not empty,
    /// [`Busy`](crate::ErrorKind::Busy) if a process uses it,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) on damage,
    /// [`SyncFailed`](crate::ErrorKind::SyncFailed) if a sync of the store fails meanwhile, and
    /// [`DiskFull`](crate::ErrorKind::DiskFull) or [`Io`](crate::ErrorKind::Io) if a system call
    /// fails. What was written is then removed.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Backup> {
        backup::backup(&self.engine.store, &self.engine.reader, dir.as_ref())
    }

    /// Checks every checksum in every segment of the store: those of headers, links, states,
    /// batches and values, including deleted values.
    ///
    /// Several threads share the work. Batches appended during the check are not checked.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the file and offset of the first damage found,
    /// and [`Io`](crate::ErrorKind::Io) if a segment cannot be opened.
    pub fn verify(&self) -> Result<Verified> {
        verify::verify(&self.engine.store, &self.engine.reader)
    }
}

impl<D: Disk> Drop for SegmentLog<D> {
    fn drop(&mut self) {
        if self.engine.store.is_forked() {
            // The locks and the writer slot belong to the parent; closing our copies of them
            // changes nothing.
            return;
        }
        self.background.close(&self.engine);
        // The background thread has ended, so this is the only reference.
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

// This impl also makes this crate compile the store over the real disk, so that builds whose crates
// share instances of generic code (`opt-level` 0, 1, "s" and "z") do not compile it in each binary.
/// For programs that choose the kind of their store at run time.
impl From<SegmentLog> for Box<dyn Partd> {
    fn from(log: SegmentLog) -> Box<dyn Partd> {
        Box::new(log)
    }
}
