//! Segments that get no more batches: what each contains, and how much space a compaction of it
//! would free.

use std::collections::BTreeSet;

use crate::log::fs::Disk;
use crate::log::read::version::Version;

/// Counts of a segment that gets no more batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtRest {
    pub(crate) number: u32,
    pub(crate) id: u64,
    /// The length of the file, in bytes.
    pub(crate) len: u64,
    pub(crate) is_output: bool,
    /// The bytes of the segment's batches.
    pub(crate) batch_bytes: u64,
    /// The bytes of the values in those batches.
    pub(crate) value_bytes: u64,
    /// The bytes of those values that still belong to a key.
    pub(crate) live_bytes: u64,
}

impl AtRest {
    pub(crate) fn dead_bytes(&self) -> u64 {
        self.value_bytes - self.live_bytes
    }

    /// Whether the segment contains values and none of them belongs to a key.
    pub(crate) fn is_gone(&self) -> bool {
        self.value_bytes > 0 && self.live_bytes == 0
    }

    /// Whether the segment contains so little that it is worth joining to others.
    pub(crate) fn is_small(&self, segment_len: u64) -> bool {
        self.batch_bytes < segment_len / 4
    }

    /// Estimates the bytes that a compaction of the segment would free.
    pub(crate) fn gain(&self) -> u64 {
        match self.value_bytes {
            // The segment contains only removals. Those in a compaction output are all still
            // needed.
            0 if self.is_output => 0,
            0 => self.batch_bytes,
            all => (self.batch_bytes as f64 * (self.dead_bytes() as f64 / all as f64)) as u64,
        }
    }
}

impl<D: Disk> Version<D> {
    /// Returns the numbers of the segments that are part of the store.
    pub(crate) fn current(&self) -> impl Iterator<Item = u32> + use<D> {
        0..self.segments.len() as u32
    }

    /// Returns the counts of the segments that get no more batches.
    pub(crate) fn at_rest(&self) -> Vec<AtRest> {
        let open: BTreeSet<u32> = self.open.iter().map(|cursor| cursor.segment).collect();
        let counts = |number: u32| {
            let header = self.segments[number as usize].header();
            AtRest {
                number,
                id: header.id,
                len: header.len,
                is_output: header.output.is_some(),
                batch_bytes: self.batch_bytes[number as usize],
                value_bytes: self.value_bytes[number as usize],
                live_bytes: self.index.live_bytes_in(number),
            }
        };
        self.current().filter(|number| !open.contains(number)).map(counts).collect()
    }

    /// Returns the bytes of all batches.
    pub(crate) fn all_batch_bytes(&self) -> u64 {
        self.batch_bytes.iter().sum()
    }
}
