//! The keys and values of a `Dict`, and the memory that they take.
//!
//! A batch of appends is written under the limit and undone if it does not fit: a bound computed
//! beforehand would be far too high for many short values. Batches with sets or removals are
//! checked against such a bound, since they cannot be undone.

use std::hash::BuildHasher;
use std::mem::size_of;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::arena::{Arena, LimitReached, Within};
use super::rope::Value;
use crate::Key;
use crate::partd::{Batch, Op};

/// The number of hash tables. Each holds a share of the keys, so growth moves few keys at a time.
const SHARDS: usize = 64;
/// The buckets of the smallest table.
const TABLE_MIN_BUCKETS: usize = 4;
/// An upper bound on the bytes of a table besides its slots and their tags.
const TABLE_OVERHEAD_MAX_BYTES: usize = 64;
/// An upper bound on the memory of an operation besides the bytes of its key and value.
const OP_MAX_BYTES: usize = 2048;

/// The keys and values, and the memory that they take.
pub(super) struct Map {
    pub(super) shards: Vec<HashTable<Slot>>,
    hasher: RandomState,
    pub(super) arena: Arena,
}

pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) value: Value,
}

impl Default for Map {
    fn default() -> Map {
        let shards = (0..SHARDS).map(|_| HashTable::new()).collect();
        Map { shards, hasher: RandomState::default(), arena: Arena::default() }
    }
}

impl Map {
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Returns the keys that begin with a prefix, in no particular order.
    pub(super) fn keys_with(&self, prefix: &Key) -> Vec<Key> {
        let slots = self.shards.iter().flatten();
        let found = slots.filter(|slot| slot.key.as_bytes().starts_with(prefix.as_bytes()));
        found.map(|slot| slot.key.clone()).collect()
    }

    /// Returns the shard of a key, and the key's hash.
    fn locate(&self, key: &Key) -> (usize, u64) {
        let hash = self.hasher.hash_one(key.as_bytes());
        // The table takes the bucket from the low bits of the hash and the tag from the top seven.
        ((hash >> 48) as usize % SHARDS, hash)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        let (shard, hash) = self.locate(key);
        self.shards[shard].find(hash, |slot| slot.key == *key).map(|slot| &slot.value)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let (index, hash) = self.locate(key);
        let Map { shards, hasher, arena } = self;
        let shard = &mut shards[index];
        let Ok(entry) = shard.find_entry(hash, |slot| slot.key == *key) else { return };
        let (slot, _) = entry.remove();
        arena.discharge(slot.key.heap_bytes());
        slot.value.release(arena);
        // Shrink when less than about a third full, to about two thirds full. Both are far enough
        // from the next resize to pay for moving the slots.
        if shard.len() * 7 < shard.num_buckets() * 2 {
            let before = shard.allocation_size();
            shard.shrink_to(shard.len() * 3 / 2, |slot| hasher.hash_one(slot.key.as_bytes()));
            arena.discharge(before - shard.allocation_size());
        }
    }

    /// Adds a key that the map does not have, with an empty value.
    fn insert(&mut self, key: &Key) -> Within<(&mut Value, &mut Arena)> {
        let (index, hash) = self.locate(key);
        let Map { shards, hasher, arena } = self;
        let shard = &mut shards[index];
        let rehash = |slot: &Slot| hasher.hash_one(slot.key.as_bytes());
        if shard.len() == shard.capacity() {
            // The insert would grow the table, so grow it here, where the growth is counted. The
            // old table is held until the new one has its slots.
            let buckets = (shard.num_buckets() * 2).max(TABLE_MIN_BUCKETS);
            let bound = buckets * (size_of::<Slot>() + 1) + TABLE_OVERHEAD_MAX_BYTES;
            arena.charge(bound)?;
            let before = shard.allocation_size();
            shard.reserve(1, rehash);
            arena.discharge(before + bound - shard.allocation_size());
        }
        // A clone has no spare capacity; the original key may have some.
        let key = key.clone();
        arena.charge(key.heap_bytes())?;
        let slot = shard.insert_unique(hash, Slot { key, value: Value::default() }, rehash);
        Ok((&mut slot.into_mut().value, arena))
    }

    /// Gives back the memory that is not in use. For this, values move to fewer slabs.
    pub(super) fn release_spare(&mut self) {
        self.arena.release_unused();
        if self.arena.begin_move() {
            for slot in self.shards.iter_mut().flatten() {
                let moved = slot.value.move_blocks(&mut self.arena);
                debug_assert!(moved.is_ok(), "there is no limit");
            }
        }
        self.arena.release_unused();
    }

    fn find_mut(&mut self, key: &Key) -> Option<(&mut Value, &mut Arena)> {
        let (index, hash) = self.locate(key);
        let slot = self.shards[index].find_mut(hash, |slot| slot.key == *key)?;
        Some((&mut slot.value, &mut self.arena))
    }

    pub(super) fn write(&mut self, batch: &Batch<'_>) {
        self.arena.set_limit(None);
        for op in batch.ops() {
            let applied = self.apply(op);
            debug_assert!(applied.is_ok(), "there is no limit");
        }
        self.release_if_sparse();
    }

    /// Gives spare memory back if it exceeds the memory in use, unless it is kept for writes within a
    /// limit. The removals before it have freed at least as much as it moves.
    pub(super) fn release_if_sparse(&mut self) {
        if self.arena.is_sparse() {
            self.release_spare();
        }
    }

