//! The entries of compaction outputs. A compaction keeps each entry's sequence number, so that
//! replay can apply it in its original position between the batches of writers.

use std::collections::VecDeque;

use partd_format::{Entry, Kind};

use crate::Key;
use crate::log::read::index::Index;
use crate::log::segment::extent::Extent;

/// The entries of compaction outputs that are not yet in the index.
#[derive(Debug, Default)]
pub(crate) struct Compacted(VecDeque<(Kind, Key, Extent)>);

impl Compacted {
    /// Adds an entry of an output, which has the number `segment` in the version.
    pub(crate) fn add(&mut self, entry: &Entry<'_>, segment: u32) {
        // All entries of an output have sequence numbers; this was checked before.
        let extent = Extent::of(entry, segment, entry.sequence.unwrap_or(0));
        self.0.push_back((entry.kind, Key::from(entry.key), extent));
    }

    /// Sorts the entries by sequence number. Call it once all entries were added.
    pub(crate) fn sort(&mut self) {
        // A compaction keeps only those values of a batch that the batch itself did not remove. The
        // clears and prefix deletes of a batch therefore come first, wherever they are stored. The
        // stable sort keeps the order of the other entries.
        let is_of_one_key = |kind| !matches!(kind, Kind::Clear | Kind::DeletePrefix);
        let entries = self.0.make_contiguous();
        entries.sort_by_key(|(kind, _, extent)| (extent.sequence(), is_of_one_key(*kind)));
    }

    /// Applies the entries with sequence numbers below `sequence`.
    pub(crate) fn catch_up(&mut self, index: &mut Index, sequence: u64) {
        while let Some((kind, key, extent)) = self.0.front()
            && extent.sequence() < sequence
        {
            index.apply(*kind, key.as_bytes(), *extent);
            self.0.pop_front();
        }
    }
}
