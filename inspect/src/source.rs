//! Bytes to read from: an open file, or memory in tests and fuzzing.
//!
//! Reads are `pread` into buffers. A window reads ahead while the reading moves forward in small
//! steps, and only what is asked for while it jumps: one or two calls for the head of a large
//! batch, one for many small batches.
//!
//! A file of a live store may be recycled: renamed, and written anew. The engine takes a file only
//! when it gets its lock exclusively, so a shared lock on an open file keeps it as it is. It is the
//! only lock this program takes; no writer waits for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, SeekFrom};

/// The most that a window reads ahead.
const AHEAD_MAX: usize = 1 << 20;
/// What a window reads at least.
const AHEAD_MIN: usize = 4 << 10;
/// What may be read into memory of a file that has nothing stored.
const CLAIM_FREE: u64 = 1 << 20;

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
    File(File),
    #[allow(dead_code, reason = "fuzzing and tests read from memory")]
    Memory(Vec<u8>),
}

impl Source {
    /// Opens a file for reading, and keeps it from being recycled while it is open. A file that is
    /// being recycled is not found.
    pub fn open(path: &Path) -> io::Result<Source> {
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
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => return Err(recycled()),
            // A file system without locks has no store that anybody writes.
            Ok(()) | Err(_) => {}
        }
        // Before the lock it may have been renamed.
        let now = fs::metadata(path)?;
        if (now.dev(), now.ino()) != (metadata.dev(), metadata.ino()) {
            return Err(recycled());
        }
        let metadata = file.metadata()?;
        let (len, stored) = (metadata.len(), metadata.blocks().saturating_mul(512));
        Ok(Source { path: path.to_owned(), bytes: Bytes::File(file), len, stored })
    }

    /// Takes bytes for the file at `path`.
    #[allow(dead_code, reason = "fuzzing and tests read from memory")]
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
        match &self.bytes {
            _ if offset >= self.len => None,
            Bytes::File(file) => match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(data) => Some(data),
                Err(rustix::io::Errno::NXIO) => None,
                Err(_) => Some(offset),
            },
            Bytes::Memory(_) => Some(offset),
        }
    }

    /// Fills `buffer` from `offset`; an error if the file ends before.
    pub fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.bytes {
            Bytes::File(file) => file.read_exact_at(buffer, offset),
            Bytes::Memory(bytes) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = at.saturating_add(buffer.len());
                let from = bytes.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(from);
                Ok(())
            }
        }
    }
}

fn recycled() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "it was just now given to another segment")
}

/// A buffer over a part of a source.
#[derive(Debug)]
pub struct Window<'s> {
    source: &'s Source,
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl<'s> Window<'s> {
    /// A window that has read nothing yet.
    pub fn new(source: &'s Source) -> Window<'s> {
        Window { source, start: 0, bytes: Vec::new(), ahead: AHEAD_MIN }
    }

    /// The source behind it.
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
            if let Err(error) = self.source.read_exact(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }
}
