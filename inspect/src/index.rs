//! The keys of a store and where their bytes lie: the history applied in order.

use std::collections::HashMap;

use partd_format::Kind;

use crate::history::{History, Place};
use crate::walk::{EntryInfo, Segment};

/// An entry, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryRef {
    /// The segment, among those of the store.
    pub segment: u32,
    /// The entry, among those of the segment.
    pub entry: u32,
}

/// What a key holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Its extents, in the order of its value.
    pub extents: Vec<EntryRef>,
    /// The bytes of its value.
    pub len: u64,
    /// Whether it was set since its last delete.
    pub is_set: bool,
}

/// Key → extents.
#[derive(Debug, Default)]
pub struct Index<'s> {
    /// Every key that is there.
    pub keys: HashMap<&'s [u8], Held, foldhash::fast::RandomState>,
}

/// A run of entries under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    sequence: u64,
    segment: u32,
    first: u32,
    count: u32,
}

impl<'s> Index<'s> {
    /// Applies the history, and behind it the batches of `more`.
    pub fn build(segments: &'s [Segment], history: &History, more: &[Place]) -> Index<'s> {
        let mut runs = Vec::new();
        for place in history.batches.iter().chain(more) {
            let batch = &segments[place.segment].batches[place.batch];
            let Some(head) = batch.good_head() else { continue };
            runs.push(Run {
                sequence: place.sequence,
                segment: place.segment as u32,
                first: head.first as u32,
                count: head.count as u32,
            });
        }
        for (number, segment) in segments.iter().enumerate() {
            if !history.counts[number] || !segment.is_output() {
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
            Kind::Clear => self.keys.clear(),
            Kind::DeletePrefix => self.keys.retain(|held, _| !held.starts_with(key)),
            Kind::Delete => {
                self.keys.remove(key);
            }
            Kind::Append => {
                let held = self.keys.entry(key).or_default();
                held.extents.push(at);
                held.len += info.value_len;
            }
            Kind::Set => {
                let held = self.keys.entry(key).or_default();
                if !held.is_set {
                    *held = Held { extents: vec![at], len: info.value_len, is_set: true };
                }
            }
        }
    }

    /// The keys in their order.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&'s [u8], &Held)> {
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
