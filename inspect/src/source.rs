//! Sources of bytes: an open file, or memory in tests and fuzzing.
//!
//! Reads are `pread` into buffers. A window reads ahead while the reads move forward in small
//! steps, and reads only what it needs after a jump. So the header of a large batch takes one or
//! two calls, and many small batches take one.
//!
//! A source takes no lock. A shared store never reuses its files, and an unlinked file stays
//! readable while it is open. A temporary store reuses dead segments while it lives: it renames the
//! file first, and what is read from it after that may be anything, see [`Source::is_in_place`].
//!
//! A store may have more segments than a process may have open files. Files stay open until the
//! limit is reached. A file beyond it is opened for each read, or for as long as a window reads it.
//! Its device, inode and creation time tell whether it is still the same file.

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
/// The least that a window reads.
const AHEAD_MIN: usize = 4 << 10;
/// The bytes that one read-ahead request covers.
const WILL_READ: u64 = 128 << 10;
/// How many bytes may be read into memory even if the file system stores none for the file.
const CLAIM_FREE: u64 = 1 << 20;

/// The number of file descriptors for other purposes.
const RESERVED_FILES: usize = 16;
/// How many files a reading thread may have open at once, with room to spare.
const FILES_PER_THREAD: usize = 4;

/// How many sources keep their files open.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// How many files this process may have open for sources: one half stays open, the other half is
/// for files that are opened for a read.
fn files_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVED_FILES)
    })
}

/// How many threads may read sources at once without running out of file descriptors.
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
    Kept(File, OpenFilePermit),
    Reopened(Reopened),
    #[allow(dead_code, reason = "fuzzing and tests read from memory")]
    Memory(Vec<u8>),
}

/// A file that is opened for each read.
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

/// The permit to keep one file open.
#[derive(Debug)]
struct OpenFilePermit(());

impl OpenFilePermit {
    fn take() -> Option<OpenFilePermit> {
        let next = |kept| (kept < files_max() / 2).then_some(kept + 1);
        KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()
            .map(|_| OpenFilePermit(()))
    }
}

impl Drop for OpenFilePermit {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells a file from a later one with the same name. The creation time is needed since inodes are
/// reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        let created = metadata.created().ok();
        Identity { device: metadata.dev(), inode: metadata.ino(), created }
    }
}

/// Opens a regular file for reading.
fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    // Opening a device may have effects, and opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(irregular());
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(irregular());
    }
    // A hint: a read then brings in only what it asks for, without the kernel's read-ahead.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
    Ok((file, metadata))
}

