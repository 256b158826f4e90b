//! The version of the store that a handle knows: its segments, how far each was walked, and the index.
//!
//! The log is the truth and the version trails it. What brings it up to now is in `replay.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partd_format::Entry;

use crate::log::fs::Disk;
use crate::log::read::cursor::Cursor;
use crate::log::read::discovery::SegmentDiscovery;
use crate::log::read::index::Index;
use crate::log::segment::Segment;
use crate::log::store::Store;

/// The segments that the extents of a picture name by number.
pub(crate) type Segments<F> = Arc<Vec<Arc<Segment<F>>>>;

/// The state of the store at one moment, as one handle knows it.
#[derive(Debug)]
pub(crate) struct Version<D: Disk> {
    /// The last sequence number that was applied.
    pub(crate) sequence: u64,
    /// None before the first look.
    pub(super) directory_epoch: Option<u64>,
    pub(super) discovery: SegmentDiscovery,
    pub(crate) segments: Segments<D::File>,
    /// Mappings of an earlier picture that this one may still need, by id.
    pub(super) known: BTreeMap<u64, Arc<Segment<D::File>>>,
    /// The segments in which more may come.
    pub(crate) open: Vec<Cursor>,
    /// Segments whose contents an output of a compaction holds; they are not among `segments`.
    pub(super) replaced: BTreeSet<u64>,
    /// Numbers up to this one may be missing: a compaction has dropped them.
    pub(super) max_seq: u64,
    pub(crate) index: Index,
    /// What was applied.
    pub(crate) applied: Applied,
    /// The bytes of all values in each segment, live or dead.
    pub(crate) value_bytes: Vec<u64>,
    /// The bytes of all batches in each segment.
    pub(crate) batch_bytes: Vec<u64>,
    /// How often the picture was begun anew; extents of an older one mean nothing.
    pub(crate) rebuilds: u64,
}

/// Counts of what lies in the segments of a picture.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) batches: u64,
    pub(crate) entries: u64,
    /// Deletes and clears.
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
    /// Whether the picture shows the history as it is now.
    #[inline]
    pub(crate) fn is_current(&self, store: &Store<D>) -> bool {
        self.sequence >= store.visible() && self.directory_epoch == Some(store.directory_epoch())
    }

    /// Whether the picture was ever looked at, and so costs memory.
    pub(crate) fn is_built(&self) -> bool {
        self.directory_epoch.is_some()
    }

    /// Whether the picture has every segment that was published up to a generation.
    pub(crate) fn knows_all_segments(&self, directory_epoch: u64) -> bool {
        self.directory_epoch == Some(directory_epoch)
    }

    /// Forgets everything; the next look begins anew.
    pub(crate) fn reset(&mut self) {
        let rebuilds = self.rebuilds + 1;
        *self = Version { rebuilds, ..Version::default() };
    }

    /// Forgets everything but the mappings, which are used again.
    pub(super) fn begin_anew(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.extend(self.segments.iter().map(|segment| (segment.id(), Arc::clone(segment))));
        self.reset();
        self.known = known;
    }
}
