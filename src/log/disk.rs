//! The seam: everything the engine does to files and mappings goes through these two traits.
//!
//! [`OsDisk`] is the real one; its hooks are empty and vanish. Tests put a disk under the engine
//! that records, fails, counts, or loses power. Reads go through the mapping itself, and
//! [`DiskFile::loaded`] tells of them; stores to a mapping are told of after they happened.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, RenameFlags};

use crate::log::segment::mapping::ForkMark;
pub use crate::log::segment::mapping::Mapping;

/// A directory tree with files that can be mapped, locked and synced.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open, mapped file.
    type File: DiskFile;
    /// A lock that is held until it is dropped or its process dies.
    type Lock: Debug + Send + Sync;

    /// Makes a file of `len` bytes, all allocated, that only its owner may use, and maps it.
    fn create(&self, path: &Path, len: u64) -> io::Result<Self::File>;
    /// Opens and maps a file, all of it. Like one that was made, it is in use until it is dropped.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Self::File>;
    /// Opens and maps a file that is to be written anew, with all of its space allocated again;
    /// `None` if it is in use by anyone. Its name must be one that nobody else opens. A disk that
    /// cannot tell says that it is.
    fn reclaim(&self, _path: &Path) -> io::Result<Option<Self::File>> {
        Ok(None)
    }
    /// Renames a file; fails where the new name is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file in place of another.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// The disk space that a file takes, in bytes.
    fn disk_bytes(&self, path: &Path) -> io::Result<u64>;
    /// How long ago a directory was last changed.
    fn age(&self, dir: &Path) -> io::Result<Duration>;
    /// Makes a directory and its parents, for its owner alone; fine if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Brings the names in a directory to stable storage.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Brings the name of a directory itself to stable storage.
    fn sync_name_of_dir(&self, dir: &Path) -> io::Result<()> {
        dir.parent().map_or(Ok(()), |parent| self.sync_dir(parent))
    }
    /// Takes a lock on a file, made if missing; `None` if somebody holds it in the way.
    fn try_lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Self::Lock>>;
    /// Why the file system of a directory cannot hold a store, if so.
    fn unfit(&self, dir: &Path) -> io::Result<Option<String>>;
    /// What changes with each boot of the machine.
    fn boot_id(&self) -> io::Result<[u8; 16]>;
    /// Fills a buffer with random bytes.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Milliseconds since 1970.
    fn now_unix_ms(&self) -> u64;
}

/// An open file with its mapping.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// The mapping of the whole file.
    fn mapping(&self) -> &Mapping;
    /// Told after bytes of the mapping were stored to.
    #[inline]
    fn stored(&self, _offset: u64, _len: u64) {}
    /// Told when bytes of the mapping are about to be read.
    #[inline]
    fn loaded(&self, _offset: u64, _len: u64) {}
    /// Whether the byte at an offset is in memory, as far as the system tells.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }
    /// Writes all the buffers, one behind the other, at an offset.
    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Brings the contents to stable storage (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Brings the first `len` bytes to stable storage (`msync` of a range), and more if it must.
    fn sync_start(&self, _len: u64) -> io::Result<()> {
        self.sync()
    }
    /// Gives back the disk space of whole pages; they read as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// The disk of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// A file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    /// Kept for as long as the mapping, since its lock says that the file is in use.
    file: File,
    mapping: Mapping,
}

/// A lock of the operating system on a file.
#[derive(Debug)]
pub struct OsLock {
    file: File,
    mark: ForkMark,
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child of a fork has it open as well. And what the child
        // drops is still its parent's.
        if !self.mark.is_forked() {
            let _ = fs2::FileExt::unlock(&self.file);
        }
    }
}

/// The permissions of every file of a store.
const FILE_MODE: u32 = 0o600;
/// Buffers that one call may write (`IOV_MAX`).
const BUFFERS_MAX: usize = 1024;

impl Disk for OsDisk {
    type File = OsFile;
    type Lock = OsLock;

