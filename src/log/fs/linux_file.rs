//! Implements [`DiskFile`] on Linux.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::process::Resource;

use crate::log::fs::mapping::{Mapping, begin_writeback};
use crate::log::fs::{DiskFile, FileId};

/// The maximum number of buffers in one call (`IOV_MAX`).
const BUFFERS_MAX: usize = 1024;

/// A file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    /// `None` if the file is only read: a mapping needs no descriptor.
    pub(super) file: Option<File>,
    pub(super) mapping: Mapping,
    pub(super) id: FileId,
    /// Whether a store into allocated space may need more disk space.
    pub(super) needs_space: bool,
}

/// Allocates all of a file, including its holes: a store into a hole on a full disk raises SIGBUS.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    Ok(retry(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len))?)
}

/// Fails if a file of `len` bytes exceeds the file size limit of the process. The kernel would
/// raise SIGXFSZ instead, even for a write inside a file that is already longer.
pub(super) fn check_size_limit(len: u64) -> io::Result<()> {
    match rustix::process::getrlimit(Resource::Fsize).current {
        Some(limit) if len > limit => {
            let why = format!(
                "it needs a file of {len} bytes, and this process may only write files of at most \
                 {limit} bytes (RLIMIT_FSIZE, `ulimit -f`)"
            );
            Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
        }
        _ => Ok(()),
    }
}

/// Retries a call that a signal interrupts.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Writes all buffers, with as many calls of `write` as needed.
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

impl OsFile {
    pub(super) fn file(&self) -> io::Result<&File> {
        let read_only = || io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading");
        self.file.as_ref().ok_or_else(read_only)
    }
}

impl DiskFile for OsFile {
    #[inline]
    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    fn id(&self) -> FileId {
        self.id
    }

    #[inline]
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.needs_space { self.mapping.reserve(offset, len) } else { Ok(()) }
    }

    fn is_cached(&self, offset: u64) -> bool {
        // NOWAIT fails if the byte would have to be read from the disk.
        let Ok(file) = self.file() else { return false };
        let (mut byte, flags) = ([0], rustix::io::ReadWriteFlags::NOWAIT);
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, flags) == Ok(1)
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        check_size_limit(offset + len as u64)?;
        let file = self.file()?.as_fd();
        write_all(buffers, offset, |some, at| rustix::io::pwritev(file, some, at))
    }

    fn write_back(&self, range: Range<u64>) {
        if let Ok(file) = self.file() {
            begin_writeback(file.as_fd(), range);
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let file = self.file()?;
        Ok(retry(|| rustix::fs::fallocate(file, flags, offset, len))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes buffers of these lengths at offset 100. The first calls return `calls`, later ones
    /// write everything. Returns the written bytes.
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
    fn a_short_or_interrupted_write_continues_where_it_stopped() {
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
    fn a_write_that_fails_or_writes_nothing_is_an_error() {
        let after = |last| write(&[10, 20], &[Ok(7), Err(Errno::INTR), last]).unwrap_err();
        assert_eq!(after(Err(Errno::NOSPC)).kind(), io::ErrorKind::StorageFull);
        assert_eq!(after(Err(Errno::IO)).raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert_eq!(after(Ok(0)).kind(), io::ErrorKind::WriteZero);
    }
}
