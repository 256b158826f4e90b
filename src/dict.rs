//! `Dict`: the store in memory. It is the fast half of a buffer, and the model that tests compare
//! with.
//!
//! One lock guards the whole store, so operations are linearizable. A value is a rope of pieces.
//! The memory is counted in bytes of capacity.

mod rope;

use std::fmt;
use std::hash::BuildHasher;
use std::mem::size_of;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use self::rope::{PIECE_MAX_BYTES, PIECE_MIN_BYTES, Value};
use crate::partd::{Batch, Chunks, Durability, MemoryStore, Op, Partd};
use crate::{Key, Result};

/// The number of hash tables. Each holds a share of the keys, so growth moves few keys at a time.
const SHARDS: usize = 64;
/// An upper bound on the overhead of the smallest table, besides its slots.
const TABLE_MIN_BYTES: usize = 64;

/// A store in memory.
///
/// Its operations are atomic and linearizable inside the process, like those of every [`Partd`].
/// Nothing is durable: [`sync`](Partd::sync) does nothing, and a durable append is a plain one.
///
/// ```
/// use partd::{Dict, Partd};
/// let p = Dict::new();
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Default)]
pub struct Dict {
    map: RwLock<Map>,
}

impl Dict {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Dict {
        Dict::default()
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        // No panic can leave a change of the map half done.
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Dict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.map();
        f.debug_struct("Dict")
            .field("keys", &map.len())
            .field("memory_bytes", &map.memory_bytes())
            .finish()
    }
}

impl Partd for Dict {
    fn write(&self, batch: &Batch<'_>, _: Durability) -> Result<()> {
        let mut map = self.map_mut();
        for op in batch.ops() {
            map.apply(op);
        }
        Ok(())
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let map = self.map();
        Ok(keys.iter().map(|key| map.get(key).map_or_else(Vec::new, Value::concat)).collect())
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let mut map = self.map_mut();
        Ok(keys
            .iter()
            .map(|key| map.remove(key).map_or_else(Vec::new, |value| value.concat()))
            .collect())
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        let map = self.map();
        Ok(keys.iter().map(|key| map.get(key).map(|value| value.len as u64)).collect())
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let map = self.map();
        let mut keys = Vec::with_capacity(map.len());
        keys.extend(map.shards.iter().flatten().map(|slot| slot.key.clone()));
        drop(map);
        keys.sort_unstable();
        Ok(keys)
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        let mut keys = self.map().keys_with(prefix);
        keys.sort_unstable();
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let map = self.map();
        let chunks: Vec<Chunks<'_>> = keys
            .iter()
            .map(|key| map.get(key).map_or_else(Vec::new, |value| value.pieces().collect()))
            .collect();
        visit(&chunks)
    }
}

impl MemoryStore for Dict {
    fn memory_bytes(&self) -> u64 {
        self.map().memory_bytes() as u64
    }

    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        let mut map = self.map_mut();
        if !map.fits(batch, usize::try_from(limit_bytes).unwrap_or(usize::MAX)) {
            return Ok(false);
        }
        for op in batch.ops() {
            map.apply(op);
        }
        debug_assert!(map.memory_bytes() as u64 <= limit_bytes);
        Ok(true)
    }

    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        Ok(self.map().heaviest(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }
}

/// The keys and values, and the memory that they take.
struct Map {
    shards: Vec<HashTable<Slot>>,
    hasher: RandomState,
    /// The heap bytes of keys and values, by capacity, without the tables.
    heap_bytes: usize,
    /// The bytes of the tables, used or unused.
    table_bytes: usize,
}

struct Slot {
    key: Key,
    value: Value,
}

impl Default for Map {
    fn default() -> Map {
        Map {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: RandomState::default(),
            heap_bytes: 0,
            table_bytes: 0,
        }
    }
}

impl Map {
    fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    fn memory_bytes(&self) -> usize {
        self.heap_bytes + self.table_bytes
    }

