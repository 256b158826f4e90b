//! The entries of compaction outputs. A compaction keeps each entry's sequence number, so that
//! replay can apply it in its original position between the batches of writers.

use std::collections::{BTreeMap, HashMap, VecDeque};

use partd_format::{Entry, Kind};

use crate::Key;
use crate::log::read::index::Index;
use crate::log::segment::extent::Extent;

/// The entries of compaction outputs that are not yet in the index.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    keys: HashMap<Key, VecDeque<(Kind, Extent)>>,
    /// Clears and prefix deletes, by sequence number. A clear has an empty prefix.
    wide: BTreeMap<u64, Vec<Key>>,
}

impl Compacted {
    /// Adds an entry of an output, which has the number `segment` in the version.
    pub(crate) fn add(&mut self, entry: &Entry<'_>, segment: u32) {
        // All entries of an output have sequence numbers; this was checked before.
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

    /// Sorts the entries of each key by sequence number. Call it once all entries were added.
    pub(crate) fn sort(&mut self) {
        for entries in self.keys.values_mut() {
            // A stable sort keeps the order of entries of one batch.
            entries.make_contiguous().sort_by_key(|(_, extent)| extent.sequence());
        }
    }

    /// Applies a key's entries with sequence numbers below `sequence`.
    pub(crate) fn catch_up(&mut self, index: &mut Index, key: &[u8], sequence: u64) {
        if let Some(entries) = self.keys.get_mut(key) {
            apply(index, key, entries, sequence);
        }
    }

    /// Applies the entries with sequence numbers below `sequence`, of every key with the prefix.
    pub(crate) fn catch_up_prefix(&mut self, index: &mut Index, prefix: &[u8], sequence: u64) {
        for (key, entries) in &mut self.keys {
            if key.as_bytes().starts_with(prefix) {
                apply(index, key.as_bytes(), entries, sequence);
            }
        }
    }

    /// Applies the clears and prefix deletes with sequence numbers below `sequence`, each after the
    /// entries that it removes.
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
