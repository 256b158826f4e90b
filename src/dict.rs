//! `Dict`: the store in memory. It is the fast half of a buffer, and the model that tests compare
//! with.
//!
//! One lock guards the whole store, so operations are linearizable. A value is a rope of blocks from
//! an arena, which counts the memory in bytes of capacity.

mod arena;
mod map;
mod rope;
mod slab;

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::map::Map;
use crate::partd::{Batch, Chunks, Durability, MemoryStore, Partd};
use crate::{Key, Result};

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
            .field("memory_bytes", &map.arena.total_bytes())
            .field("spare_bytes", &map.arena.spare_bytes())
            .finish()
    }
}

impl Partd for Dict {
    fn write(&self, batch: &Batch<'_>, _: Durability) -> Result<()> {
        self.map_mut().write(batch);
        Ok(())
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let map = self.map();
        Ok(keys
            .iter()
            .map(|key| map.get(key).map_or_else(Vec::new, |value| value.concat(&map.arena)))
            .collect())
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let mut map = self.map_mut();
        let values = keys.iter().map(|key| {
            let bytes = map.get(key).map_or_else(Vec::new, |value| value.concat(&map.arena));
            map.remove(key);
            bytes
        });
        let values = values.collect();
        map.release_if_sparse();
        Ok(values)
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
            .map(|key| {
                map.get(key).map_or_else(Vec::new, |value| value.pieces(&map.arena).collect())
            })
            .collect();
        visit(&chunks)
    }
}

impl MemoryStore for Dict {
    fn memory_bytes(&self) -> u64 {
        self.map().arena.total_bytes() as u64
    }

    fn spare_bytes(&self) -> u64 {
        self.map().arena.spare_bytes() as u64
    }

    fn release_spare(&self) {
        self.map_mut().release_spare();
    }

    fn known_lens(&self, keys: &[Key]) -> Vec<usize> {
        let map = self.map();
        keys.iter().map(|key| map.get(key).map_or(0, |value| value.len)).collect()
    }

    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Ok(self.map_mut().write_within(batch, limit_bytes))
    }

    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        Ok(self.map().heaviest(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashTable;

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
            let held: usize = slots.map(|s| s.key.heap_bytes() + s.value.memory_bytes()).sum();
            let tables: usize = map.shards.iter().map(HashTable::allocation_size).sum();
            assert_eq!(map.arena.used_bytes(), held + tables);
            assert_eq!(
                map.arena.value_bytes,
                map.shards.iter().flatten().map(|s| s.value.len).sum()
            );
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
    fn a_batch_that_deletes_a_key_and_grows_long_values_keeps_to_the_limit() {
        let p = Dict::new();
        // The last block of each value is full.
        p.append((0..100).map(|key| (key, vec![1; 2 << 20]))).unwrap();
        let mut batch = Batch::new();
        for key in 0..100 {
            batch.append(key, b"x");
        }
        batch.delete("missing");
        for more_bytes in (0..80).map(|n| n << 20) {
            let limit_bytes = p.memory_bytes() + more_bytes;
            if p.write_within(&batch, limit_bytes).unwrap() {
                assert!(p.memory_bytes() <= limit_bytes, "{} of {limit_bytes}", p.memory_bytes());
                return;
            }
        }
        panic!("80 MiB are not enough");
    }

    #[test]
    fn a_store_above_the_limit_takes_nothing_more() {
        let p = Dict::new();
        p.append([("k", "value")]).unwrap();
        assert!(!p.write_within(Batch::new().append("k", b"w"), 1).unwrap());
        assert_eq!(p.get("k").unwrap(), b"value");
        let held = p.memory_bytes();
        assert!(p.write_within(Batch::new().append("k", b"w"), held).unwrap());
        assert_eq!(p.get("k").unwrap(), b"valuew");
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
