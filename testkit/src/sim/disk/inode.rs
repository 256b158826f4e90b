//! A file of a simulated disk: its memory, its holes, and the failures of its writebacks.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use partd::log::fs::Mapping;

use super::lock;
use crate::sim::memory::Memory;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    /// The inode number that `stat` reports: unchanged by a death and by a reboot.
    pub(super) identity: u64,
    pub(super) mapping: Memory,
    /// Pages whose disk space was freed.
    pub(super) holes: Mutex<BTreeSet<u64>>,
    /// Without allocation: the pages that have space.
    pub(super) backed: Option<Mutex<BTreeSet<u64>>>,
    /// Failed writebacks. Each open file reports a failure once; a file opened later reports the
    /// last failure if no one has seen it and the inode stayed open.
    pub(super) failures: Mutex<Failures>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) was_told: bool,
}

impl Inode {
    pub(super) fn new(number: u32, identity: u64, mapping: Memory) -> Inode {
        Inode {
            number,
            identity,
            mapping,
            holes: Mutex::default(),
            backed: None,
            failures: Mutex::default(),
        }
    }

    /// The number of pages that the file takes on disk.
    pub(super) fn pages(&self) -> u64 {
        self.mapping.len().div_ceil(4096) - lock(&self.holes).len() as u64
    }
}

/// Stores bytes to the memory of a file, word by word.
pub fn poke(memory: &Memory, offset: u64, bytes: &[u8]) {
    memory.stored(offset + bytes.len() as u64);
    let mapping: &Mapping = memory;
    let (mut offset, mut bytes) = (offset, bytes);
    while offset % 8 == 0
        && let Some((word, rest)) = bytes.split_first_chunk()
    {
        mapping.store(offset, u64::from_le_bytes(*word), Relaxed);
        offset += 8;
        bytes = rest;
    }
    while !bytes.is_empty() {
        let skip = (offset & 7) as usize;
        let (part, rest) = bytes.split_at(bytes.len().min(8 - skip));
        let mut word = [0; 8];
        if part.len() < 8 {
            word = mapping.load(offset & !7, Relaxed).to_le_bytes();
        }
        word[skip..skip + part.len()].copy_from_slice(part);
        mapping.store(offset & !7, u64::from_le_bytes(word), Relaxed);
        offset += part.len() as u64;
        bytes = rest;
    }
}
