//! `Dict`: the store in memory, the fast half of a buffer, and the oracle of the tests.
//!
//! One lock guards all of it, so every operation is one step of one history. A value is a rope of
//! pieces that are never moved again: appending copies each byte once, and the memory held stays
//! within a small factor of the bytes. What it holds is counted, in bytes of capacity.

use std::fmt;
use std::hash::BuildHasher;
use std::mem::size_of;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::{Key, Result};

/// The smallest piece a value grows by, after its first one, which is exact.
const PIECE_MIN_BYTES: usize = 64;
/// The largest piece a value grows by, unless a single append is larger.
const PIECE_MAX_BYTES: usize = 64 << 10;
/// Tables that share the keys: so that growing one moves a small share of them at a time.
const SHARDS: usize = 64;

/// A store in memory.
///
/// Atomic and linearizable inside its process, like every [`Partd`]; there is nothing it could
/// sync, so [`sync`](Partd::sync) and durable appends do what plain ones do.
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
    /// A store without keys.
    pub fn new() -> Dict {
        Dict::default()
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        // A panic cannot happen between two changes of the map that belong together.
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

    fn memory_bytes(&self) -> u64 {
        self.map().memory_bytes() as u64
    }
}

/// The keys and values, and what they weigh.
struct Map {
    shards: Vec<HashTable<Slot>>,
    hasher: RandomState,
    /// Heap bytes of keys and values, by capacity; the tables come on top.
    heap_bytes: usize,
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
        }
    }
}

impl Map {
    fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    fn memory_bytes(&self) -> usize {
        // hashbrown fills at most 7/8 of its buckets, and keeps a byte of control for each.
        let buckets: usize = self.shards.iter().map(|shard| shard.capacity() * 8 / 7).sum();
        self.heap_bytes + buckets * (size_of::<Slot>() + 1)
    }

    /// The shard of a key and its hash in there.
    fn locate(&self, key: &Key) -> (usize, u64) {
        let hash = self.hasher.hash_one(key.as_bytes());
        // The table takes its buckets from the low bits and its tags from the top seven.
        ((hash >> 48) as usize % SHARDS, hash)
    }

    fn get(&self, key: &Key) -> Option<&Value> {
        let (shard, hash) = self.locate(key);
        self.shards[shard].find(hash, |slot| slot.key == *key).map(|slot| &slot.value)
    }

    fn remove(&mut self, key: &Key) -> Option<Value> {
        let (shard, hash) = self.locate(key);
        let entry = self.shards[shard].find_entry(hash, |slot| slot.key == *key).ok()?;
        let (slot, _) = entry.remove();
        self.heap_bytes -= slot.key.heap_bytes() + slot.value.heap_bytes();
        Some(slot.value)
    }

    fn value_mut(&mut self, key: &Key) -> &mut Value {
        let (shard, hash) = self.locate(key);
        let Map { shards, hasher, heap_bytes } = self;
        let slot = shards[shard]
            .entry(hash, |slot| slot.key == *key, |slot| hasher.hash_one(slot.key.as_bytes()))
            .or_insert_with(|| {
                *heap_bytes += key.heap_bytes();
                Slot { key: key.clone(), value: Value::default() }
            });
        &mut slot.into_mut().value
    }

    fn apply(&mut self, op: &Op<'_>) {
        match op {
            Op::Append(key, bytes) => {
                let grown = self.value_mut(key).append(bytes);
                self.heap_bytes += grown;
            }
            Op::Set(key, bytes) => {
                let value = self.value_mut(key);
                if value.is_set {
                    return;
                }
                let old_bytes = value.heap_bytes();
                *value = Value { is_set: true, ..Value::default() };
                let grown = value.append(bytes);
                self.heap_bytes = self.heap_bytes - old_bytes + grown;
            }
            Op::Delete(key) => drop(self.remove(key)),
            Op::Clear => *self = Map::default(),
        }
    }
}

/// One key's bytes: full pieces, and a last one with room.
#[derive(Default)]
struct Value {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    len: usize,
    /// Whether the key was set since its last delete.
    is_set: bool,
}

impl Value {
    /// Adds bytes to the end and says by how many bytes of capacity the value has grown.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let (fits, rest) = bytes.split_at(bytes.len().min(self.last.capacity() - self.last.len()));
        self.last.extend_from_slice(fits);
        let mut grown = 0;
        if !rest.is_empty() {
            let room = match self.len {
                0 => rest.len(),
                len => len.clamp(PIECE_MIN_BYTES, PIECE_MAX_BYTES).max(rest.len()),
            };
            let mut piece = Vec::with_capacity(room);
            piece.extend_from_slice(rest);
            grown += piece.capacity();
            let full = std::mem::replace(&mut self.last, piece);
            if !full.is_empty() {
                let before = self.full.capacity();
                self.full.push(full);
                grown += (self.full.capacity() - before) * size_of::<Vec<u8>>();
            }
        }
        self.len += bytes.len();
        grown
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.full.iter().chain(Some(&self.last)).filter(|piece| !piece.is_empty()).map(|p| &p[..])
    }

    fn concat(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        self.pieces().for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    fn heap_bytes(&self) -> usize {
        let pieces: usize = self.full.iter().map(Vec::capacity).sum();
        pieces + self.last.capacity() + self.full.capacity() * size_of::<Vec<u8>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_memory_is_what_the_values_hold_after_any_operations() {
        let p = Dict::new();
        let empty = p.memory_bytes();
        for i in 0..1000_usize {
            p.append([(i % 7, vec![1; i])]).unwrap();
            p.iset(i % 5, vec![2; i % 300]).unwrap();
            if i % 11 == 0 {
                p.delete([i % 7]).unwrap();
            }
            let map = p.map();
            let held: usize = map.shards.iter().flatten().map(|s| s.value.heap_bytes()).sum();
            assert_eq!(held, map.heap_bytes);
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
}
