//! Applies the history in order: the keys of a store and the extents of their values.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use partd_format::Kind;

use crate::history::{BatchRef, History};
use crate::walk::{EntryInfo, Segment};

/// Refers to an entry by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryRef {
    /// Index of the segment in the store.
    pub segment: u32,
    /// Index of the entry in the segment.
    pub entry: u32,
}

/// The value of a key, as extents.
#[derive(Clone, Debug, Default)]
pub struct KeyExtents {
    /// The extents, in the order of the value's bytes.
    pub extents: Vec<EntryRef>,
    /// The length of the value in bytes.
    pub len: u64,
    /// Whether the key has been set since it was last removed.
    pub is_set: bool,
}

/// Maps each key to the extents of its value.
#[derive(Debug, Default)]
pub struct Index<'s> {
    /// Every key that exists.
    pub keys: HashMap<&'s [u8], KeyExtents, foldhash::fast::RandomState>,
    /// The keys in byte order, and perhaps some that were deleted; kept from the first prefix
    /// delete on, so that later ones need not visit all keys.
    order: Option<BTreeSet<&'s [u8]>>,
}

/// Consecutive entries with one sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    sequence: u64,
    segment: u32,
    first: u32,
    count: u32,
}

impl<'s> Index<'s> {
    /// Applies the history, and after it the batches of `more`.
    pub fn build(segments: &'s [Segment], history: &History, more: &[BatchRef]) -> Index<'s> {
        let mut runs = Vec::new();
        for batch_ref in history.batches.iter().chain(more) {
            let batch = &segments[batch_ref.segment].batches[batch_ref.batch];
            let Some(head) = batch.good_head() else { continue };
            runs.push(Run {
                sequence: batch_ref.sequence,
                segment: batch_ref.segment as u32,
                first: head.first as u32,
                count: head.count as u32,
            });
        }
        for (number, segment) in segments.iter().enumerate() {
            if !history.included[number] || !segment.is_output() {
                continue;
            }
            for head in segment.batches.iter().filter_map(|batch| batch.good_head()) {
                let entries = segment.entries_of(head).iter().zip(head.first as u32..);
                runs.extend(entries.map(|(entry, first)| Run {
                    sequence: entry.sequence,
                    segment: number as u32,
                    first,
                    count: 1,
                }));
            }
        }
        runs.sort_unstable();
        let mut index = Index::default();
        for run in runs {
            let segment = &segments[run.segment as usize];
            for entry in run.first..run.first + run.count {
                let info = &segment.entries[entry as usize];
                index.apply(segment.key(info), info, EntryRef { segment: run.segment, entry });
            }
        }
        index
    }

    fn apply(&mut self, key: &'s [u8], info: &EntryInfo, at: EntryRef) {
        match info.kind {
            Kind::Clear => (self.keys, self.order) = Default::default(),
            Kind::DeletePrefix => self.delete_prefix(key),
            Kind::Delete => {
                self.keys.remove(key);
            }
            Kind::Append => {
                let held = self.key_mut(key);
                held.extents.push(at);
                held.len += info.value_len;
            }
            Kind::Set => {
                let held = self.key_mut(key);
                if !held.is_set {
                    *held = KeyExtents { extents: vec![at], len: info.value_len, is_set: true };
                }
            }
        }
    }

    fn key_mut(&mut self, key: &'s [u8]) -> &mut KeyExtents {
        self.keys.entry(key).or_insert_with(|| {
            if let Some(order) = &mut self.order {
                order.insert(key);
            }
            KeyExtents::default()
        })
    }

    fn delete_prefix(&mut self, prefix: &[u8]) {
        let order = self.order.get_or_insert_with(|| self.keys.keys().copied().collect());
        let behind = order.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let found: Vec<&[u8]> = behind.copied().take_while(|key| key.starts_with(prefix)).collect();
        for key in found {
            order.remove(key);
            self.keys.remove(key);
        }
    }

    /// The keys in byte order.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&'s [u8], &KeyExtents)> {
        let mut keys: Vec<_> = self.keys.iter().map(|(key, held)| (*key, held)).collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        keys
    }

    /// The bytes of live values in each segment.
    pub fn live_bytes(&self, segments: &[Segment]) -> Vec<u64> {
        let mut live = vec![0; segments.len()];
        for at in self.keys.values().flat_map(|held| &held.extents) {
            let segment = at.segment as usize;
            live[segment] += segments[segment].entries[at.entry as usize].value_len;
        }
        live
    }
}
