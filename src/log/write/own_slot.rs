//! A slot that a handle writes through, and the segments that it has written.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partd_format::batch::Layout;

use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::segment::Segment;
use crate::log::segment::claim::{ActiveSegment, Claim};
use crate::log::shared::control::Control;
use crate::log::shared::lease::WriterLease;

/// Full segments that a handle keeps open until they are synced. The number is small because a
/// segment that is compacted away meanwhile keeps its disk space. A writeback error in other
/// segments, or after the handle is closed, is still reported to the next process that opens the
/// file, unless the kernel was short of memory.
const SEALED_MAX: usize = 8;

/// A slot that the handle takes when it needs it, and its segments.
#[derive(Debug)]
pub(super) struct OwnSlot<D: Disk> {
    state: Mutex<SlotState<D>>,
    /// Held while a large batch is copied to the active segment, unless all slots are in use.
    pub(super) copying: Mutex<()>,
    /// Held while a batch is committed: a slot commits one at a time.
    pub(super) committing: Mutex<()>,
    /// The bytes of the active segment for which no writeback was requested yet.
    pub(super) waiting_bytes: AtomicU64,
}

/// A slot and the segments that were written through it.
#[derive(Debug)]
pub(super) struct SlotState<D: Disk> {
    pub(super) lease: Option<WriterLease<D>>,
    pub(super) active: Option<ActiveSegment<D::File>>,
    /// Full segments that are not synced yet, oldest first. The kernel reports a writeback error to
    /// the files that are open at that time.
    sealed: VecDeque<SealedSegment<D::File>>,
}

#[derive(Debug)]
struct SealedSegment<F> {
    segment: Arc<Segment<F>>,
    /// No batch in the segment has a larger number. `None` while a batch is being written.
    max_seq: Option<u64>,
}

impl<D: Disk> OwnSlot<D> {
    pub(super) fn new() -> OwnSlot<D> {
        let state = SlotState { lease: None, active: None, sealed: VecDeque::new() };
        let (copying, committing) = (Mutex::new(()), Mutex::new(()));
        OwnSlot { state: Mutex::new(state), copying, committing, waiting_bytes: AtomicU64::new(0) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SlotState<D>> {
        // Poisoning is harmless: the guarded state is consistent between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims space for a batch in the active segment, if there is one with room.
    pub(super) fn claim(
        &self,
        layout: &Layout,
        reserve: u64,
    ) -> Result<Option<(u16, Claim<D::File>)>> {
        let mut state = self.state();
        let SlotState { lease: Some(lease), active: Some(active), .. } = &mut *state else {
            return Ok(None);
        };
        Ok(active.claim(layout, reserve)?.map(|claim| (lease.slot, claim)))
    }
}

impl<D: Disk> SlotState<D> {
    /// Drops the references to segments that a compaction has replaced.
    pub(super) fn forget(&mut self, ids: &[u64]) {
        self.sealed.retain(|sealed| !ids.contains(&sealed.segment.id()));
    }

    /// Ends a segment, and keeps its file open while a sync may need it.
    pub(super) fn close(&mut self, control: &Control<D>, active: ActiveSegment<D::File>) {
        if control.fixed.temporary {
            // Nothing in a temporary store is ever synced.
            active.close();
            return;
        }
        self.sealed
            .push_back(SealedSegment { segment: Arc::clone(active.segment()), max_seq: None });
        active.close();
        let durable_seq = control.durable_seq();
        self.sealed.retain_mut(|sealed| {
            // An in-flight append holds an `Arc` to the segment; a unique `Arc` means that none is
            // left.
            if sealed.max_seq.is_none() && Arc::get_mut(&mut sealed.segment).is_some() {
                sealed.max_seq = Some(control.visible());
            }
            sealed.max_seq.is_none_or(|max_seq| max_seq > durable_seq)
        });
        if self.sealed.len() > SEALED_MAX {
            self.sealed.pop_front();
        }
    }
}