    fn create(&self, path: &Path, len: u64) -> io::Result<OsFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        let made = allocate(&file, len)
            .and_then(|()| hold(&file, path).map(drop))
            .and_then(|()| Mapping::of_file(&file, len, true));
        match made {
            Ok(mapping) => Ok(OsFile { file, mapping }),
            Err(error) => {
                // Half a file is of no use to anyone; the error that counts is the first.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<OsFile> {
        loop {
            let file = OpenOptions::new().read(true).write(writable).open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            if hold(&file, path)? {
                let mapping = Mapping::of_file(&file, metadata.len(), writable)?;
                return Ok(OsFile { file, mapping });
            }
        }
    }

    fn reclaim(&self, path: &Path) -> io::Result<Option<OsFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // Nobody opens this name, so nobody comes between the two locks but one who has opened the
        // file under its old name; and such a one finds that name gone.
        if !hold(&file, path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        let len = file.metadata()?.len();
        allocate(&file, len)?;
        let mapping = Mapping::of_file(&file, len, true)?;
        Ok(Some(OsFile { file, mapping }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let here = rustix::fs::CWD;
        match rustix::fs::renameat_with(here, from, here, to, RenameFlags::NOREPLACE) {
            // Some file systems cannot; the ids of segments are never used twice anyway.
            Err(rustix::io::Errno::INVAL) if !to.exists() => fs::rename(from, to),
            done => done.map_err(io::Error::from),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn disk_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.blocks() * 512)
    }

    fn age(&self, dir: &Path) -> io::Result<Duration> {
        Ok(fs::metadata(dir)?.modified()?.elapsed().unwrap_or_default())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match dir.parent() {
            Some(parent) if !parent.exists() => {
                self.create_dir(parent)?;
                // The name of the store itself is synced with the store; those above it, here.
                self.sync_name_of_dir(parent)?;
            }
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn sync_name_of_dir(&self, dir: &Path) -> io::Result<()> {
        match dir.parent().map(File::open) {
            None => Ok(()),
            // It may be entered, but not read: then the whole file system is brought there.
            Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(rustix::fs::syncfs(File::open(dir)?)?)
            }
            Some(parent) => parent?.sync_all(),
        }
    }

    fn try_lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<OsLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = match options.open(path) {
            // In a directory that may only be read, an existing lock file serves as it is.
            Err(error) if is_read_only(&error) => File::open(path)?,
            opened => opened?,
        };
        let locked = if exclusive {
            fs2::FileExt::try_lock_exclusive(&file)
        } else {
            fs2::FileExt::try_lock_shared(&file)
        };
        match locked {
            Ok(()) => Ok(Some(OsLock { file, mark: ForkMark::new()? })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unfit(&self, dir: &Path) -> io::Result<Option<String>> {
        let kind = rustix::fs::statfs(dir)?.f_type as u64 & 0xFFFF_FFFF;
        Ok((!LOCAL_FILE_SYSTEMS.contains(&kind)).then(|| {
            let name = match kind {
                0x6969 => "NFS",
                0xFF53_4D42 | 0xFE53_4D42 | 0x517B => "SMB",
                0x6573_5546 => "FUSE",
                0x0102_1997 => "9p",
                0x00C3_6400 => "Ceph",
                _ => "an unknown kind",
            };
            format!("the file system is {name} (type {kind:#x})")
        }))
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let mut id = [0; 16];
        let mut digits = text.bytes().filter_map(|byte| char::from(byte).to_digit(16));
        for byte in &mut id {
            let (Some(high), Some(low)) = (digits.next(), digits.next()) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "boot_id is too short"));
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(id)
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::from)
    }

    fn now_unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// ext2 to ext4, xfs, btrfs, tmpfs, f2fs, bcachefs, overlayfs: shared mappings are coherent with
/// writes there, locks are local, and an allocated page can be stored to on a full disk.
const LOCAL_FILE_SYSTEMS: [u64; 7] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0xCA45_1A4E, 0x794C_7630];

/// Gives all of a file its space, holes included: a store into a hole on a full disk is a SIGBUS.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    Ok(retry(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len))?)
}

/// Says, by a shared lock, that an open file is in use, so that nobody writes it anew; false if its
/// name leads to another file meanwhile.
fn hold(file: &File, path: &Path) -> io::Result<bool> {
    let busy = match fs2::FileExt::try_lock_shared(file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(error),
        // Where there are no such locks, no file is written anew either.
        _ => None,
    };
    let (mine, there) = (file.metadata()?, fs::metadata(path)?);
    match busy {
        _ if (mine.dev(), mine.ino()) != (there.dev(), there.ino()) => Ok(false),
        Some(busy) => Err(busy),
        None => Ok(true),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Whether a sync was not tried at all, since what was to be synced could not be opened: no more files
/// can be, or there is no way to it.
pub(crate) fn was_not_tried(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_open =
        [Errno::MFILE, Errno::NFILE, Errno::ACCESS, Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    of_open.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Calls again while a signal interrupts.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Writes all the buffers with as many calls of `write` as it takes.
fn write_all(
    mut buffers: &mut [IoSlice<'_>],
    mut offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let some = &buffers[..buffers.len().min(BUFFERS_MAX)];
        let written = retry(|| write(some, offset))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut buffers, written);
        offset += written as u64;
    }
    Ok(())
}

impl DiskFile for OsFile {
    #[inline]
    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    fn is_cached(&self, offset: u64) -> bool {
        // Fails where it would have to wait for the disk.
        let (mut byte, flags) = ([0], rustix::io::ReadWriteFlags::NOWAIT);
        let read =
            rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], offset, flags);
        read == Ok(1)
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        write_all(buffers, offset, |some, at| rustix::io::pwritev(&self.file, some, at))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_start(&self, len: u64) -> io::Result<()> {
        self.mapping.sync_start(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry(|| rustix::fs::fallocate(&self.file, flags, offset, len))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    /// Writes some buffers with calls that do as `calls` says, then as they are asked; returns what
    /// was written, from offset 100 on.
    fn write(lens: &[usize], calls: &[rustix::io::Result<usize>]) -> io::Result<Vec<u8>> {
        let bytes: Vec<u8> = (0..lens.iter().sum::<usize>()).map(|i| i as u8).collect();
        let mut rest = &bytes[..];
        let mut buffers = Vec::new();
        for &len in lens {
            let (buffer, behind) = rest.split_at(len);
            buffers.push(IoSlice::new(buffer));
            rest = behind;
        }
        let (mut calls, mut file) = (calls.iter(), Vec::new());
        write_all(&mut buffers, 100, |some, at| {
            assert_eq!(at, 100 + file.len() as u64);
            assert!(!some.is_empty() && some.len() <= BUFFERS_MAX && !some[0].is_empty());
            let all: usize = some.iter().map(|buffer| buffer.len()).sum();
            let written = calls.next().map_or(Ok(all), |call| *call)?;
            let asked: Vec<u8> = some.iter().flat_map(|buffer| buffer.iter().copied()).collect();
            file.extend(&asked[..written]);
            Ok(written)
        })?;
        assert!(file == bytes, "other bytes");
        Ok(file)
    }

    #[test]
    fn a_write_that_is_short_or_interrupted_goes_on_where_it_was() {
        for lens in [&[10, 20, 30][..], &[0, 60, 0], &[1; 60]] {
            for short in 1..60 {
                write(lens, &[Ok(short)]).unwrap();
                write(lens, &[Err(Errno::INTR), Ok(short), Err(Errno::INTR)]).unwrap();
            }
        }
        write(&[3; 2 * BUFFERS_MAX + 1], &[Ok(4), Err(Errno::INTR), Ok(1)]).unwrap();
        write(&[], &[]).unwrap();
    }

    #[test]
    fn a_write_that_fails_or_does_not_get_on_is_an_error() {
        let after = |last| write(&[10, 20], &[Ok(7), Err(Errno::INTR), last]).unwrap_err();
        assert_eq!(after(Err(Errno::NOSPC)).kind(), io::ErrorKind::StorageFull);
        assert_eq!(after(Err(Errno::IO)).raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert_eq!(after(Ok(0)).kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_file_is_cached_until_the_system_has_dropped_it() {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file"), 1 << 20).unwrap();
        file.write_at(&mut [IoSlice::new(&[7; 8192])], 0).unwrap();
        assert!(file.is_cached(0) && file.is_cached(8191));
        file.sync().unwrap();
        // A page that another processor has just handled stays until that has let go of it.
        let is_dropped = || {
            rustix::fs::fadvise(&file.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            std::thread::sleep(Duration::from_millis(10));
            !file.is_cached(0)
        };
        if rustix::fs::statfs(dir.path()).unwrap().f_type as i64 == TMPFS_MAGIC {
            println!("not seen: what is dropped, since {} lives in memory", dir.path().display());
        } else {
            assert!((0..500).any(|_| is_dropped()), "it stays in memory");
        }
    }
}
