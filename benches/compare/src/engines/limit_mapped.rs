//! A limit of the machine: a checksum and a copy into fresh mapped files, and back.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::Result;
use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, fallocate};

use crate::engine::{Engine, Setup};
use crate::workload::{Piece, Workload};

/// The default segment length of a `SegmentLog`.
pub(crate) const SEGMENT_BYTES: usize = 64 << 20;

pub(crate) struct Mapped {
    dir: PathBuf,
    workload: Workload,
    maps: Vec<MmapMut>,
    at: usize,
}

/// Creates a file of a segment's length with its disk space.
pub(crate) fn allocated(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES as u64)?;
    Ok(file)
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let (dir, workload) = (setup.dir.to_owned(), setup.workload);
    Ok(Box::new(Mapped { dir, workload, maps: Vec::new(), at: SEGMENT_BYTES }))
}

impl Engine for Mapped {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        for Piece { value, .. } in batch {
            if self.at + value.len() > SEGMENT_BYTES {
                let file = allocated(&self.dir.join(self.maps.len().to_string()))?;
                // SAFETY: the file is this process's alone, and it writes to it only here.
                let map = unsafe { MmapOptions::new().len(SEGMENT_BYTES).map_mut(&file) }?;
                self.maps.push(map);
                self.at = 0;
            }
            black_box(crc32fast::hash(value));
            if let Some(map) = self.maps.last_mut() {
                map[self.at..self.at + value.len()].copy_from_slice(value);
            }
            self.at += value.len();
        }
        Ok(())
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let Workload { value: len, keys, batches, .. } = self.workload;
        let per_map = SEGMENT_BYTES / len;
        let mut value = Vec::with_capacity(len * batches);
        for batch in 0..batches {
            let piece = batch * keys + key;
            let at = piece % per_map * len;
            value.extend_from_slice(&self.maps[piece / per_map][at..at + len]);
            black_box(crc32fast::hash(&value[batch * len..]));
        }
        Ok(value)
    }
}