/// The open file of a source.
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
    /// If the file cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Source> {
        let (file, metadata) = open_file(path)?;
        let (len, stored) = (metadata.len(), metadata.blocks().saturating_mul(512));
        let bytes = match OpenFilePermit::take() {
            Some(permit) => Bytes::Kept(file, permit),
            None => Bytes::Reopened(Reopened {
                identity: Identity::of(&metadata),
                open: Mutex::new(Weak::new()),
                has_gone: AtomicBool::new(false),
            }),
        };
        Ok(Source { path: path.to_owned(), bytes, len, stored })
    }

    /// The open file; `None` for bytes in memory. If the file was removed or replaced, the error is
    /// `NotFound`.
    fn file(&self) -> io::Result<Option<Opened<'_>>> {
        match &self.bytes {
            Bytes::Kept(file, _) => Ok(Some(Opened::Kept(file))),
            Bytes::Memory(_) => Ok(None),
            Bytes::Reopened(file) => Ok(Some(Opened::Reopened(file.file(&self.path)?))),
        }
    }

    /// Whether a read found that the file had been removed or replaced.
    pub fn has_gone(&self) -> bool {
        matches!(&self.bytes, Bytes::Reopened(file) if file.has_gone.load(Ordering::Relaxed))
    }

    /// Whether the path still leads to the file that was opened. If not, the file was removed, or a
    /// temporary store has reused it: then the latest bytes read may belong to another segment.
    pub fn is_in_place(&self) -> bool {
        let opened = match &self.bytes {
            Bytes::Kept(file, _) => file.metadata().map(|metadata| Identity::of(&metadata)).ok(),
            Bytes::Reopened(file) => Some(file.identity),
            Bytes::Memory(_) => return true,
        };
        let now = fs::metadata(&self.path).map(|metadata| Identity::of(&metadata)).ok();
        now.is_some() && now == opened
    }

    /// Whether the metadata is that of the file that was opened.
    #[must_use]
    pub fn is_file(&self, metadata: &Metadata) -> bool {
        let opened = match &self.bytes {
            Bytes::Kept(file, _) => file.metadata().map(|metadata| Identity::of(&metadata)).ok(),
            Bytes::Reopened(file) => Some(file.identity),
            Bytes::Memory(_) => None,
        };
        metadata.is_file() && opened == Some(Identity::of(metadata))
    }

    /// Copies the first `len` bytes to the start of another file. The file system may let both share
    /// blocks.
    ///
    /// # Errors
    /// If this file ends too early, or was removed or replaced, or the other cannot be written.
    pub fn copy_start(&self, to: &File, len: u64) -> io::Result<()> {
        let mut copied = 0;
        if let Some(from) = self.file()? {
            while copied < len {
                let (mut read, mut written) = (copied, copied);
                let rest = usize::try_from(len - copied).unwrap_or(usize::MAX);
                let (read, written) = (Some(&mut read), Some(&mut written));
                match rustix::fs::copy_file_range(&*from, read, to, written, rest) {
                    Err(rustix::io::Errno::INTR) => {}
                    Ok(some) if some > 0 => copied += some as u64,
                    // Not every file system supports it, nor does every pair of them.
                    _ => break,
                }
            }
        }
        let mut piece = vec![0; (len - copied).min(AHEAD_MAX as u64) as usize];
        while copied < len {
            let take = (len - copied).min(piece.len() as u64) as usize;
            self.will_read(copied + take as u64, AHEAD_MAX as u64);
            self.read_exact(&mut piece[..take], copied)?;
            to.write_all_at(&piece[..take], copied)?;
            copied += take as u64;
        }
        Ok(())
    }

    /// Creates a source from bytes in memory; `path` names it in messages.
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

    /// The bytes that the file system stores for the file.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether `len` bytes of it in total may be held in memory. A sparse file of terabytes must
    /// not make this process allocate terabytes.
    pub fn affordable(&self, len: u64) -> bool {
        len <= self.stored.max(CLAIM_FREE)
    }

    /// The first offset at or after `offset` at which the file system stores data; `None` if there
    /// is none. Holes read as zeros.
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

    /// Asks the kernel to read a range ahead. A hint.
    ///
    /// It makes calls of 128 KiB, since the kernel may shorten longer ones.
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

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// If the file ends too early, or was removed or replaced.
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
    /// Keeps the file open between reads.
    file: Option<Opened<'s>>,
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl<'s> Window<'s> {
    /// Creates a window that has read nothing yet.
    pub fn new(source: &'s Source) -> Window<'s> {
        Window { source, file: None, start: 0, bytes: Vec::new(), ahead: AHEAD_MIN }
    }

    /// The source that it reads.
    #[must_use]
    pub fn source(&self) -> &'s Source {
        self.source
    }

    /// Discards the buffered bytes; the next ones come from the file again.
    pub fn forget(&mut self) {
        self.bytes.clear();
        self.ahead = AHEAD_MIN;
    }

    /// Returns the `len` bytes at `offset`. The caller has checked both against the length of the
    /// file, and `len` with [`Source::affordable`].
    ///
    /// # Errors
    /// If the bytes cannot be read.
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
                // The whole file is being read: request the next part while the caller uses this
                // one.
                self.source.will_read(offset + take as u64, AHEAD_MAX as u64);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
