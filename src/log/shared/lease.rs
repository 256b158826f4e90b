//! The lease of a writer slot. A slot of the control file belongs to one open, writable handle at a
//! time, through a lock that the kernel releases when the process dies.

use std::sync::atomic::Ordering::{Relaxed, Release};

use partd_format::control as layout;

use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::shared::commit::Word;
use crate::log::shared::control::Control;

/// A slot that a handle holds.
#[derive(Debug)]
pub(crate) struct WriterLease<D: Disk> {
    pub(crate) slot: u16,
    /// Held for as long as the lease lives.
    _lock: D::Lock,
}

impl<D: Disk> WriterLease<D> {
    /// Takes the first free slot of the first `slots`; `None` if all of these are taken.
    pub(crate) fn take_free(control: &Control<D>, slots: u16) -> Result<Option<WriterLease<D>>> {
        let mut bytes = (0..slots).map(layout::slot_lock_at);
        let slot_of = |at: u64| ((at - layout::SLOTS_AT) / layout::SLOT_LEN) as u16;
        let locked = control.try_lock_first(&mut bytes)?;
        Ok(locked.map(|(at, lock)| WriterLease { slot: slot_of(at), _lock: lock }))
    }

    /// Takes a slot; `None` if it is taken.
    pub(crate) fn take(control: &Control<D>, slot: u16) -> Result<Option<WriterLease<D>>> {
        let locked = control.try_lock(layout::slot_lock_at(slot), true)?;
        Ok(locked.map(|lock| WriterLease { slot, _lock: lock }))
    }

    /// Records that this process holds the slot and has no active segment yet.
    pub(crate) fn begin(&self, control: &Control<D>) {
        control.clear_active(self.slot);
        set_holder(control, self.slot, std::process::id());
    }

    /// Records that the slot is free.
    pub(crate) fn end(&self, control: &Control<D>) {
        control.clear_active(self.slot);
        set_holder(control, self.slot, 0);
    }
}

/// Records the holder of a slot.
fn set_holder<D: Disk>(control: &Control<D>, slot: u16, pid: u32) {
    control.slot_word(slot, layout::SLOT_PID_AT).store(pid.into(), Relaxed);
    control.slot_word(slot, layout::SLOT_FIRST_AT).store(control.next_segment(), Release);
}
