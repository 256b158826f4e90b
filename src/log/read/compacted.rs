//! The entries of compactions' outputs: each takes its place in the history, between the batches of
//! writers, by the number that it had before it was rewritten.

use std::collections::{BTreeSet, HashMap, VecDeque};

use partd_format::{Entry, Kind};

use crate::Key;
use crate::log::read::index::Index;
use crate::log::segment::extent::Extent;

/// What the outputs of compactions hold and the index does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    keys: HashMap<Key, VecDeque<(Kind, Extent)>>,
    clears: BTreeSet<u64>,
}

impl Compacted {
    /// Takes in an entry of an output; `segment` is the picture's number for it.
    pub(crate) fn add(&mut self, entry: &Entry<'_>, segment: u32) {
        // Every batch of an output has numbers: that was checked.
        let sequence = entry.sequence.unwrap_or(0);
        if entry.kind == Kind::Clear {
            self.clears.insert(sequence);
        } else {
            let extent = Extent::of(entry, segment, sequence);
            self.keys.entry(Key::from(entry.key)).or_default().push_back((entry.kind, extent));
        }
    }

    /// Brings the entries of each key into the order of the history, once all are there.
    pub(crate) fn sort(&mut self) {
        for entries in self.keys.values_mut() {
            // Stable: entries of one batch stay in their order.
            entries.make_contiguous().sort_by_key(|(_, extent)| extent.sequence());
        }
    }

    /// Applies the entries of a key that come before number `sequence`.
    pub(crate) fn catch_up(&mut self, index: &mut Index, key: &[u8], sequence: u64) {
        if let Some(entries) = self.keys.get_mut(key) {
            apply(index, key, entries, sequence);
        }
    }

    /// Applies the entries of every key that come before number `sequence`.
    pub(crate) fn catch_up_all(&mut self, index: &mut Index, sequence: u64) {
        for (key, entries) in &mut self.keys {
            apply(index, key.as_bytes(), entries, sequence);
        }
    }

    /// Applies the clears that come before number `sequence`, each after what it clears.
    pub(crate) fn catch_up_clears(&mut self, index: &mut Index, sequence: u64) {
        while let Some(clear) = self.clears.first().copied().filter(|clear| *clear < sequence) {
            self.clears.pop_first();
            self.catch_up_all(index, clear);
            index.clear();
        }
    }
}

fn apply(index: &mut Index, key: &[u8], entries: &mut VecDeque<(Kind, Extent)>, sequence: u64) {
    while let Some(&(kind, extent)) = entries.front()
        && extent.sequence() < sequence
    {
        index.apply(kind, key, extent);
        entries.pop_front();
    }
}
