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
use crate::log::read::order::{KeyOrder, begins};
use crate::log::segment::extent::Extent;

/// A table with fewer buckets is never made smaller.
const SHRINK_MIN_BUCKETS: usize = 128;

/// The extents of one key's value, shared with the reads that use them. A single extent, which a
/// short key often has, is stored inline in the same allocation.
pub(crate) type Extents = Arc<SmallVec<[Extent; 1]>>;

/// The number of parts. Several threads fill an index, each some of its parts.
pub(crate) const PARTS: usize = 16;

/// The extents of every key.
#[derive(Debug, Default)]
pub(crate) struct Index {
    hasher: RandomState,
    parts: [Part; PARTS],
}

/// The keys whose hashes lead to one part of an index.
#[derive(Debug, Default)]
struct Part {
    table: HashTable<KeyExtents>,
    order: KeyOrder,
    live_bytes: u64,
    extents: u64,
    /// The live bytes in each segment, by its number.
    live_in: Vec<u64>,
}

/// Neighbouring parts of an index, to which one thread applies the history.
#[derive(Debug)]
pub(crate) struct Share<'i> {
    hasher: &'i RandomState,
    first: usize,
    parts: &'i mut [Part],
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
    /// Returns the whole index as one share.
    pub(crate) fn share(&mut self) -> Share<'_> {
        Share { hasher: &self.hasher, first: 0, parts: &mut self.parts }
    }

    /// Divides the index into at most `count` shares.
    pub(crate) fn shares(&mut self, count: usize) -> Vec<Share<'_>> {
        let (hasher, len) = (&self.hasher, PARTS.div_ceil(count.max(1)));
        let parts = self.parts.chunks_mut(len).enumerate();
        parts.map(|(number, parts)| Share { hasher, first: number * len, parts }).collect()
    }

    /// Returns the record of a key, or `None` if the key is missing.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyExtents> {
        let hash = self.hasher.hash_one(key);
        self.parts[part_of(hash)].table.find(hash, |slot| slot.key.as_bytes() == key)
    }

    /// Returns the records of all keys, in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &KeyExtents> {
        self.parts.iter().flat_map(|part| part.table.iter())
    }

    /// Returns the number of keys.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.table.len()).sum()
    }

    /// Returns the bytes of all values.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.live_bytes).sum()
    }

    /// Returns the bytes of values in a segment that belong to keys.
    pub(crate) fn live_bytes_in(&self, segment: u32) -> u64 {
        let live_in = self.parts.iter().filter_map(|part| part.live_in.get(segment as usize));
        live_in.sum()
    }

    /// Returns the number of extents.
    pub(crate) fn extents(&self) -> u64 {
        self.parts.iter().map(|part| part.extents).sum()
    }

    /// Returns the memory that the index takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let heap: usize = self
            .keys()
            .map(|slot| {
                let list = size_of::<SmallVec<[Extent; 1]>>() + 2 * size_of::<usize>();
                let behind = if slot.extents.spilled() { slot.extents.capacity() } else { 0 };
                slot.key.heap_bytes() + list + behind * size_of::<Extent>()
            })
            .sum();
        let own = |part: &Part| {
            let live_in = part.live_in.capacity() * size_of::<u64>();
            part.table.allocation_size() + live_in + part.order.memory_bytes()
        };
        (self.parts.iter().map(own).sum::<usize>() + heap) as u64
    }
}

impl Share<'_> {
    /// Applies the next entry of the history, as far as it concerns keys of these parts.
    #[inline]
    pub(crate) fn apply(&mut self, kind: Kind, key: &[u8], extent: Extent) {
        let hasher = self.hasher;
        if matches!(kind, Kind::Clear | Kind::DeletePrefix) {
            return self.parts.iter_mut().for_each(|part| part.remove_all(kind, key, hasher));
        }
        let hash = hasher.hash_one(key);
        if let Some(part) = self.parts.get_mut(part_of(hash).wrapping_sub(self.first)) {
            match kind {
                Kind::Append => part.append(hash, key, extent, hasher),
                Kind::Set => part.set(hash, key, extent, hasher),
                _ => part.delete(hash, key, hasher),
            }
        }
    }
}

impl Part {
    #[inline]
    fn append(&mut self, hash: u64, key: &[u8], extent: Extent, hasher: &RandomState) {
        let slot = key_mut(&mut self.table, &mut self.order, hash, key, hasher);
        // A read in progress keeps the extents that it started with.
        let extents = Arc::make_mut(&mut slot.extents);
        if extents.len() == 1 {
            // Reserve as `Vec` does at first: a list that spills to the heap will probably keep
            // growing.
            extents.reserve(3);
        }
        extents.push(extent);
        slot.len += extent.len();
        self.live_bytes += extent.len();
        self.extents += 1;
        add_live(&mut self.live_in, &extent);
    }

