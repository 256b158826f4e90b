//! Segments in which no more will come: what each holds, and what a compaction would give back.

use std::collections::BTreeSet;

use crate::log::fs::Disk;
use crate::log::read::version::Version;

/// What a segment holds that will not change any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtRest {
    pub(crate) number: u32,
    pub(crate) id: u64,
    /// The length of its file.
    pub(crate) len: u64,
    pub(crate) is_output: bool,
    /// The bytes of its batches.
    pub(crate) batch_bytes: u64,
    /// The bytes of the values in them.
    pub(crate) value_bytes: u64,
    /// The part of those that keys still hold.
    pub(crate) live_bytes: u64,
}

impl AtRest {
    pub(crate) fn dead_bytes(&self) -> u64 {
        self.value_bytes - self.live_bytes
    }

    /// Whether it holds values, and no key has any of them.
    pub(crate) fn is_gone(&self) -> bool {
        self.value_bytes > 0 && self.live_bytes == 0
    }

    /// Whether it holds so little that it is worth joining to others.
    pub(crate) fn is_small(&self, segment_len: u64) -> bool {
        self.batch_bytes < segment_len / 4
    }

    /// About how many of its bytes a compaction would give back.
    pub(crate) fn gain(&self) -> u64 {
        match self.value_bytes {
            // Removals alone; those in an output are there because they are needed.
            0 if self.is_output => 0,
            0 => self.batch_bytes,
            all => (self.batch_bytes as f64 * (self.dead_bytes() as f64 / all as f64)) as u64,
        }
    }
}

impl<D: Disk> Version<D> {
    /// Numbers of the segments that are part of the store.
    pub(crate) fn current(&self) -> impl Iterator<Item = u32> + use<D> {
        0..self.segments.len() as u32
    }

    /// The segments in which no more will come.
    pub(crate) fn at_rest(&self) -> Vec<AtRest> {
        let open: BTreeSet<u32> = self.open.iter().map(|cursor| cursor.segment).collect();
        let look = |number: u32| {
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
        self.current().filter(|number| !open.contains(number)).map(look).collect()
    }

    /// The bytes of all batches.
    pub(crate) fn all_batch_bytes(&self) -> u64 {
        self.batch_bytes.iter().sum()
    }
}
