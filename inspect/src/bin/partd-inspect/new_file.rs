//! A file that a command creates. Only its owner may use it, and a write beyond the file size limit of
//! the process (`ulimit -f`) is an error that names the limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// A new file, written from its start or at any offset.
///
/// It checks the limit before each write, because the kernel would raise SIGXFSZ, which ends the
/// process.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    /// Where the next write of [`Write`] begins.
    at: u64,
}

impl NewFile {
    /// Creates a file, which must not exist, not even as a symbolic link.
    pub(crate) fn create(path: &Path) -> io::Result<NewFile> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(NewFile { file, at: 0 })
    }

    /// Writes all bytes at an offset.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        check_size_limit(offset.saturating_add(bytes.len() as u64))?;
        self.file.write_all_at(bytes, offset)
    }

    /// Sets the length of the file in bytes, and returns the file, to write no further than that.
    pub(crate) fn with_len(&self, len: u64) -> io::Result<&File> {
        check_size_limit(len)?;
        self.file.set_len(len)?;
        Ok(&self.file)
    }

    /// Makes the file durable.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails if a file of `len` bytes exceeds the file size limit of the process.
fn check_size_limit(len: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if len > limit => {
            let why = format!(
                "it needs a file of {len} bytes, and this process may only write files of {limit} bytes \
                 (RLIMIT_FSIZE, `ulimit -f`)"
            );
            Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
        }
        _ => Ok(()),
    }
}
