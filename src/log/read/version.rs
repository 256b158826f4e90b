//! A handle's version of the store: its segments, how far each was walked, and the index.
//!
//! The log is the truth, and the version trails it. `replay.rs` brings the version up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partd_format::Entry;

use crate::log::fs::Disk;
use crate::log::read::cursor::Cursor;
use crate::log::read::discovery::SegmentDiscovery;
use crate::log::read::index::Index;
use crate::log::segment::Segment;
use crate::log::store::Store;

/// The segments of a version; an extent's segment number is an index into them.
pub(crate) type Segments<F> = Arc<Vec<Arc<Segment<F>>>>;

/// The state of the store at one sequence number, as one handle sees it.
#[derive(Debug)]
pub(crate) struct Version<D: Disk> {
    /// The last sequence number that was applied.
    pub(crate) sequence: u64,
    /// `None` before the first refresh.
    pub(super) directory_epoch: Option<u64>,
    pub(super) discovery: SegmentDiscovery,
    pub(crate) segments: Segments<D::File>,
    /// Mappings of the version before a rebuild, by segment id. The rebuild may use them again.
    pub(super) known: BTreeMap<u64, Arc<Segment<D::File>>>,
    /// The cursors of the segments that may get more batches or have batches whose state is not
    /// final.
    pub(crate) open: Vec<Cursor>,
    /// Segments that a compaction output replaces; they are not in `segments`.
    pub(super) replaced: BTreeSet<u64>,
    /// Sequence numbers up to this one may be missing, since a compaction has dropped their
    /// batches.
    pub(super) max_seq: u64,
    pub(crate) index: Index,
    /// Counts of what was applied.
    pub(crate) applied: Applied,
    /// The bytes of all values in each segment, live or dead.
    pub(crate) value_bytes: Vec<u64>,
    /// The bytes of all batches in each segment.
    pub(crate) batch_bytes: Vec<u64>,
    /// How many times the version was rebuilt. Extents from before the last rebuild are not valid
    /// in it.
    pub(crate) rebuilds: u64,
}

/// Counts of the contents of a version's segments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) batches: u64,
    pub(crate) entries: u64,
    /// Deletes, prefix deletes and clears.
    pub(crate) removals: u64,
}

impl Applied {
    pub(super) fn count(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        self.removals += u64::from(!entry.kind.has_value());
    }
}

impl<D: Disk> Default for Version<D> {
    fn default() -> Version<D> {
        Version {
            sequence: 0,
            directory_epoch: None,
            discovery: SegmentDiscovery::default(),
            segments: Segments::default(),
            known: BTreeMap::new(),
            open: Vec::new(),
            replaced: BTreeSet::new(),
            max_seq: 0,
            index: Index::default(),
            applied: Applied::default(),
            value_bytes: Vec::new(),
            batch_bytes: Vec::new(),
            rebuilds: 0,
        }
    }
}

impl<D: Disk> Version<D> {
    /// Whether the version is up to date.
    #[inline]
    pub(crate) fn is_current(&self, store: &Store<D>) -> bool {
        self.sequence >= store.visible() && self.directory_epoch == Some(store.directory_epoch())
    }

    /// Whether the version was built, and so takes memory.
    pub(crate) fn is_built(&self) -> bool {
        self.directory_epoch.is_some()
    }

    /// Whether the version has every segment that was published up to a directory epoch.
    pub(crate) fn knows_all_segments(&self, directory_epoch: u64) -> bool {
        self.directory_epoch == Some(directory_epoch)
    }

    /// Drops everything; the next refresh rebuilds the version.
    pub(crate) fn reset(&mut self) {
        let rebuilds = self.rebuilds + 1;
        *self = Version { rebuilds, ..Version::default() };
    }

    /// Drops everything but the mappings, which the rebuild uses again.
    pub(super) fn start_over(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.extend(self.segments.iter().map(|segment| (segment.id(), Arc::clone(segment))));
        self.reset();
        self.known = known;
    }
}
