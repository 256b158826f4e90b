//! Implements [`Disk`] and [`Dir`] on Linux.
//!
//! Files are reached with `openat`, `renameat2` and `unlinkat` relative to the descriptor of the
//! directory.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, IFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::log::fs::linux_file::{OsFile, allocate, check_size_limit};
use crate::log::fs::linux_file_system::{self as file_system, BTRFS, OVERLAYFS};
use crate::log::fs::linux_lock::OsLock;
use crate::log::fs::mapping::Mapping;
use crate::log::fs::{Access, Dir, Disk, FileId};

/// The permissions of every file of a store.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The machine that the process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

/// An open directory of the operating system.
#[derive(Clone, Debug)]
pub struct OsDir {
    file: Arc<File>,
    file_system: u64,
}

impl Disk for OsDisk {
    type Dir = OsDir;
    type File = OsFile;
    type Lock = OsLock;

    fn open_dir(&self, path: &Path) -> io::Result<OsDir> {
        OsDir::of(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
                self.create_dir(parent)?;
                // The store syncs its own name; the names of its new parents are synced here.
                self.open_dir(parent)?.sync_name()?;
            }
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)
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

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

impl OsDir {
    fn of(fd: OwnedFd) -> io::Result<OsDir> {
        let file_system = rustix::fs::fstatfs(&fd)?.f_type as u64 & 0xFFFF_FFFF;
        Ok(OsDir { file: Arc::new(File::from(fd)), file_system })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // Do not block if the file is a FIFO.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(File::from(rustix::fs::openat(&self.file, name, flags, FILE_MODE)?))
    }

    fn mapped(&self, file: File, access: Access) -> io::Result<OsFile> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let is_writable = access == Access::Write;
        let mapping = Mapping::of_file(&file, metadata.len(), is_writable)?;
        Ok(OsFile {
            file: is_writable.then_some(file),
            mapping,
            id: FileId { device: metadata.dev(), inode: metadata.ino() },
            needs_space: self.needs_space(),
        })
    }

    fn needs_space(&self) -> bool {
        !file_system::overwrites_in_place(self.file_system)
    }

    fn prepare(&self, file: &File, len: u64) -> io::Result<()> {
        if self.file_system == BTRFS {
            // NOCOW pages are overwritten in place and need no further space. The flag has no
            // effect after the first byte is written.
            let flags = rustix::fs::ioctl_getflags(file).unwrap_or(IFlags::empty());
            let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
        }
        if rustix::process::geteuid().is_root() {
            // Files that root creates get the owner of the store.
            let owner = self.file.metadata()?;
            if owner.uid() != 0 {
                let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
                match rustix::fs::fchown(file, Some(uid), Some(gid)) {
                    // Root without the capability, or in a namespace without that user, stays the
                    // file's owner.
                    Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        allocate(file, len)
    }

    /// Finishes a rename with NOREPLACE, given its result. Some file systems do not support it; there
    /// the file is linked and its old name removed, because a link never replaces a file either.
    fn renamed(&self, done: rustix::io::Result<()>, from: &str, to: &str) -> io::Result<()> {
        let dir = &*self.file;
        match done {
            Err(Errno::INVAL) => {
                rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
                self.unlink(from)
            }
            done => Ok(done?),
        }
    }

    /// Opens a file if its identity is still `id`.
    fn open_known(&self, name: &str, id: FileId, flags: OFlags) -> io::Result<File> {
        let file = self.open_file(name, flags)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (id.device, id.inode) {
            return Err(io::Error::from_raw_os_error(Errno::STALE.raw_os_error()));
        }
        Ok(file)
    }
}

impl Dir for OsDir {
    type File = OsFile;
    type Lock = OsLock;

    fn create(&self, name: &str, len: u64) -> io::Result<OsFile> {
        check_size_limit(len)?;
        let file = self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        let made = self.prepare(&file, len);
        let metadata = file.metadata()?;
        let id = FileId { device: metadata.dev(), inode: metadata.ino() };
        match made.and_then(|()| self.mapped(file, Access::Write)) {
            Err(error) => {
                // Remove the partial file; report the first error.
                if self.id_of(name).is_ok_and(|now| now == id) {
                    let _ = self.unlink(name);
                }
                Err(error)
            }
            mapped => mapped,
        }
    }

    fn open(&self, name: &str, access: Access) -> io::Result<OsFile> {
        let flags = match access {
            Access::Write => OFlags::RDWR,
            Access::Follow if self.file_system == OVERLAYFS => OFlags::RDWR,
            Access::Read | Access::Follow => OFlags::RDONLY,
        };
        let file = match self.open_file(name, flags) {
            // A read-only mount has no writers, so the file need not be copied up. A user who may
            // not write cannot copy it up: if it is still in the lower layer, its identity is not
            // the one written in it, so the store is read as a copy, and the first writer replaces
            // the file.
            Err(error)
                if access == Access::Follow
                    && matches!(
                        error.kind(),
                        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                    ) =>
            {
                self.open_file(name, OFlags::RDONLY)?
            }
            opened => opened?,
        };
        self.mapped(file, access)
    }

    fn open_unmapped(&self, name: &str, id: FileId) -> io::Result<File> {
        self.open_known(name, id, OFlags::RDONLY)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let dir = &*self.file;
        let flags = RenameFlags::NOREPLACE;
        self.renamed(rustix::fs::renameat_with(dir, from, dir, to, flags), from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&*self.file, from, &*self.file, to)?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.file, name, AtFlags::empty())?)
    }

    fn list(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.file)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        let stat = rustix::fs::statat(&*self.file, name, AtFlags::empty())?;
        Ok(FileId { device: stat.st_dev, inode: stat.st_ino })
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        Ok(rustix::fs::statat(&*self.file, name, AtFlags::empty())?.st_nlink)
    }

