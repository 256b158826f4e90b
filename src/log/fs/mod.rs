//! The file-system abstraction. The engine uses files and mappings only through these traits.
//!
//! A [`Disk`] opens directories. A [`Dir`] is an open directory, and the engine reaches every file
//! of a store through it by name. A handle therefore stays with the directory that it opened even
//! if the path changes: a new directory of the same name is another [`Dir`].
//!
//! [`OsDisk`] is the real disk. Tests run the engine on disks that record, fail, count, or lose
//! power. Reads and stores use the mapping directly; [`DiskFile::loaded`] reports a read, and
//! [`DiskFile::stored`] a store that has happened.

pub(crate) mod directory;
pub(crate) mod fork;
mod linux;
mod linux_file;
mod linux_file_system;
mod linux_lock;
pub(crate) mod mapping;
pub(crate) mod memory_limit;
pub(crate) mod names;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// A file that the engine lends and does not read itself.
pub(crate) use std::fs::File;

pub use crate::log::fs::fork::ForkMark;
pub use crate::log::fs::linux::{OsDir, OsDisk};
pub use crate::log::fs::linux_file::OsFile;
pub use crate::log::fs::linux_lock::OsLock;
pub use crate::log::fs::mapping::Mapping;
pub(crate) use crate::log::fs::mapping::populate;

/// The machine: its directories, clock and random numbers.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open directory.
    type Dir: Dir<File = Self::File, Lock = Self::Lock>;
    /// An open, mapped file.
    type File: DiskFile;
    /// A lock that is held until it is dropped or its process dies.
    type Lock: Debug + Send + Sync;

    /// Opens a directory.
    fn open_dir(&self, path: &Path) -> io::Result<Self::Dir>;
    /// Creates a directory and its missing parents, accessible only to the owner; succeeds if it
    /// exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// A number that changes with each boot of the machine.
    fn boot_id(&self) -> io::Result<[u8; 16]>;
    /// Fills a buffer with random bytes.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;
}

/// An open directory. Every `name` below is the name of an entry in it.
pub trait Dir: Clone + Debug + Send + Sync + 'static {
    /// An open, mapped file.
    type File: DiskFile;
    /// A lock that is held until it is dropped or its process dies.
    type Lock: Debug + Send + Sync;

    /// Creates a fully allocated file of `len` bytes that only its owner may use, and maps it.
    fn create(&self, name: &str, len: u64) -> io::Result<Self::File>;
    /// Opens and maps a whole file.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;
    /// Opens a file for reading without mapping it, if its name still refers to `id`.
    ///
    /// # Errors
    /// `NotFound` if the name is gone, `StaleNetworkFileHandle` if it refers to another file, and
    /// `Unsupported` if the disk is not the operating system's and has no files to open.
    fn open_unmapped(&self, _name: &str, _id: FileId) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Renames a file or a directory; fails if the new name is taken.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Renames a file and replaces the file that has the new name, if any.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// The names in the directory.
    fn list(&self) -> io::Result<Vec<OsString>>;
    /// The identity of the file that has a name.
    fn id_of(&self, name: &str) -> io::Result<FileId>;
    /// The number of names (hard links) of the file, in this directory and in others.
    fn links(&self, _name: &str) -> io::Result<u64> {
        Ok(1)
    }
    /// Gives the file `name`, which must still be `id`, a second name (a hard link) in another
    /// directory.
    fn link(&self, _name: &str, _id: FileId, _to: &Self, _new: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Copies up to `len` bytes from the start of the file `name`, which must still be `id`, to the
    /// start of `to`. The file system may let both files share blocks. Returns how many bytes were
    /// copied.
    fn copy_start(&self, _name: &str, _id: FileId, _to: &Self::File, _len: u64) -> io::Result<u64> {
        Ok(0)
    }
    /// Reads the start of a file into `start`, pads it with zeros after the end of the file, and
    /// returns the length of the file. Does not map the file.
    fn read_start(&self, name: &str, start: &mut [u8]) -> io::Result<u64> {
        let file = self.open(name, Access::Read)?;
        let len = file.mapping().len();
        // A mapping is read in whole words.
        let (bytes, rest) = start.split_at_mut((len.min(start.len() as u64) & !7) as usize);
        file.loaded(0, bytes.len() as u64);
        file.mapping().copy_out(0, bytes);
        rest.fill(0);
        Ok(len)
    }
    /// The disk space that a file takes, in bytes.
    fn disk_bytes(&self, name: &str) -> io::Result<u64>;
    /// Whether the directory was removed.
    fn is_removed(&self) -> io::Result<bool>;
    /// Opens a directory in this one.
    fn open_dir(&self, name: &str) -> io::Result<Self>;
    /// Removes an empty directory in this one if its name still refers to `dir`.
    fn remove_dir(&self, name: &str, dir: &Self) -> io::Result<()>;
    /// Makes the names in the directory durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes the name of the directory itself durable.
    fn sync_name(&self) -> io::Result<()>;
    /// Locks the directory; `None` if a conflicting lock is held. Locks conflict even if the same
    /// handle holds both.
    fn try_lock(&self, exclusive: bool) -> io::Result<Option<Self::Lock>>;
    /// Locks the first of `bytes` on which no conflicting lock is held, in the file `name`, which
    /// must still be `id`. Returns the locked byte too; `None` if all of them are held.
    ///
    /// # Errors
    /// `NotFound` if the name is gone, `StaleNetworkFileHandle` if it refers to another file.
    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, Self::Lock)>>;
    /// Whether a lock is held on a byte of the file `name`, which must still be `id`.
    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool>;
    /// The reason why this file system cannot hold a store; `None` if it can.
    fn unfit(&self) -> io::Result<Option<String>>;
}

/// How a file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read; the descriptor is closed once the file is mapped.
    Read,
    /// Read while other processes write. On overlayfs this copies the file up, so that the reader
    /// maps the same file as the writers.
    Follow,
    /// Store, write and sync.
    Write,
}

/// The identity of a file, whatever its name. No two files of a machine have the same one at the
/// same time; a reboot may change the device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device that holds the file.
    pub device: u64,
    /// The inode of the file on it.
    pub inode: u64,
}

/// A mapped file.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// The mapping of the whole file.
    fn mapping(&self) -> &Mapping;
    /// Which file it is.
    fn id(&self) -> FileId;
    /// Reports that bytes of the mapping have been stored.
    #[inline]
    fn stored(&self, _offset: u64, _len: u64) {}
    /// Reports that bytes of the mapping are about to be read.
    #[inline]
    fn loaded(&self, _offset: u64, _len: u64) {}
    /// Reserves disk space for stores to a range of the mapping. A full disk is then an error here,
    /// not a SIGBUS at the store. Free on file systems that overwrite allocated space in place.
    #[inline]
    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// Whether the byte at an offset is in memory, as far as the kernel reports it.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }
    /// Writes all buffers, one after another, at an offset.
    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Begins to write the dirty pages of a range to disk. It does not wait for them, but may wait
    /// for room in the queue of a busy disk.
    fn write_back(&self, _range: Range<u64>) {}
    /// Makes the contents durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Frees the disk space of whole pages, which then read as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Whether an error means that the disk is full or the store has reached its size limit.
pub(crate) fn is_full(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Error::StoreFull { .. } => true,
        _ => false,
    }
}

/// Whether an error means that a sync was never attempted because the file could not be opened.
pub(crate) fn was_not_tried(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let open_errors = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::ACCESS,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::STALE,
    ];
    open_errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