    /// Writes a batch if the map then takes at most `limit_bytes`, spare memory included.
    pub(super) fn write_within(&mut self, batch: &Batch<'_>, limit_bytes: usize) -> bool {
        self.arena.set_limit(Some(limit_bytes));
        if self.arena.total_bytes() > limit_bytes {
            self.arena.release_unused();
            if self.arena.total_bytes() > limit_bytes {
                return false;
            }
        }
        let mut value_bytes = 0;
        let only_appends = batch.ops().iter().all(|op| {
            value_bytes += op.value().len();
            matches!(op, Op::Append(..))
        });
        if !only_appends {
            let fits = self.arena.total_bytes() + self.growth_bound(batch) <= limit_bytes;
            if fits {
                self.write(batch);
            }
            return fits;
        }
        if self.arena.least_bytes_with(value_bytes) > limit_bytes {
            // Writing the batch would show that too, but after many copies.
            return false;
        }
        let mut new_keys = Vec::new();
        for (done, op) in batch.ops().iter().enumerate() {
            let Op::Append(key, bytes) = op else { continue };
            match self.append(key, bytes) {
                Ok(true) => new_keys.push(done),
                Ok(false) => {}
                Err(LimitReached) => {
                    self.undo(&batch.ops()[..done], &new_keys);
                    return false;
                }
            }
        }
        true
    }

    /// Appends to a value, and returns whether this added the key. Appends nothing if the limit does
    /// not allow it.
    fn append(&mut self, key: &Key, bytes: &[u8]) -> Within<bool> {
        if let Some((value, arena)) = self.find_mut(key) {
            let len = value.len;
            let appended = value.append(bytes, arena);
            if appended.is_err() {
                value.truncate(len, arena);
            }
            return appended.map(|()| false);
        }
        self.add(key, bytes, false).map(|()| true)
    }

    /// Undoes appends, the last one first. `new_keys` are the numbers of those that added a key.
    fn undo(&mut self, ops: &[Op<'_>], mut new_keys: &[usize]) {
        for (number, op) in ops.iter().enumerate().rev() {
            let Op::Append(key, bytes) = op else { continue };
            if let Some(rest) = new_keys.strip_suffix(&[number]) {
                new_keys = rest;
                self.remove(key);
            } else if let Some((value, arena)) = self.find_mut(key) {
                value.truncate(value.len - bytes.len(), arena);
            }
        }
    }

    /// Returns an upper bound on the growth caused by a batch that sets or removes something.
    fn growth_bound(&self, batch: &Batch<'_>) -> usize {
        let tables: usize = self.shards.iter().map(HashTable::allocation_size).sum();
        let ops = batch.ops().iter().map(|op| {
            let key_bytes = op.key().map_or(0, Key::heap_bytes);
            let value = op.key().and_then(|key| self.get(key));
            let growth_bytes = value.map_or(0, Value::growth_bytes);
            // The value's own blocks, one that it grows by, its list, and a share of a table.
            key_bytes + 2 * op.value().len() + growth_bytes + OP_MAX_BYTES
        });
        // A slab may stay unused in part, since it has no block of the right size.
        2 * (tables + ops.sum::<usize>()) + self.arena.next_slab_bytes()
    }

    /// Returns keys that together take at least `bytes`, if there are enough; it prefers those with
    /// the longest values, by order of magnitude. One pass sums up the values by order of
    /// magnitude, and a second one collects the keys.
    pub(super) fn heaviest(&self, bytes: usize) -> Vec<Key> {
        let magnitude = |slot: &Slot| slot.value.len.checked_ilog2().map_or(0, |log| log as usize);
        let weight =
            |slot: &Slot| slot.value.memory_bytes() + slot.key.heap_bytes() + size_of::<Slot>();
        let mut weights = [0; usize::BITS as usize];
        let mut counts = [0; usize::BITS as usize];
        for slot in self.shards.iter().flatten() {
            weights[magnitude(slot)] += weight(slot);
            counts[magnitude(slot)] += 1;
        }
        // Take all values above the magnitude `last`, and as many of that magnitude as are needed.
        let (mut last, mut missing, mut count) = (weights.len() - 1, bytes, 0);
        while last > 0 && weights[last] < missing {
            missing -= weights[last];
            count += counts[last];
            last -= 1;
        }
        let share = weights[last].min(missing) as f64 / weights[last].max(1) as f64;
        let mut keys = Vec::with_capacity(count + (counts[last] as f64 * share) as usize + 1);
        for slot in self.shards.iter().flatten() {
            if magnitude(slot) == last {
                if missing == 0 {
                    continue;
                }
                missing = missing.saturating_sub(weight(slot));
            } else if magnitude(slot) < last {
                continue;
            }
            keys.push(slot.key.clone());
        }
        keys
    }

    fn apply(&mut self, op: &Op<'_>) -> Within<()> {
        match op {
            Op::Append(key, bytes) => drop(self.append(key, bytes)?),
            Op::Set(key, bytes) => {
                if self.get(key).is_none_or(|value| !value.is_set) {
                    self.remove(key);
                    self.add(key, bytes, true)?;
                }
            }
            Op::Delete(key) => self.remove(key),
            Op::Clear => *self = Map::default(),
            Op::DeletePrefix(prefix) => {
                for key in self.keys_with(prefix) {
                    self.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// Adds a key that the map does not have, with a value; adds nothing beyond the limit.
    fn add(&mut self, key: &Key, bytes: &[u8], is_set: bool) -> Within<()> {
        let (value, arena) = self.insert(key)?;
        value.is_set = is_set;
        let appended = value.append(bytes, arena);
        if appended.is_err() {
            self.remove(key);
        }
        appended
    }
}