    fn link(&self, name: &str, id: FileId, to: &OsDir, new: &str) -> io::Result<()> {
        rustix::fs::linkat(&*self.file, name, &*to.file, new, AtFlags::empty())?;
        // The name may have led to another file, or be a symbolic link.
        let stat = rustix::fs::statat(&*to.file, new, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_dev, stat.st_ino) == (id.device, id.inode) {
            return Ok(());
        }
        to.unlink(new)?;
        Err(io::Error::from_raw_os_error(Errno::STALE.raw_os_error()))
    }

    fn copy_start(&self, name: &str, id: FileId, to: &OsFile, len: u64) -> io::Result<u64> {
        let (from, to) = (self.open_known(name, id, OFlags::RDONLY)?, to.file()?);
        let mut copied = 0;
        while copied < len {
            let (mut read, mut written) = (copied, copied);
            let rest = usize::try_from(len - copied).unwrap_or(usize::MAX);
            let (read, written) = (Some(&mut read), Some(&mut written));
            match rustix::fs::copy_file_range(&from, read, to, written, rest) {
                Ok(0) => break,
                Ok(some) => copied += some as u64,
                Err(Errno::INTR) => {}
                Err(error) if copied == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(copied)
    }

    fn read_start(&self, name: &str, start: &mut [u8]) -> io::Result<u64> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut read = 0;
        while read < start.len() {
            match file.read_at(&mut start[read..], read as u64) {
                Ok(0) => break,
                Ok(some) => read += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        start[read..].fill(0);
        Ok(metadata.len())
    }

    fn disk_bytes(&self, name: &str) -> io::Result<u64> {
        let stat = rustix::fs::statat(&*self.file, name, AtFlags::empty())?;
        Ok(stat.st_blocks.unsigned_abs() * 512)
    }

    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    fn open_dir(&self, name: &str) -> io::Result<OsDir> {
        OsDir::of(rustix::fs::openat(
            &*self.file,
            name,
            DIRECTORY | OFlags::NOFOLLOW,
            Mode::empty(),
        )?)
    }

    fn remove_dir(&self, name: &str, dir: &OsDir) -> io::Result<()> {
        let metadata = dir.file.metadata()?;
        let id = FileId { device: metadata.dev(), inode: metadata.ino() };
        if self.id_of(name)? != id {
            return Err(io::Error::from_raw_os_error(Errno::STALE.raw_os_error()));
        }
        Ok(rustix::fs::unlinkat(&*self.file, name, AtFlags::REMOVEDIR)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn sync_name(&self) -> io::Result<()> {
        match rustix::fs::openat(&*self.file, "..", DIRECTORY, Mode::empty()) {
            // The parent may be searched but not read: sync the whole file system instead.
            Err(Errno::ACCESS) => Ok(rustix::fs::syncfs(&*self.file)?),
            parent => File::from(parent?).sync_all(),
        }
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<Option<OsLock>> {
        // A separate descriptor, so that locks within one process conflict too.
        let file = File::from(rustix::fs::openat(&*self.file, ".", DIRECTORY, Mode::empty())?);
        OsLock::try_whole(file, exclusive)
    }

    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, OsLock)>> {
        let flags = if exclusive { OFlags::RDWR } else { OFlags::RDONLY };
        OsLock::try_first_byte(self.open_known(name, id, flags)?, bytes, exclusive)
    }

    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool> {
        OsLock::is_byte_held(&self.open_known(name, id, OFlags::RDONLY)?, at)
    }

    fn unfit(&self) -> io::Result<Option<String>> {
        Ok(file_system::unfit(self.file_system))
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::log::fs::DiskFile;
    use crate::log::fs::linux_file_system::TMPFS;

    #[test]
    fn a_rename_replaces_no_file_even_where_the_file_system_cannot_promise_it() {
        let path = tempfile::tempdir().unwrap();
        let dir = OsDisk.open_dir(path.path()).unwrap();
        for is_supported in [true, false] {
            let rename = |from, to| match is_supported {
                true => dir.rename(from, to),
                false => dir.renamed(Err(Errno::INVAL), from, to),
            };
            let file = dir.create("from", 4096).unwrap();
            let taken = dir.create("taken", 4096).unwrap();
            let refused = rename("from", "taken").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
            assert_eq!(dir.id_of("from").unwrap(), file.id());
            assert_eq!(dir.id_of("taken").unwrap(), taken.id());
            // A name that leads nowhere is taken too, although no file is found behind it.
            std::os::unix::fs::symlink("nowhere", path.path().join("link")).unwrap();
            let refused = rename("from", "link").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
            dir.unlink("link").unwrap();
            rename("from", "to").unwrap();
            assert_eq!(dir.id_of("to").unwrap(), file.id());
            assert_eq!(dir.links("to").unwrap(), 1, "the old name is still there");
            assert_eq!(dir.id_of("from").unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(rename("from", "new").unwrap_err().kind(), io::ErrorKind::NotFound);
            dir.unlink("to").unwrap();
            dir.unlink("taken").unwrap();
        }
        // Other errors are passed on and change nothing.
        let file = dir.create("from", 4096).unwrap();
        let failed = dir.renamed(Err(Errno::IO), "from", "to").unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert_eq!(dir.id_of("from").unwrap(), file.id());
        assert_eq!(dir.id_of("to").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_cached_until_the_kernel_drops_its_pages() {
        let path = tempfile::tempdir().unwrap();
        let dir = OsDisk.open_dir(path.path()).unwrap();
        let file = dir.create("file", 1 << 20).unwrap();
        file.write_at(&mut [IoSlice::new(&[7; 8192])], 0).unwrap();
        assert!(file.is_cached(0) && file.is_cached(8191));
        file.sync().unwrap();
        // The kernel may keep a page that is still in another processor's batch, so try again.
        let is_dropped = || {
            let file = file.file().unwrap();
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
            true
        };
        if dir.file_system == TMPFS {
            println!("skipped: {} is on tmpfs, which drops no pages", path.path().display());
        } else {
            let dropped = (0..500).any(|_| is_dropped() && !file.is_cached(0));
            assert!(dropped, "the page stays in memory");
        }
    }
}