    /// Returns the keys that begin with a prefix, in no particular order.
    fn keys_with(&self, prefix: &Key) -> Vec<Key> {
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

    fn get(&self, key: &Key) -> Option<&Value> {
        let (shard, hash) = self.locate(key);
        self.shards[shard].find(hash, |slot| slot.key == *key).map(|slot| &slot.value)
    }

    fn remove(&mut self, key: &Key) -> Option<Value> {
        let (index, hash) = self.locate(key);
        let shard = &mut self.shards[index];
        let entry = shard.find_entry(hash, |slot| slot.key == *key).ok()?;
        let (slot, _) = entry.remove();
        self.heap_bytes -= slot.key.heap_bytes() + slot.value.heap_bytes();
        // Shrink when less than about a third full, to about two thirds full. Both are far enough
        // from the next resize to pay for moving the slots.
        if shard.len() * 7 < shard.num_buckets() * 2 {
            let before = shard.allocation_size();
            let hasher = &self.hasher;
            shard.shrink_to(shard.len() * 3 / 2, |slot| hasher.hash_one(slot.key.as_bytes()));
            self.table_bytes -= before - shard.allocation_size();
        }
        Some(slot.value)
    }

    fn value_mut(&mut self, key: &Key) -> &mut Value {
        let (shard, hash) = self.locate(key);
        let Map { shards, hasher, heap_bytes, table_bytes } = self;
        let shard = &mut shards[shard];
        let rehash = |slot: &Slot| hasher.hash_one(slot.key.as_bytes());
        if shard.len() == shard.capacity() {
            // The insert may grow the table, so grow it here, where the growth is counted.
            let before = shard.allocation_size();
            shard.reserve(1, rehash);
            *table_bytes = *table_bytes + shard.allocation_size() - before;
        }
        let slot = shard.entry(hash, |slot| slot.key == *key, rehash).or_insert_with(|| {
            // A clone has no spare capacity; the original key may have some.
            let key = key.clone();
            *heap_bytes += key.heap_bytes();
            Slot { key, value: Value::default() }
        });
        &mut slot.into_mut().value
    }

    /// Returns whether the map is certain to hold at most `limit_bytes` after the batch.
    fn fits(&self, batch: &Batch<'_>, limit_bytes: usize) -> bool {
        let ops = batch.ops().len();
        let mut bytes = 0;
        let mut key_bytes = 0;
        for op in batch.ops() {
            bytes += op.value().len();
            key_bytes += op.key().map_or(0, Key::heap_bytes);
        }
        // Each value may grow by a piece with spare room, and by an entry in its list of pieces.
        let later = self.heap_bytes + bytes;
        let spare = (later / 6).min(ops * (PIECE_MAX_BYTES + 256) + later / 16_384);
        let values = bytes + spare + ops * (PIECE_MIN_BYTES + 4 * size_of::<Vec<u8>>());
        let Some(room) = limit_bytes.checked_sub(self.memory_bytes() + values + key_bytes) else {
            return false;
        };
        // Usually there is room even if all tables grow; count the growth only if there is not.
        self.table_bytes * 2 + ops * 4 * (size_of::<Slot>() + 1) + SHARDS * TABLE_MIN_BYTES <= room
            || self.table_growth(batch) <= room
    }

    /// Returns the growth of the tables if every operation adds a new key.
    fn table_growth(&self, batch: &Batch<'_>) -> usize {
        let mut new_slots = [0_usize; SHARDS];
        for key in batch.ops().iter().filter_map(Op::key) {
            new_slots[self.locate(key).0] += 1;
        }
        let mut grown = 0;
        for (shard, new) in self.shards.iter().zip(new_slots) {
            if new > 0 && new >= shard.capacity() - shard.len() {
                let buckets = ((shard.len() + new + 1) * 8 / 7 + 1).max(shard.num_buckets() + 1);
                let table_bytes = buckets.next_power_of_two() * (size_of::<Slot>() + 1);
                grown += table_bytes + TABLE_MIN_BYTES - shard.allocation_size();
            }
        }
        grown
    }

    /// Returns keys that together take at least `bytes`, if there are enough; it prefers those with
    /// the longest values, by order of magnitude. One pass sums up the values by order of
    /// magnitude, and a second one collects the keys.
    fn heaviest(&self, bytes: usize) -> Vec<Key> {
        let magnitude = |slot: &Slot| slot.value.len.checked_ilog2().map_or(0, |log| log as usize);
        let weight = |slot: &Slot| slot.value.len + slot.key.heap_bytes() + size_of::<Slot>();
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

    fn apply(&mut self, op: &Op<'_>) {
        match op {
            Op::Append(key, bytes) => {
                // Usually the key exists, and a lookup is cheaper than preparing an insert.
                let (shard, hash) = self.locate(key);
                let grown = match self.shards[shard].find_mut(hash, |slot| slot.key == *key) {
                    Some(slot) => slot.value.append(bytes),
                    None => self.value_mut(key).append(bytes),
                };
                self.heap_bytes += grown;
            }
            Op::Set(key, bytes) => {
                let value = self.value_mut(key);
                if value.is_set {
                    return;
                }
                let old_bytes = value.heap_bytes();
                *value = Value::default();
                value.is_set = true;
                let grown = value.append(bytes);
                self.heap_bytes = self.heap_bytes - old_bytes + grown;
            }
            Op::Delete(key) => drop(self.remove(key)),
            Op::Clear => *self = Map::default(),
            Op::DeletePrefix(prefix) => {
                for key in self.keys_with(prefix) {
                    self.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counted_memory_equals_the_memory_held_after_any_operations() {
        let p = Dict::new();
        let empty = p.memory_bytes();
        for i in 0..1000_usize {
            p.append([(i % 7, vec![1; i])]).unwrap();
            p.iset(i % 5, vec![2; i % 300]).unwrap();
            p.append([(("a tuple of some length", i % 3), "v")]).unwrap();
            if i % 11 == 0 {
                p.delete([i % 7]).unwrap();
                p.delete([("a tuple of some length", i % 3)]).unwrap();
            }
            let map = p.map();
            let slots = map.shards.iter().flatten();
            let held: usize = slots.map(|s| s.key.heap_bytes() + s.value.heap_bytes()).sum();
            assert_eq!(held, map.heap_bytes);
            let tables: usize = map.shards.iter().map(HashTable::allocation_size).sum();
            assert_eq!(tables, map.table_bytes);
        }
        p.clear().unwrap();
        assert_eq!(p.memory_bytes(), empty);
    }

    #[test]
    fn a_value_of_many_small_appends_holds_little_more_than_its_bytes() {
        let p = Dict::new();
        for _ in 0..1_000_000 {
            p.append([("k", b"12345678")]).unwrap();
        }
        assert!(p.memory_bytes() < 8_000_000 * 11 / 10, "{} bytes", p.memory_bytes());
    }

    #[test]
    fn a_write_within_a_limit_never_exceeds_it_and_uses_most_of_it() {
        for (keys, value_len, batch_len) in [
            (1, 8, 1),
            (16, 100, 300),
            (256, 128, 256),
            (3, 70_000, 2),
            (1 << 40, 8, 1),
            (1 << 40, 20, 64),
        ] {
            let limit = 4 << 20;
            let p = Dict::new();
            let mut next = 1_u64;
            let mut batches = 0;
            loop {
                let value = vec![7; value_len];
                let mut batch = Batch::new();
                for _ in 0..batch_len {
                    next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    batch.append((next >> 20) % keys, &value);
                }
                if !p.write_within(&batch, limit).unwrap() {
                    break;
                }
                batches += 1;
                assert!(p.memory_bytes() <= limit);
            }
            let what = format!("{keys} keys, {batch_len} values of {value_len} bytes a batch");
            assert!(batches > 10, "{what}");
            assert!(p.memory_bytes() > limit / 2, "{what}: full at {} bytes", p.memory_bytes());
            assert!(!p.write_within(Batch::new().append("k", &[0; 5 << 20]), limit).unwrap());
        }
    }

    #[test]
    fn removing_keys_frees_the_memory_of_the_tables() {
        let p = Dict::new();
        for i in 0..100_000 {
            p.append([(i, "v")]).unwrap();
        }
        let full = p.memory_bytes();
        let keys = p.heaviest(full * 3 / 4).unwrap();
        assert!(keys.len() < 100_000);
        p.delete(keys).unwrap();
        assert!(p.memory_bytes() < full * 2 / 3, "{} of {full} bytes", p.memory_bytes());
        let all = p.heaviest(u64::MAX).unwrap();
        assert_eq!(all.len(), p.keys().unwrap().len());
        p.delete(all).unwrap();
        assert!(p.memory_bytes() < full / 100, "{} of {full} bytes", p.memory_bytes());
    }

    #[test]
    fn the_heaviest_keys_are_those_with_the_longest_values() {
        let p = Dict::new();
        for i in 0..100_usize {
            p.append([(i, vec![0; i * i])]).unwrap();
        }
        let keys = p.heaviest(80_000).unwrap();
        assert!((8..30).contains(&keys.len()), "{} keys", keys.len());
        assert!(keys.iter().all(|key| p.len_of(key).unwrap() >= 64 * 64));
    }
}
