//! Counts a store's keys, bytes, batches and segments.

use std::sync::Arc;

use crate::error::Result;
use crate::log::counters::Counters;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Dir, Disk, DiskFile};
use crate::log::read::reader::Reader;
use crate::log::segment::Segment;
use crate::log::segment::space::Space;
use crate::log::shared::control::Control;
use crate::log::store::Store;

/// The counters that [`SegmentLog::stats`](crate::SegmentLog::stats) returns.
///
/// They describe one moment, except `disk_bytes`, `segments_recycled`, `compactions` and
/// `counters`, which are taken slightly later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The sequence number of the last batch.
    pub sequence: u64,
    /// The sequence number up to which the history is on stable storage.
    pub durable_seq: u64,
    /// The number of keys.
    pub keys: u64,
    /// The number of extents that hold the values of all keys.
    pub extents: u64,
    /// The total length of the values of all keys, in bytes.
    pub live_bytes: u64,
    /// The bytes of values in the segments that no longer belong to a key.
    pub dead_bytes: u64,
    /// The batches in the segments, compaction outputs included.
    pub batches: u64,
    /// The deletes, prefix deletes and clears in the segments.
    pub removals: u64,
    /// The segments that may still get batches.
    pub segments_open: u64,
    /// The segments of writers that get no more batches.
    pub segments_sealed: u64,
    /// The compaction outputs.
    pub segments_compacted: u64,
    /// The total length of all segment files, in bytes.
    pub segment_bytes: u64,
    /// The dead segments that a temporary store keeps for recycling.
    pub segments_recycled: u64,
    /// The disk space of all segments, in bytes. It is less than their length if closed handles
    /// have freed unused space.
    pub disk_bytes: u64,
    /// The compactions since the control file was created.
    pub compactions: u64,
    /// The memory of this handle's index, in bytes.
    pub index_bytes: u64,
    /// The bytes of segment files that the handle has mapped for reading. This is address space:
    /// only pages that were used recently are in memory, and the system can reclaim them at any
    /// time.
    pub mapped_bytes: u64,
    /// The work of this handle, as [`SegmentLog::counters`](crate::SegmentLog::counters) returns
    /// it without reading the store.
    pub counters: Counters,
}

impl Stats {
    /// Returns the number of segment files.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segments_open + self.segments_sealed + self.segments_compacted
    }
}

/// How often the count is taken again because a sync has finished meanwhile.
const RECOUNTS_MAX: usize = 8;

/// Counts the store's keys, bytes, batches and segments.
pub(crate) fn count<D: Disk>(
    store: &Store<D>,
    reader: &Reader<D>,
    space: &Space<D>,
) -> Result<Stats> {
    let durable_seq = || store.shared().map_or(0, Control::durable_seq);
    let mut before = durable_seq();
    let mut counted = version_stats(store, reader, space)?;
    // The durable sequence number and the version are of one moment if no sync has finished between
    // the two reads of the number. Beside syncs that never pause, the older number is never above
    // the last batch.
    for _ in 0..RECOUNTS_MAX {
        let after = durable_seq();
        if after == before {
            break;
        }
        before = after;
        counted = version_stats(store, reader, space)?;
    }
    let (mut stats, names) = counted;
    stats.durable_seq = before;
    // A segment that a compaction has removed meanwhile takes no disk space.
    let dir = &store.directory.dir;
    stats.disk_bytes = names.iter().map(|name| dir.disk_bytes(name).unwrap_or(0)).sum();
    stats.counters = store.tally.counters(false);
    Ok(stats)
}

/// Counts what the version knows, and returns the names of its segments.
fn version_stats<D: Disk>(
    store: &Store<D>,
    reader: &Reader<D>,
    space: &Space<D>,
) -> Result<(Stats, Vec<String>)> {
    let control = store.shared();
    reader.with_walked_version(store, |version| {
        let current = || version.current().map(|number| &version.segments[number as usize]);
        let is_output = |segment: &&Arc<Segment<_>>| segment.header().output.is_some();
        let segments = current().count() as u64;
        let compacted = current().filter(is_output).count() as u64;
        let open = version.open.len() as u64;
        let values: u64 = version.value_bytes.iter().sum();
        let stats = Stats {
            sequence: version.sequence,
            durable_seq: 0,
            keys: version.index.len() as u64,
            extents: version.index.extents(),
            live_bytes: version.index.live_bytes(),
            dead_bytes: values - version.index.live_bytes(),
            batches: version.applied.batches,
            removals: version.applied.removals,
            segments_open: open,
            segments_sealed: segments - compacted - open,
            segments_compacted: compacted,
            segment_bytes: current().map(|segment| segment.header().len).sum(),
            segments_recycled: space.recycler.len(),
            disk_bytes: 0,
            compactions: control.map_or(0, Control::compactions),
            index_bytes: version.index.memory_bytes(),
            mapped_bytes: version.segments.iter().map(|s| s.file().mapping().len()).sum(),
            counters: Counters::default(),
        };
        (stats, current().map(|segment| segment_name(segment.id())).collect())
    })
}
