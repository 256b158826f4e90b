//! The key order of an index, kept only while prefixes are deleted often.
//!
//! A prefix delete finds its keys either in a pass over the whole table or in an ordered set. A
//! pass costs a step per key of the store. The set costs a sort and a copy of every key, and then
//! each delete costs only what it removes. Nobody knows how many deletes will follow, so this is
//! the ski rental problem: make passes until they have cost about as much as the sort, then sort.
//! The sum is at most a small multiple of the better choice, and a store that never or rarely
//! deletes by prefix has no set.

use std::collections::BTreeSet;
use std::mem::size_of;
use std::ops::Bound;

use crate::Key;

/// Once passes have visited and kept this many times the keys of the table, they have cost about as
/// much as sorting them.
const PASSES: usize = 8;
/// This many outdated keys in the set do no harm.
const OUTDATED_MIN: usize = 64;

/// The keys of an index in key order, or the cost of having no order.
#[derive(Debug, Default)]
pub(super) struct KeyOrder {
    sorted: Option<Sorted>,
    /// The keys that passes have visited and kept since the last order was dropped.
    visited: usize,
}

/// Every key of the index, and perhaps some that it no longer has.
#[derive(Debug)]
struct Sorted {
    keys: BTreeSet<Key>,
    /// The keys that were added since the last prefix delete.
    new: Vec<Key>,
}

impl KeyOrder {
    /// Records a key that is new in the index. Without an order, this is only one comparison.
    #[inline]
    pub(super) fn add(&mut self, key: &Key) {
        let Some(Sorted { keys, new }) = &mut self.sorted else { return };
        // Most keys are younger than the last prefix delete, so the next one may never come.
        if new.len() > keys.len().max(OUTDATED_MIN) {
            *self = KeyOrder::default();
        } else {
            new.push(key.clone());
        }
    }

    /// Removes the keys with the prefix from the order and returns them, or `None` if there is no
    /// order and a pass must find them. Some of them may no longer be in the index. `keys` are the
    /// keys of the index, `len` of them.
    pub(super) fn take<'k>(
        &mut self,
        prefix: &[u8],
        len: usize,
        keys: impl Iterator<Item = &'k Key>,
    ) -> Option<Vec<Key>> {
        self.trim(len);
        if self.visited > PASSES * len && self.sorted.is_none() {
            self.sorted = Some(Sorted { keys: keys.cloned().collect(), new: Vec::new() });
        }
        let Sorted { keys, new } = self.sorted.as_mut()?;
        keys.extend(std::mem::take(new));
        let behind = keys.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let taken: Vec<Key> = behind.take_while(|key| begins(key, prefix)).cloned().collect();
        for key in &taken {
            keys.remove(key);
        }
        Some(taken)
    }

    /// Records that a pass has visited this many keys and kept them.
    pub(super) fn passed(&mut self, kept: usize) {
        self.visited = self.visited.saturating_add(kept);
    }

    /// Drops the order if most of its keys are outdated. `len` is the number of keys in the index.
    pub(super) fn trim(&mut self, len: usize) {
        if let Some(Sorted { keys, new }) = &self.sorted
            && keys.len() + new.len() > 2 * len + OUTDATED_MIN
        {
            *self = KeyOrder::default();
        }
    }

    /// Returns the memory that the order takes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let Some(Sorted { keys, new }) = &self.sorted else { return 0 };
        let heap: usize = keys.iter().chain(new).map(Key::heap_bytes).sum();
        // The nodes of the tree are between half full and full.
        (keys.len() * 4 / 3 + new.capacity()) * size_of::<Key>() + heap
    }
}

/// Whether a key begins with a prefix.
#[inline]
pub(super) fn begins(key: &Key, prefix: &[u8]) -> bool {
    key.as_bytes().starts_with(prefix)
}

#[cfg(test)]
impl KeyOrder {
    /// The keys that passes have visited and kept.
    pub(super) fn visited(&self) -> usize {
        self.visited
    }
}