    fn set(&mut self, hash: u64, key: &[u8], extent: Extent, hasher: &RandomState) {
        let slot = key_mut(&mut self.table, &mut self.order, hash, key, hasher);
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

    fn delete(&mut self, hash: u64, key: &[u8], hasher: &RandomState) {
        self.remove(hash, key);
        self.shrink(hasher);
    }

    /// Applies a clear or a prefix delete.
    fn remove_all(&mut self, kind: Kind, prefix: &[u8], hasher: &RandomState) {
        match kind {
            Kind::Clear => *self = Part::default(),
            _ => self.delete_prefix(prefix, hasher),
        }
    }

    /// Removes the keys that begin with a prefix.
    fn delete_prefix(&mut self, prefix: &[u8], hasher: &RandomState) {
        if prefix.is_empty() {
            *self = Part::default();
            return;
        }
        if self.table.is_empty() {
            return;
        }
        let keys = self.table.iter().map(|slot| &slot.key);
        if let Some(keys) = self.order.take(prefix, self.table.len(), keys) {
            keys.iter()
                .for_each(|key| self.remove(hasher.hash_one(key.as_bytes()), key.as_bytes()));
        } else {
            let Part { table, live_bytes, extents, live_in, .. } = self;
            table.retain(|slot| {
                let stays = !begins(&slot.key, prefix);
                if !stays {
                    slot.extents.iter().for_each(|extent| remove_live(live_in, extent));
                    *live_bytes -= slot.len;
                    *extents -= slot.extents.len() as u64;
                }
                stays
            });
            self.order.passed(self.table.len());
        }
        self.shrink(hasher);
    }

    /// Removes a key, if it is there.
    fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(entry) = self.table.find_entry(hash, |slot| slot.key.as_bytes() == key) {
            let (slot, _) = entry.remove();
            slot.extents.iter().for_each(|extent| remove_live(&mut self.live_in, extent));
            self.live_bytes -= slot.len;
            self.extents -= slot.extents.len() as u64;
        }
    }

    /// Moves the keys to a smaller table if fewer than an eighth of the buckets are in use, so that
    /// an index that was large once does not stay so.
    #[inline]
    fn shrink(&mut self, hasher: &RandomState) {
        let (buckets, len) = (self.table.num_buckets(), self.table.len());
        if buckets > SHRINK_MIN_BUCKETS && len < buckets / 8 {
            // Leave room to grow again.
            self.table.shrink_to(2 * len, |slot| hasher.hash_one(slot.key.as_bytes()));
            self.order.trim(len);
        }
    }
}

