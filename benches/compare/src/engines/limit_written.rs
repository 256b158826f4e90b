//! A limit of the machine: a checksum and writes of 256 KiB into allocated files.

use std::fs::File;
use std::hint::black_box;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::limit_mapped::{SEGMENT_BYTES, allocated};
use crate::engine::{Engine, Setup};
use crate::workload::Piece;

const GROUP_BYTES: usize = 256 << 10;
/// Smaller values are gathered: a vector of slices then costs the kernel more than a copy.
const GATHER_BELOW: usize = 2 << 10;

pub(crate) struct Written {
    dir: PathBuf,
    files: Vec<File>,
    at: usize,
    group: Vec<u8>,
    /// The files before this index are full and synced.
    synced: usize,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Written::new(setup.dir)))
}

impl Written {
    pub(crate) fn new(dir: &Path) -> Written {
        let group = Vec::with_capacity(GROUP_BYTES);
        Written { dir: dir.to_owned(), files: Vec::new(), at: SEGMENT_BYTES, group, synced: 0 }
    }

    /// Syncs what was written since the last call.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.files[self.synced..].iter().try_for_each(File::sync_data)?;
        self.synced = self.files.len().saturating_sub(1);
        Ok(())
    }

    /// Returns the file and the offset for the next `len` bytes.
    fn place(&mut self, len: usize) -> Result<(&File, u64)> {
        if self.at + len > SEGMENT_BYTES {
            self.files.push(allocated(&self.dir.join(self.files.len().to_string()))?);
            self.at = 0;
        }
        let at = self.at as u64;
        self.at += len;
        let Some(file) = self.files.last() else { bail!("no file of {len} bytes") };
        Ok((file, at))
    }
}

impl Engine for Written {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let Some(len) = batch.first().map(|piece| piece.value.len()) else { return Ok(()) };
        for pieces in batch.chunks((GROUP_BYTES / len).clamp(1, GROUP_BYTES / 128)) {
            let bytes = pieces.len() * len;
            if len < GATHER_BELOW {
                let mut group = std::mem::take(&mut self.group);
                group.clear();
                for piece in pieces {
                    black_box(crc32fast::hash(piece.value));
                    group.extend_from_slice(piece.value);
                }
                let (file, at) = self.place(bytes)?;
                file.write_all_at(&group, at)?;
                self.group = group;
                continue;
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(pieces.len());
            for piece in pieces {
                black_box(crc32fast::hash(piece.value));
                slices.push(IoSlice::new(piece.value));
            }
            let (file, mut at) = self.place(bytes)?;
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                let written = rustix::io::pwritev(file, slices, at)?;
                IoSlice::advance_slices(&mut slices, written);
                at += written as u64;
            }
        }
        Ok(())
    }

    fn get(&self, _: usize) -> Result<Vec<u8>> {
        bail!("this limit reads nothing back")
    }
}
