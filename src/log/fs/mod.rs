//! The file-system abstraction: everything the engine does to files and mappings goes through these
//! traits.
//!
//! A [`Disk`] opens directories; a [`Dir`] is an open directory, and every file of a store is reached
//! through it by name. A store therefore stays with the directory that it opened, whatever happens to
//! the path: a directory of the same name that appears later is another [`Dir`].
//!
//! [`OsDisk`] is the real one. Tests put a disk under the engine that records, fails, counts, or loses
//! power. Reads go through the mapping itself, and [`DiskFile::loaded`] reports them; stores to a mapping
//! are reported after they happened.

pub(crate) mod directory;
pub(crate) mod fork;
mod linux;
mod linux_file;
pub(crate) mod mapping;
pub(crate) mod names;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;

use crate::error::Error;

pub use crate::log::fs::linux::{OsDir, OsDisk, OsLock};
pub use crate::log::fs::linux_file::OsFile;
pub use crate::log::fs::mapping::Mapping;

/// A machine: its directories, its clock and its random numbers.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open directory.
    type Dir: Dir<File = Self::File, Lock = Self::Lock>;
    /// An open, mapped file.
    type File: DiskFile;
    /// A lock that is held until it is dropped or its process dies.
    type Lock: Debug + Send + Sync;

    /// Opens a directory.
    fn open_dir(&self, path: &Path) -> io::Result<Self::Dir>;
    /// Makes a directory and its parents, for its owner alone; succeeds if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// A number that changes with each boot of the machine.
    fn boot_id(&self) -> io::Result<[u8; 16]>;
    /// Fills a buffer with random bytes.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;
}

/// An open directory: all names below are names of its entries.
pub trait Dir: Clone + Debug + Send + Sync + 'static {
    /// An open, mapped file.
    type File: DiskFile;
    /// A lock that is held until it is dropped or its process dies.
    type Lock: Debug + Send + Sync;

    /// Makes a file of `len` bytes, all allocated, that only its owner may use, and maps it.
    fn create(&self, name: &str, len: u64) -> io::Result<Self::File>;
    /// Opens and maps a whole file.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;
    /// Renames a file or a directory; fails where the new name is taken.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Renames a file in place of another.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// The names in the directory.
    fn list(&self) -> io::Result<Vec<OsString>>;
    /// Which file a name leads to.
    fn id_of(&self, name: &str) -> io::Result<FileId>;
    /// How many names the file has, in this directory and in others.
    fn links(&self, _name: &str) -> io::Result<u64> {
        Ok(1)
    }
    /// Reads the first bytes of a file, zeros behind its end, and returns its length. Does not map the file.
    fn read_start(&self, name: &str, start: &mut [u8]) -> io::Result<u64> {
        let file = self.open(name, Access::Read)?;
        let len = file.mapping().len();
        // Whole words, as a mapping is read.
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
    /// Removes an empty directory in this one, if its name still leads to `dir`.
    fn remove_dir(&self, name: &str, dir: &Self) -> io::Result<()>;
    /// Brings the names in the directory to stable storage.
    fn sync(&self) -> io::Result<()>;
    /// Brings the name of the directory itself to stable storage.
    fn sync_name(&self) -> io::Result<()>;
    /// Locks the directory; `None` if a conflicting lock is held. Every call competes with every other,
    /// also those of the same handle.
    fn try_lock(&self, exclusive: bool) -> io::Result<Option<Self::Lock>>;
    /// Locks the first of some bytes of the file `name`, which must still be `id`, on which no conflicting lock is
    /// held; `None` if there is one on each. Returns the byte too.
    ///
    /// # Errors
    /// `NotFound` where the name is gone, `StaleNetworkFileHandle` where it leads to another file.
    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, Self::Lock)>>;
    /// Whether anybody holds a lock on a byte of the file `name`, which must still be `id`.
    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool>;
    /// Why the file system of the directory cannot hold a store, if so.
    fn unfit(&self) -> io::Result<Option<String>>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read; the file descriptor is closed once the file is mapped.
    Read,
    /// To be read while other processes change it. On overlayfs this copies the file up, so that the mapping is
    /// the one that writers will use.
    Follow,
    /// To be stored to, written and synced.
    Write,
}

/// Which file it is, whatever its name: unique on a machine between two boots.
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
    /// Reports that bytes of the mapping were stored to.
    #[inline]
    fn stored(&self, _offset: u64, _len: u64) {}
    /// Reports that bytes of the mapping are about to be read.
    #[inline]
    fn loaded(&self, _offset: u64, _len: u64) {}
    /// Makes sure that stores to bytes of the mapping find disk space: an error here instead of SIGBUS
    /// there. Costs nothing where allocated space can always be stored to.
    #[inline]
    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// Whether the byte at an offset is in memory, as far as the system tells.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }
    /// Writes all the buffers, one behind the other, at an offset.
    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Brings the contents to stable storage (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Gives back the disk space of whole pages; they read as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Whether an error says that the disk is full, or the store as large as it may be.
pub(crate) fn is_full(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Error::StoreFull { .. } => true,
        _ => false,
    }
}

/// Whether a sync was not tried at all, because what was to be synced could not be opened.
pub(crate) fn was_not_tried(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_open = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::ACCESS,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::STALE,
    ];
    of_open.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
