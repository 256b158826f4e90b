//! The entries of compaction outputs. A compaction keeps each entry's sequence number, so that
//! replay can apply it in its original position between the batches of writers.

use partd_format::{Entry, Kind};

use crate::Key;
use crate::log::read::index::Share;
use crate::log::segment::extent::Extent;

/// The entries of the compaction outputs that a version is built from.
#[derive(Debug, Default)]
pub(crate) struct Compacted(Vec<(Kind, Key, Extent)>);

/// Entries of compaction outputs that are still to be applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest<'c>(&'c [(Kind, Key, Extent)]);

impl Compacted {
    /// Adds an entry of an output, which has the number `segment` in the version.
    pub(crate) fn add(&mut self, entry: &Entry<'_>, segment: u32) {
        // All entries of an output have sequence numbers; this was checked before.
        let extent = Extent::of(entry, segment, entry.sequence.unwrap_or(0));
        self.0.push((entry.kind, Key::from(entry.key), extent));
    }

    /// Sorts the entries by sequence number. Call it once all entries were added.
    pub(crate) fn sort(&mut self) {
        // A compaction keeps only those values of a batch that the batch itself did not remove. The
        // clears and prefix deletes of a batch therefore come first, wherever they are stored. The
        // stable sort keeps the order of the other entries.
        let is_of_one_key = |kind| !matches!(kind, Kind::Clear | Kind::DeletePrefix);
        self.0.sort_by_key(|(kind, _, extent)| (extent.sequence(), is_of_one_key(*kind)));
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All entries, in the order of the history.
    pub(super) fn all(&self) -> Rest<'_> {
        Rest(&self.0)
    }
}

impl Rest<'_> {
    /// Applies the entries with sequence numbers below `sequence`.
    pub(super) fn catch_up(&mut self, share: &mut Share<'_>, sequence: u64) {
        while let Some(((kind, key, extent), behind)) = self.0.split_first()
            && extent.sequence() < sequence
        {
            share.apply(*kind, key.as_bytes(), *extent);
            self.0 = behind;
        }
    }
}
