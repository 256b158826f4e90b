//! The sets that a buffer defers until the slow store decides whether they take effect.
//!
//! Invariant: a key has at most one deferred set, and no bytes that were buffered before it. The
//! memory is counted in bytes of capacity.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::Key;

/// The deferred sets by key.
#[derive(Default)]
pub(super) struct DeferredSets {
    sets: HashMap<Key, Box<[u8]>, RandomState>,
    heap_bytes: usize,
}

impl DeferredSets {
    pub(super) fn has(&self, key: &Key) -> bool {
        !self.sets.is_empty() && self.sets.contains_key(key)
    }

    pub(super) fn has_any(&self, keys: &[Key]) -> bool {
        !self.sets.is_empty() && keys.iter().any(|key| self.sets.contains_key(key))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&[u8]> {
        self.sets.get(key).map(|value| &value[..])
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.sets.keys().cloned()
    }

    /// Returns the keys with deferred sets that begin with a prefix.
    pub(super) fn keys_with(&self, prefix: &Key) -> impl Iterator<Item = Key> {
        self.keys().filter(|key| key.as_bytes().starts_with(prefix.as_bytes()))
    }

    pub(super) fn insert(&mut self, key: &Key, value: &[u8]) {
        let key = key.clone();
        self.heap_bytes += key.heap_bytes() + value.len();
        self.sets.insert(key, value.into());
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some((key, value)) = self.sets.remove_entry(key) {
            self.heap_bytes -= key.heap_bytes() + value.len();
        }
        if self.sets.is_empty() {
            self.clear();
        }
    }

    /// Drops the deferred sets of all keys that begin with a prefix.
    pub(super) fn remove_with(&mut self, prefix: &Key) {
        let heap_bytes = &mut self.heap_bytes;
        self.sets.retain(|key, value| {
            let stays = !key.as_bytes().starts_with(prefix.as_bytes());
            if !stays {
                *heap_bytes -= key.heap_bytes() + value.len();
            }
            stays
        });
        if self.sets.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = DeferredSets::default();
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.heap_bytes + self.sets.allocation_size()) as u64
    }

    /// Returns the peak memory during and after the insertion of these sets, in bytes.
    pub(super) fn memory_bytes_with(&self, new: &[(&Key, &[u8])]) -> u64 {
        let heap_bytes: usize = new.iter().map(|(key, value)| key.heap_bytes() + value.len()).sum();
        let len = self.sets.len() + new.len();
        let grown = if len > self.sets.capacity() {
            let buckets = (len * 8 / 7 + 1).max(self.sets.capacity() * 8 / 7 + 1);
            (buckets.next_power_of_two() + 1) * (size_of::<(Key, Box<[u8]>)>() + 1) + 64
        } else {
            0
        };
        self.memory_bytes() + (heap_bytes + grown) as u64
    }
}
