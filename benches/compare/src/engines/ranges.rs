//! What query engines write by hand: a vector for each partition, all spilled to one file when they
//! get large, and the byte ranges of each partition.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::FileExt;

use anyhow::Result;

use crate::engine::{Engine, MEMORY_BYTES, Setup};
use crate::workload::Piece;

/// The maximum number of buffers per write call (`IOV_MAX`).
const BUFFERS: usize = 1024;

pub(crate) struct Ranges {
    file: File,
    end: u64,
    held: usize,
    buffers: Vec<Vec<u8>>,
    ranges: Vec<Vec<(u64, usize)>>,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let path = setup.dir.join("spill");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let keys = setup.workload.keys;
    let (buffers, ranges) = (vec![Vec::new(); keys], vec![Vec::new(); keys]);
    Ok(Box::new(Ranges { file, end: 0, held: 0, buffers, ranges }))
}

impl Ranges {
    fn spill(&mut self) -> Result<()> {
        let keys: Vec<usize> =
            (0..self.buffers.len()).filter(|&key| !self.buffers[key].is_empty()).collect();
        for keys in keys.chunks(BUFFERS) {
            let mut slices: Vec<IoSlice<'_>> =
                keys.iter().map(|&key| IoSlice::new(&self.buffers[key])).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                let written = self.file.write_vectored(slices)?;
                IoSlice::advance_slices(&mut slices, written);
            }
            for &key in keys {
                let len = self.buffers[key].len();
                self.ranges[key].push((self.end, len));
                self.end += len as u64;
                // Its capacity stays for the next fill.
                self.buffers[key].clear();
            }
        }
        self.held = 0;
        Ok(())
    }
}

impl Engine for Ranges {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        for piece in batch {
            self.buffers[piece.key].extend_from_slice(piece.value);
            self.held += piece.value.len();
            if self.held >= MEMORY_BYTES {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let spilled: usize = self.ranges[key].iter().map(|(_, len)| len).sum();
        let mut value = vec![0; spilled + self.buffers[key].len()];
        let mut rest = &mut value[..];
        for &(at, len) in &self.ranges[key] {
            let (range, behind) = rest.split_at_mut(len);
            self.file.read_exact_at(range, at)?;
            rest = behind;
        }
        rest.copy_from_slice(&self.buffers[key]);
        Ok(value)
    }
}
