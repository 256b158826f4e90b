//! Segment discovery: finds each published segment once. It lists the directory the first time, and
//! again if so many ids were reserved meanwhile that trying each one would take longer.
//!
//! Writers and compactions reserve ids in ascending order before they use them. So an id below the
//! next one either has its file, or is reserved and may still get its file, or is gone for good:
//! its creator died, or a compaction replaced the segment.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::fs::{Access, Disk};
use crate::log::segment::Segment;
use crate::log::shared::control::Control;
use crate::log::store::Store;

/// With more new ids than this, the directory is listed instead of trying each: most of them may
/// have no file.
const TRIED_MAX: u64 = 64;

/// The ids that were searched for so far.
#[derive(Debug)]
pub(crate) struct SegmentDiscovery {
    /// Every id below this one was searched for.
    next: u64,
    /// Ids below `next` that are reserved, so that their files may still appear.
    awaited: BTreeSet<u64>,
    /// Whether the directory was listed.
    listed: bool,
}

impl Default for SegmentDiscovery {
    fn default() -> SegmentDiscovery {
        SegmentDiscovery { next: 1, awaited: BTreeSet::new(), listed: false }
    }
}

impl SegmentDiscovery {
    /// Opens the segments that were published since the last call, and passes each to `found`. If
    /// the listing contains a segment that `known` returns, it is not opened again.
    ///
    /// Finds all segments that were published before the call. Returns the id of a segment that was
    /// listed but is gone: a compaction has then published an output that may not have been found.
    pub(crate) fn find<D: Disk>(
        &mut self,
        store: &Store<D>,
        known: &mut dyn FnMut(u64) -> Option<Arc<Segment<D::File>>>,
        found: &mut dyn FnMut(Arc<Segment<D::File>>),
    ) -> Result<Option<u64>> {
        let Some(control) = store.shared() else {
            return self.find_all(store, found);
        };
        let next = control.next_segment();
        let mut listed = BTreeSet::new();
        let mut ids: BTreeSet<u64> = self.awaited.iter().copied().collect();
        if self.listed && next.saturating_sub(self.next) <= TRIED_MAX {
            ids.extend(self.next..next);
        } else {
            // Try only the ids that are listed or reserved. Read the reservations before the
            // listing: if a creator's reservation is gone by then, it has published its segment or
            // never will.
            let reserved_ids: BTreeSet<u64> = control.reserved_ids().collect();
            listed = store.directory.segment_ids()?;
            let is_new = |id: &&u64| (self.next..next).contains(*id);
            ids.extend(reserved_ids.union(&listed).filter(is_new));
        }
        let mut opened = Vec::new();
        let mut awaited = BTreeSet::new();
        let mut vanished = None;
        for id in ids {
            if listed.contains(&id)
                && let Some(segment) = known(id)
            {
                opened.push(segment);
                continue;
            }
            match probe(store, control, id)? {
                Probe::Opened(segment) => opened.push(Arc::new(segment)),
                Probe::Reserved => drop(awaited.insert(id)),
                Probe::Gone if self.listed => {}
                Probe::Gone => vanished = Some(id),
            }
        }
        // Update the state only now: after an error, the next call must search for all of them
        // again.
        opened.into_iter().for_each(found);
        self.awaited = awaited;
        self.listed = true;
        self.next = self.next.max(next);
        Ok(vanished)
    }

    /// Opens all segments, on the first call only. Used for a frozen history, in which no segments
    /// appear.
    fn find_all<D: Disk>(
        &mut self,
        store: &Store<D>,
        found: &mut dyn FnMut(Arc<Segment<D::File>>),
    ) -> Result<Option<u64>> {
        if self.listed {
            return Ok(None);
        }
        for id in store.directory.segment_ids()? {
            match Segment::open(&store.directory, id, Some(&store.uuid), Access::Read) {
                Ok(segment) => found(Arc::new(segment)),
                // The recovery in memory has read this segment and left it out.
                Err(Error::Damage { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.listed = true;
        Ok(None)
    }
}

/// The result of a search for one segment.
enum Probe<F> {
    Opened(Segment<F>),
    /// The id is reserved, so the file may still appear.
    Reserved,
    Gone,
}

fn probe<D: Disk>(store: &Store<D>, control: &Control<D>, id: u64) -> Result<Probe<D::File>> {
    // Try twice: the segment may be published between a failed open and the check of the
    // reservations.
    for _ in 0..2 {
        match Segment::open(&store.directory, id, Some(&control.fixed.store), Access::Read) {
            Ok(segment) => return Ok(Probe::Opened(segment)),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if control.is_reserved(id) {
            return Ok(Probe::Reserved);
        }
    }
    Ok(Probe::Gone)
}
