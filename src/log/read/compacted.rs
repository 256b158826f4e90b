//! The entries of compactions' outputs: each takes its place in the history, between the batches of
//! writers, by the number that it had before it was rewritten.

use std::collections::{BTreeMap, HashMap, VecDeque};

use partd_format::{Entry, Kind};

use crate::Key;
use crate::log::read::index::Index;
use crate::log::segment::extent::Extent;

/// What the outputs of compactions hold and the index does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    keys: HashMap<Key, VecDeque<(Kind, Extent)>>,
    /// Clears and deletes of prefixes, by number; the prefix of a clear is empty.
    wide: BTreeMap<u64, Vec<Key>>,
}

impl Compacted {
    /// Takes in an entry of an output; `segment` is the picture's number for it.
    pub(crate) fn add(&mut self, entry: &Entry<'_>, segment: u32) {
        // Every batch of an output has numbers: that was checked.
        let sequence = entry.sequence.unwrap_or(0);
        let key = Key::from(entry.key);
        match entry.kind {
            Kind::Clear | Kind::DeletePrefix => self.wide.entry(sequence).or_default().push(key),
            Kind::Append | Kind::Set | Kind::Delete => {
                let extent = Extent::of(entry, segment, sequence);
                self.keys.entry(key).or_default().push_back((entry.kind, extent));
            }
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

    /// Applies the entries of every key with the prefix that come before number `sequence`.
    pub(crate) fn catch_up_prefix(&mut self, index: &mut Index, prefix: &[u8], sequence: u64) {
        for (key, entries) in &mut self.keys {
            if key.as_bytes().starts_with(prefix) {
                apply(index, key.as_bytes(), entries, sequence);
            }
        }
    }

    /// Applies the clears and the deletes of prefixes that come before number `sequence`, each after
    /// the entries that it removes.
    pub(crate) fn catch_up_wide(&mut self, index: &mut Index, sequence: u64) {
        while let Some(first) = self.wide.first_entry().filter(|first| *first.key() < sequence) {
            let (number, prefixes) = first.remove_entry();
            for prefix in prefixes {
                self.catch_up_prefix(index, prefix.as_bytes(), number);
                index.delete_prefix(prefix.as_bytes());
            }
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
