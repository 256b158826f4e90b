//! Bytes to read from: an open file, or memory in tests and fuzzing.
//!
//! Reads are `pread` into buffers. A window reads ahead while the reading moves forward in small
//! steps, and only what is asked for while it jumps: one or two calls for the head of a large
//! batch, one for many small batches.
//!
//! It takes no lock. The files of a store that several may open are never written again: one that was
//! unlinked stays readable for as long as it is open. A temporary store writes its dead segments again
//! while it lives; then a file no longer has the name under which it was opened, and what was read of it
//! since may be anything: see [`Source::is_in_place`].
//!
//! A store may have more segments than a process may have open files. Files stay open as long as
//! there is room; a file beyond that is closed, and opened once more for as long as a window reads
//! it, or for a single read. Its device, inode and time of birth tell whether it is still the same.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::process::{Resource, getrlimit};

/// The most that a window reads ahead.
const AHEAD_MAX: usize = 1 << 20;
/// What a window reads at least.
const AHEAD_MIN: usize = 4 << 10;
/// Bytes that one read-ahead request covers.
const WILL_READ: u64 = 128 << 10;
/// What may be read into memory of a file that has nothing stored.
const CLAIM_FREE: u64 = 1 << 20;

/// Files that are open for other purposes.
const RESERVED_FILES: usize = 16;
/// How many files a thread that reads may have open at once, with room to spare.
const FILES_PER_THREAD: usize = 4;

/// How many sources have their files open all the time.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// How many files this process may have open for sources. One half is for those that stay open, the
/// other for those that are opened to be read.
fn files_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVED_FILES)
    })
}

/// How many threads may read sources at once so that none is refused a file.
#[must_use]
pub fn threads_max() -> usize {
    (files_max() / 2 / FILES_PER_THREAD).max(1)
}

/// Something to read a segment from.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    bytes: Bytes,
    len: u64,
    stored: u64,
}

#[derive(Debug)]
enum Bytes {
    Kept(File, Place),
    Reopened(Reopened),
    #[allow(dead_code, reason = "fuzzing and tests read from memory")]
    Memory(Vec<u8>),
}

/// A file that is opened whenever it is read.
#[derive(Debug)]
struct Reopened {
    identity: Identity,
    open: Mutex<Weak<File>>,
    has_gone: AtomicBool,
}

impl Reopened {
    fn file(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let is_same = |(_, metadata): &(File, Metadata)| Identity::of(metadata) == self.identity;
        let opened = match open_file(path) {
            Ok(opened) if is_same(&opened) => Ok(opened.0),
            Ok(_) => Err(gone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone()),
            Err(error) => Err(error),
        };
        let file = Arc::new(opened.inspect_err(|error| {
            let has_gone = error.kind() == io::ErrorKind::NotFound;
            self.has_gone.fetch_or(has_gone, Ordering::Relaxed);
        })?);
        *open = Arc::downgrade(&file);
        Ok(file)
    }
}

/// One of the places for files that stay open.
#[derive(Debug)]
struct Place(());

impl Place {
    fn take() -> Option<Place> {
        let next = |kept| (kept < files_max() / 2).then_some(kept + 1);
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().map(|_| Place(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What tells a file from another one that has its name later: an inode may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    made: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        let made = metadata.created().ok();
        Identity { device: metadata.dev(), inode: metadata.ino(), made }
    }
}

/// Opens a regular file to read it.
fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    // Opening a device may do something to it, and opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(irregular());
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(irregular());
    }
    // A read then brings in what it asks for, and not as much around it as the device's read-ahead is; a hint.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
    Ok((file, metadata))
}

/// A file of a source, open.
#[derive(Debug)]
enum Opened<'s> {
    Kept(&'s File),
    Reopened(Arc<File>),
}

impl Deref for Opened<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Opened::Kept(file) => file,
            Opened::Reopened(file) => file,
        }
    }
}

impl Source {
    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Source> {
        let (file, metadata) = open_file(path)?;
        let (len, stored) = (metadata.len(), metadata.blocks().saturating_mul(512));
        let bytes = match Place::take() {
            Some(place) => Bytes::Kept(file, place),
            None => Bytes::Reopened(Reopened {
                identity: Identity::of(&metadata),
                open: Mutex::new(Weak::new()),
                has_gone: AtomicBool::new(false),
            }),
        };
        Ok(Source { path: path.to_owned(), bytes, len, stored })
    }

