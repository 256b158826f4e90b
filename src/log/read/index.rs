//! The index: the extents of each key's value, in the order of the history.
//!
//! It is a cache of the log, built by applying entries in order. It owns no files: an extent names
//! its segment by a number, which is valid only in the `Version` that owns the index.

use std::hash::BuildHasher;
use std::mem::size_of;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use partd_format::Kind;
use smallvec::{SmallVec, smallvec};

use crate::Key;
use crate::log::segment::extent::Extent;

/// The extents of one key's value, shared with the reads that use them. A single extent, which a
/// short key often has, is stored inline in the same allocation.
pub(crate) type Extents = Arc<SmallVec<[Extent; 1]>>;

/// The extents of every key.
#[derive(Debug, Default)]
pub(crate) struct Index {
    table: HashTable<KeyExtents>,
    hasher: RandomState,
    live_bytes: u64,
    extents: u64,
    /// The live bytes in each segment, by its number.
    live_in: Vec<u64>,
}

/// The index's record of one key.
#[derive(Clone, Debug)]
pub(crate) struct KeyExtents {
    pub(crate) key: Key,
    pub(crate) extents: Extents,
    /// The length of the value in bytes.
    pub(crate) len: u64,
    /// Whether the key was set since its last delete.
    pub(crate) is_set: bool,
}

impl Index {
    /// Applies the next entry of the history.
    #[inline]
    pub(crate) fn apply(&mut self, kind: Kind, key: &[u8], extent: Extent) {
        match kind {
            Kind::Append => {
                let slot = key_mut(&mut self.table, &self.hasher, key);
                // A read in progress keeps the extents that it started with.
                let extents = Arc::make_mut(&mut slot.extents);
                if extents.len() == 1 {
                    // Reserve as `Vec` does at first: a list that spills to the heap will probably
                    // keep growing.
                    extents.reserve(3);
                }
                extents.push(extent);
                slot.len += extent.len();
                self.live_bytes += extent.len();
                self.extents += 1;
                add_live(&mut self.live_in, &extent);
            }
            Kind::Set => {
                let slot = key_mut(&mut self.table, &self.hasher, key);
                if slot.is_set {
                    return;
                }
                slot.extents.iter().for_each(|extent| remove_live(&mut self.live_in, extent));
                add_live(&mut self.live_in, &extent);
                self.live_bytes = self.live_bytes - slot.len + extent.len();
                self.extents = self.extents - slot.extents.len() as u64 + 1;
                slot.extents = Arc::new(smallvec![extent]);
                slot.len = extent.len();
                slot.is_set = true;
            }
            Kind::Delete => {
                let hash = self.hasher.hash_one(key);
                if let Ok(entry) = self.table.find_entry(hash, |slot| slot.key.as_bytes() == key) {
                    let (slot, _) = entry.remove();
                    slot.extents.iter().for_each(|extent| remove_live(&mut self.live_in, extent));
                    self.live_bytes -= slot.len;
                    self.extents -= slot.extents.len() as u64;
                }
            }
            Kind::Clear => self.clear(),
            Kind::DeletePrefix => self.delete_prefix(key),
        }
    }

    /// Removes the keys that begin with a prefix.
    pub(crate) fn delete_prefix(&mut self, prefix: &[u8]) {
        if prefix.is_empty() {
            return self.clear();
        }
        let Index { table, live_bytes, extents, live_in, .. } = self;
        table.retain(|slot| {
            let stays = !slot.key.as_bytes().starts_with(prefix);
            if !stays {
                slot.extents.iter().for_each(|extent| remove_live(live_in, extent));
                *live_bytes -= slot.len;
                *extents -= slot.extents.len() as u64;
            }
            stays
        });
    }

    /// Removes every key.
    pub(crate) fn clear(&mut self) {
        self.table = HashTable::new();
        self.live_bytes = 0;
        self.extents = 0;
        self.live_in.clear();
    }

    /// Returns the record of a key, or `None` if the key is missing.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyExtents> {
        self.table.find(self.hasher.hash_one(key), |slot| slot.key.as_bytes() == key)
    }

    /// Returns the records of all keys, in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &KeyExtents> {
        self.table.iter()
    }

    /// Returns the number of keys.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the bytes of all values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Returns the bytes of values in a segment that belong to keys.
    pub(crate) fn live_bytes_in(&self, segment: u32) -> u64 {
        self.live_in.get(segment as usize).copied().unwrap_or(0)
    }

    /// Returns the number of extents.
    pub(crate) fn extents(&self) -> u64 {
        self.extents
    }

    /// Returns the memory that the index takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        // hashbrown fills at most 7/8 of its buckets and keeps a control byte for each.
        let table = self.table.capacity() * 8 / 7 * (size_of::<KeyExtents>() + 1);
        let heap: usize = self
            .keys()
            .map(|slot| {
                let list = size_of::<SmallVec<[Extent; 1]>>() + 2 * size_of::<usize>();
                let behind = if slot.extents.spilled() { slot.extents.capacity() } else { 0 };
                slot.key.heap_bytes() + list + behind * size_of::<Extent>()
            })
            .sum();
        (table + heap + self.live_in.capacity() * size_of::<u64>()) as u64
    }
}

#[inline]
fn add_live(live: &mut Vec<u64>, extent: &Extent) {
    let number = extent.segment() as usize;
    if live.len() <= number {
        live.resize(number + 1, 0);
    }
    live[number] += extent.len();
}

#[inline]
fn remove_live(live: &mut [u64], extent: &Extent) {
    live[extent.segment() as usize] -= extent.len();
}

#[inline]
fn key_mut<'t>(
    table: &'t mut HashTable<KeyExtents>,
    hasher: &RandomState,
    key: &[u8],
) -> &'t mut KeyExtents {
    table
        .entry(
            hasher.hash_one(key),
            |slot| slot.key.as_bytes() == key,
            |slot| hasher.hash_one(slot.key.as_bytes()),
        )
        .or_insert_with(|| KeyExtents {
            key: Key::from(key),
            extents: Extents::default(),
            len: 0,
            is_set: false,
        })
        .into_mut()
}
