//! A slot that a handle writes through, and its active segment.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use partd_format::batch::Layout;

use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::segment::claim::{ActiveSegment, Claim};
use crate::log::shared::lease::WriterLease;

/// A slot that the handle takes when it needs it.
#[derive(Debug)]
pub(super) struct OwnSlot<D: Disk> {
    state: Mutex<SlotState<D>>,
    /// Held while a large batch, not a durable one, is copied to the active segment, unless all slots
    /// are in use.
    pub(super) copying: Mutex<()>,
    /// The bytes of the active segment for which no writeback was requested yet.
    pub(super) waiting_bytes: AtomicU64,
}

/// A slot and the segment that is written through it.
#[derive(Debug)]
pub(super) struct SlotState<D: Disk> {
    pub(super) lease: Option<WriterLease<D>>,
    pub(super) active: Option<ActiveSegment<D::File>>,
}

impl<D: Disk> OwnSlot<D> {
    pub(super) fn new() -> OwnSlot<D> {
        let state = SlotState { lease: None, active: None };
        let (copying, waiting_bytes) = (Mutex::new(()), AtomicU64::new(0));
        OwnSlot { state: Mutex::new(state), copying, waiting_bytes }
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