    /// Its file, open; `None` for bytes in memory. A file that has gone, or is another one now, is
    /// not found.
    fn file(&self) -> io::Result<Option<Opened<'_>>> {
        match &self.bytes {
            Bytes::Kept(file, _) => Ok(Some(Opened::Kept(file))),
            Bytes::Memory(_) => Ok(None),
            Bytes::Reopened(file) => Ok(Some(Opened::Reopened(file.file(&self.path)?))),
        }
    }

    /// Whether its file had gone, or was another one, when it was to be read.
    pub fn has_gone(&self) -> bool {
        matches!(&self.bytes, Bytes::Reopened(file) if file.has_gone.load(Ordering::Relaxed))
    }

    /// Whether its path still leads to the file that was opened. If not, the file was removed, or a
    /// temporary store writes it again: then what was read of it last may belong to another segment.
    pub fn is_in_place(&self) -> bool {
        let opened = match &self.bytes {
            Bytes::Kept(file, _) => file.metadata().map(|metadata| Identity::of(&metadata)).ok(),
            Bytes::Reopened(file) => Some(file.identity),
            Bytes::Memory(_) => return true,
        };
        let now = fs::metadata(&self.path).map(|metadata| Identity::of(&metadata)).ok();
        now.is_some() && now == opened
    }

    /// Takes bytes for the file at `path`.
    #[allow(dead_code, reason = "fuzzing and tests read from memory")]
    #[must_use]
    pub fn memory(path: &Path, bytes: Vec<u8>) -> Source {
        let len = bytes.len() as u64;
        Source { path: path.to_owned(), bytes: Bytes::Memory(bytes), len, stored: len }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that the file system holds for it.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether so many bytes of it may be held in memory, all in all: a sparse file of terabytes must
    /// not make this program take terabytes.
    pub fn affordable(&self, len: u64) -> bool {
        len <= self.stored.max(CLAIM_FREE)
    }

    /// The first offset from `offset` on where the file system holds anything; `None` if there is
    /// none. Holes are zeros.
    pub fn stored_from(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let Ok(Some(file)) = self.file() else { return Some(offset) };
        match rustix::fs::seek(&*file, SeekFrom::Data(offset)) {
            Ok(data) => Some(data),
            Err(rustix::io::Errno::NXIO) => None,
            Err(_) => Some(offset),
        }
    }

    /// Says that a range will be read soon: the system then reads it ahead. A hint.
    ///
    /// In calls of 128 KiB: of a longer one the system may leave out a part.
    pub fn will_read(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let Ok(Some(file)) = self.file() else { return };
        for at in (offset..end).step_by(WILL_READ as usize) {
            let len = NonZeroU64::new((end - at).min(WILL_READ));
            let _ = rustix::fs::fadvise(&*file, at, len, Advice::WillNeed);
        }
    }

    /// Fills `buffer` from `offset`; an error if the file ends before.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if it ends earlier.
    pub fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Bytes::Memory(bytes) = &self.bytes {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = at.saturating_add(buffer.len());
            let from = bytes.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(from);
        } else if let Some(file) = self.file()? {
            file.read_exact_at(buffer, offset)?;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    let text = "it was removed or replaced since the store was listed, as compactions do; run the \
                command again";
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// A buffer over a part of a source.
#[derive(Debug)]
pub struct Window<'s> {
    source: &'s Source,
    /// Keeps its file open between two reads.
    file: Option<Opened<'s>>,
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl<'s> Window<'s> {
    /// A window that has read nothing yet.
    pub fn new(source: &'s Source) -> Window<'s> {
        Window { source, file: None, start: 0, bytes: Vec::new(), ahead: AHEAD_MIN }
    }

    /// The source behind it.
    #[must_use]
    pub fn source(&self) -> &'s Source {
        self.source
    }

    /// Forgets what was read: the next bytes come from the file as it is then.
    pub fn forget(&mut self) {
        self.bytes.clear();
        self.ahead = AHEAD_MIN;
    }

    /// The `len` bytes at `offset`. The caller has held both against the length of the file, and
    /// the length against [`Source::affordable`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if it ends earlier.
    pub fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        let inside = offset >= self.start && offset.saturating_add(len as u64) <= end;
        if !inside {
            let forward = offset >= self.start && offset <= end && !self.bytes.is_empty();
            self.ahead = if forward { (self.ahead * 2).min(AHEAD_MAX) } else { AHEAD_MIN };
            let rest = usize::try_from(self.source.len().saturating_sub(offset));
            let take = len.max(self.ahead.min(rest.unwrap_or(usize::MAX)));
            self.bytes.resize(take, 0);
            self.start = offset;
            if self.file.is_none() {
                self.file = self.source.file()?;
            }
            if let Err(error) = self.source.read_exact(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error);
            }
            if forward && take >= AHEAD_MAX {
                // All of the file is read: the next part comes while this one is looked at.
                self.source.will_read(offset + take as u64, AHEAD_MAX as u64);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