/// The part of a key with this hash. The table uses the lowest and the highest bits.
#[inline]
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
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
    order: &mut KeyOrder,
    hash: u64,
    key: &[u8],
    hasher: &RandomState,
) -> &'t mut KeyExtents {
    let is_key = |slot: &KeyExtents| slot.key.as_bytes() == key;
    table
        .entry(hash, is_key, |slot| hasher.hash_one(slot.key.as_bytes()))
        .or_insert_with(|| {
            let key = Key::from(key);
            order.add(&key);
            KeyExtents { key, extents: Extents::default(), len: 0, is_set: false }
        })
        .into_mut()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use partd_format::Entry;

    use super::*;

    fn extent(kind: Kind, key: &[u8]) -> Extent {
        let value_len = if kind.has_value() { 10 } else { 0 };
        let (value_offset, value_checksum) = (64, 0);
        let entry = Entry { kind, key, value_offset, value_len, value_checksum, sequence: None };
        Extent::of(&entry, 3, 1)
    }

    fn apply(index: &mut Index, kind: Kind, key: &str) {
        let key = key.as_bytes();
        index.share().apply(kind, key, extent(kind, key));
    }

    #[test]
    fn many_prefix_deletes_visit_each_kept_key_a_few_times_at_most() {
        const KEYS: usize = 100_000;
        let mut index = Index::default();
        (0..KEYS).for_each(|i| apply(&mut index, Kind::Append, &format!("kept {i}")));
        for job in 0..3000 {
            (0..5).for_each(|i| apply(&mut index, Kind::Append, &format!("job {job} {i}")));
            apply(&mut index, Kind::DeletePrefix, &format!("job {job} "));
            assert_eq!(index.len(), KEYS);
        }
        let visited: usize = index.parts.iter().map(|part| part.order.visited()).sum();
        assert!(visited <= 10 * KEYS, "{visited} keys were visited");
        // The keys beside the prefix stay.
        apply(&mut index, Kind::DeletePrefix, "kept 77");
        assert_eq!(index.len(), KEYS - 1111);
        assert!(index.get(b"kept 78").is_some() && index.get(b"kept 77").is_none());
        assert_eq!(index.live_bytes_in(3), 10 * (KEYS as u64 - 1111));
    }

    #[test]
    fn an_index_with_and_without_an_order_agrees_with_a_sorted_map() {
        let mut index = Index::default();
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        let mut state = 7_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % limit
        };
        let mut orders = (0, 0);
        for step in 0..60_000_u64 {
            // Phases with many prefix deletes and with none; the second kind drops the order.
            let deletes = if step / 10_000 % 2 == 0 { 10 } else { 0 };
            let key = format!("{} {} {}", below(30), below(30), below(3));
            match below(100) {
                n if n < deletes => {
                    let prefix = &key[..1 + below(key.len() as u64) as usize];
                    apply(&mut index, Kind::DeletePrefix, prefix);
                    model.retain(|key, _| !key.starts_with(prefix));
                }
                n if n < deletes + 15 => {
                    apply(&mut index, Kind::Delete, &key);
                    model.remove(&key);
                }
                _ => {
                    // Keys that never come again.
                    let key = if deletes == 0 { format!("{key} {step}") } else { key };
                    apply(&mut index, Kind::Append, &key);
                    *model.entry(key).or_default() += 10;
                }
            }
            let has_order = index.parts[0].order.memory_bytes() > 0;
            orders.0 += u64::from(has_order);
            orders.1 += u64::from(!has_order);
            if step % 500 == 0 {
                let mut keys: Vec<(&[u8], u64)> =
                    index.keys().map(|slot| (slot.key.as_bytes(), slot.len)).collect();
                keys.sort_unstable();
                assert!(keys.iter().copied().eq(model.iter().map(|(k, len)| (k.as_bytes(), *len))));
                let bytes: u64 = model.values().sum();
                assert_eq!((index.live_bytes(), index.live_bytes_in(3)), (bytes, bytes));
                assert_eq!(index.extents() * 10, bytes);
            }
        }
        assert!(orders.0 > 5000 && orders.1 > 5000, "{orders:?} steps with and without an order");
    }

    #[test]
    fn shares_that_each_apply_the_history_make_the_same_index_as_one() {
        let kinds = [Kind::Append, Kind::Append, Kind::Set, Kind::Delete, Kind::DeletePrefix];
        let history = |share: &mut Share<'_>| {
            for step in 0..20_000_u64 {
                let number = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
                let kind = if step == 9_000 { Kind::Clear } else { kinds[number as usize % 5] };
                let key = format!("{} {}", number % 61, number / 61 % 7);
                let (key, extent) = (key.as_bytes(), extent(kind, key.as_bytes()));
                share.apply(kind, key, extent);
            }
        };
        let mut whole = Index::default();
        history(&mut whole.share());
        for count in [1, 2, 3, PARTS, 100] {
            let mut index = Index::default();
            index.shares(count).iter_mut().for_each(history);
            let sorted = |index: &Index| {
                let record = |slot: &KeyExtents| (slot.key.clone(), slot.len, slot.is_set);
                let mut keys: Vec<_> = index.keys().map(record).collect();
                keys.sort_unstable();
                keys
            };
            assert!(sorted(&index).len() > 100 && sorted(&index) == sorted(&whole));
            let figures = |index: &Index| (index.live_bytes_in(3), index.extents(), index.len());
            assert_eq!(figures(&index), figures(&whole));
        }
    }

    #[test]
    fn a_removal_of_most_keys_frees_the_memory_of_the_table() {
        let removals: [fn(&mut Index); 3] = [
            |index| apply(index, Kind::DeletePrefix, "gone"),
            |index| (0..50_000).for_each(|i| apply(index, Kind::Delete, &format!("gone {i}"))),
            |index| {
                for i in 0..50_000 {
                    // Build an order, which has to go as well.
                    apply(index, Kind::DeletePrefix, &format!("none {}", i % 20));
                    apply(index, Kind::Delete, &format!("gone {i}"));
                }
            },
        ];
        for (number, remove) in removals.into_iter().enumerate() {
            let mut index = Index::default();
            apply(&mut index, Kind::Append, "kept");
            (0..50_000).for_each(|i| apply(&mut index, Kind::Append, &format!("gone {i}")));
            let full = index.memory_bytes();
            remove(&mut index);
            assert_eq!(index.len(), 1);
            let left = index.memory_bytes();
            assert!(left < full / 20, "removal {number}: {left} of {full} bytes are left");
        }
    }
}
