//! The rival: a vector for each key, all spilled to one file when they get large, and byte ranges.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::Advice;

/// The maximum number of buffers per write call.
const BUFFERS: usize = 1024;

/// The spill file that a query engine writes by hand: without checksums, and lost in a crash.
pub(crate) struct Ranges {
    file: File,
    end: u64,
    limit: usize,
    held: usize,
    buffers: Vec<Vec<u8>>,
    ranges: Vec<Vec<(u64, usize)>>,
}

impl Ranges {
    pub(crate) fn new(path: &Path, keys: usize, limit: usize) -> Ranges {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        // Read exact ranges: without this advice, each read also loads the device's read-ahead.
        rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
        let (buffers, ranges) = (vec![Vec::new(); keys], vec![Vec::new(); keys]);
        Ranges { file, end: 0, limit, held: 0, buffers, ranges }
    }

    pub(crate) fn append(&mut self, key: usize, value: &[u8]) {
        self.buffers[key].extend_from_slice(value);
        self.held += value.len();
        if self.held >= self.limit {
            self.spill();
        }
    }

    fn spill(&mut self) {
        let keys: Vec<usize> =
            (0..self.buffers.len()).filter(|&key| !self.buffers[key].is_empty()).collect();
        for keys in keys.chunks(BUFFERS) {
            let mut slices: Vec<IoSlice<'_>> =
                keys.iter().map(|&key| IoSlice::new(&self.buffers[key])).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                let written = self.file.write_vectored(slices).unwrap();
                IoSlice::advance_slices(&mut slices, written);
            }
            for &key in keys {
                let len = self.buffers[key].len();
                self.ranges[key].push((self.end, len));
                self.end += len as u64;
                self.buffers[key].clear();
            }
        }
        self.held = 0;
    }

    pub(crate) fn get(&self, key: usize) -> Vec<u8> {
        let spilled: usize = self.ranges[key].iter().map(|(_, len)| len).sum();
        let mut value = vec![0; spilled + self.buffers[key].len()];
        let mut rest = &mut value[..];
        for &(at, len) in &self.ranges[key] {
            let (range, behind) = rest.split_at_mut(len);
            self.file.read_exact_at(range, at).unwrap();
            rest = behind;
        }
        rest.copy_from_slice(&self.buffers[key]);
        value
    }

    /// Passes a key's bytes to `found`, one range at a time.
    pub(crate) fn each(&self, key: usize, found: &mut dyn FnMut(&[u8])) {
        let mut piece = Vec::new();
        for &(at, len) in &self.ranges[key] {
            for from in (0..len).step_by(1 << 20) {
                piece.resize((len - from).min(1 << 20), 0);
                self.file.read_exact_at(&mut piece, at + from as u64).unwrap();
                found(&piece);
            }
        }
        found(&self.buffers[key]);
    }
}
