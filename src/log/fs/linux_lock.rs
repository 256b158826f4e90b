//! Locks on Linux.
//!
//! The lock on a directory is an `flock`; a lock on a byte of a file is an open-file-description
//! lock (`F_OFD_SETLK`). Neither needs a lock file that could be deleted.

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, c_short, flock};

use crate::log::fs::fork::ForkMark;

/// A lock of the operating system.
#[derive(Debug)]
pub struct OsLock {
    file: File,
    kind: LockKind,
    mark: ForkMark,
}

#[derive(Clone, Copy, Debug)]
enum LockKind {
    Whole,
    Byte(u64),
}

impl OsLock {
    /// Locks the file or directory behind this descriptor; `None` if a conflicting lock is held. No
    /// one else may use the descriptor.
    pub(super) fn try_whole(file: File, exclusive: bool) -> io::Result<Option<OsLock>> {
        let locked = if exclusive {
            fs2::FileExt::try_lock_exclusive(&file)
        } else {
            fs2::FileExt::try_lock_shared(&file)
        };
        match locked {
            Ok(()) => Ok(Some(OsLock { file, kind: LockKind::Whole, mark: ForkMark::new()? })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Locks the first of `bytes` on which no conflicting lock is held. Returns the byte too; `None`
    /// if all of them are held. No one else may use the descriptor.
    pub(super) fn try_first_byte(
        file: File,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, OsLock)>> {
        let mark = ForkMark::new()?;
        let kind = if exclusive { F_WRLCK } else { F_RDLCK };
        for at in bytes {
            if set_byte_lock(&file, at, kind)? {
                return Ok(Some((at, OsLock { file, kind: LockKind::Byte(at), mark })));
            }
        }
        Ok(None)
    }

    /// Whether a lock is held on a byte, through any other descriptor.
    pub(super) fn is_byte_held(file: &File, at: u64) -> io::Result<bool> {
        let mut lock = byte_lock(at, F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(lock.l_type != F_UNLCK as c_short)
    }
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing the file is not enough, because a forked child has it open too. In the child, the
        // lock still belongs to the parent and must not be released.
        if self.mark.is_forked() {
            return;
        }
        let _ = match self.kind {
            LockKind::Whole => fs2::FileExt::unlock(&self.file),
            LockKind::Byte(at) => set_byte_lock(&self.file, at, F_UNLCK).map(drop),
        };
    }
}

fn byte_lock(at: u64, kind: c_int) -> flock {
    flock {
        l_type: kind as c_short,
        l_whence: SEEK_SET as c_short,
        l_start: at.cast_signed(),
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes or releases a lock on a byte; false if a conflicting lock is held.
fn set_byte_lock(file: &File, at: u64, kind: c_int) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(at, kind))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
