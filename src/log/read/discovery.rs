//! Which segments there are: finds each published one once. The directory is listed the first time,
//! and again where so many ids were taken meanwhile that trying each would take longer.
//!
//! Ids are taken one after the other, and whoever takes one has announced it before. So an id that
//! was taken either has its file, or is announced and may still get it, or is gone for good: its
//! maker died, or a compaction has replaced it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::fs::{Access, Disk};
use crate::log::segment::Segment;
use crate::log::shared::control::Control;
use crate::log::store::Store;

/// More new ids than this are not tried one by one: of most of them nothing may be left.
const TRIED_MAX: u64 = 64;

/// What has been looked for so far.
#[derive(Debug)]
pub(crate) struct SegmentDiscovery {
    /// Every id below was looked for.
    next: u64,
    /// Ids below `next` whose file may still come.
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
    /// Opens the segments that were published since the last call; `found` gets each. One whose file
    /// is there and that `known` has is not opened again.
    ///
    /// All that were published before the call are found. Returns the id of one that was listed and
    /// has gone meanwhile: then a compaction has published an output that may not be among them.
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
            // The directory tells which of many ids are worth a try. The announcements come before
            // it: a maker that is no longer among them has published by then, or never will.
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
        // Only now, so that after an error the next call looks for all of them again.
        opened.into_iter().for_each(found);
        self.awaited = awaited;
        self.listed = true;
        self.next = self.next.max(next);
        Ok(vanished)
    }

    /// For a store that nobody else has open.
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
                // Recovery has looked at it, in memory, and done without.
                Err(Error::Damage { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.listed = true;
        Ok(None)
    }
}

/// What looking for a segment has led to.
enum Probe<F> {
    Opened(Segment<F>),
    /// It may still come.
    Reserved,
    Gone,
}

fn probe<D: Disk>(store: &Store<D>, control: &Control<D>, id: u64) -> Result<Probe<D::File>> {
    // Twice: it may be published between a failed try and the look at the announcements.
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
