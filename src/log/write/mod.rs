//! The write path of a handle: claim space, copy, commit.
//!
//! Threads claim space under a short lock and copy their bytes outside it, several at a time. The
//! commit follows the protocol of [`commit`]. A handle takes a slot and its first segment with its first
//! write, so a handle that only reads takes neither. It takes more of both while several threads write
//! large batches at the same time, because a file system copies to a file for one thread at a time.

mod fill;
mod new_segment;
pub(crate) mod orphan;
mod own_slot;
mod sealed;
pub(crate) mod write_back;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use partd_format::control::SLOTS;
use partd_format::segment::HEADER_LEN;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::{Disk, DiskFile, is_full};
use crate::log::options::Options;
use crate::log::segment::claim::{ActiveSegment, Claim};
use crate::log::segment::space::Space;
use crate::log::segment::words::OwnWords;
use crate::log::segment::{SEAL_LEN, Segment};
use crate::log::shared::commit::{self, CommitError, Position};
use crate::log::shared::control::Control;
use crate::log::shared::lease::WriterLease;
use crate::log::store::Store;
use crate::log::write::fill::{Shape, fill};
use crate::log::write::orphan::seal_orphan;
use crate::log::write::own_slot::{OwnSlot, SlotState};
use crate::log::write::sealed::SealedSegments;
use crate::log::write::write_back::WriteBack;
use crate::partd::{Batch, Durability};

/// The slots that a handle may take. More would spread the batches over many unfinished segments.
const OWN_SLOTS: usize = 4;
/// A batch of at least this length is worth a segment that no other thread is copying to.
const BESIDE_MIN_BYTES: u64 = 64 << 10;

/// How long a writing handle waits between two checks that its files still have their names.
const CHECK_NAMES_MS: u64 = 100;

/// The writing half of a handle.
#[derive(Debug)]
pub(crate) struct Writer<D: Disk> {
    /// The first is used unless another thread is copying a large batch to its segment.
    slots: [OwnSlot<D>; OWN_SLOTS],
    sealed: SealedSegments<D::File>,
    /// Held while a segment is made in a store with a size limit, so that two slots of the handle do
    /// not both take the last room.
    making: Mutex<()>,
    /// Held while a batch is committed. A slot commits one at a time, and a handle too, so that its
    /// threads never find each other's commit unfinished: that is for processes that were stopped.
    committing: Mutex<()>,
    /// The id of the newest segment that the handle has made; 0 for none.
    newest: AtomicU64,
    /// When the handle last checked the names of its files, in milliseconds since 1970.
    checked_unix_ms: AtomicU64,
    /// When the handle was opened.
    opened_unix_ms: u64,
    /// The disk space of the segments that the handle makes.
    pub(crate) space: Space<D>,
    write_back: WriteBack,
}

/// Space for a batch, with the index of the handle's slot and the slot's number in the control file.
type Claimed<D> = (usize, u16, Claim<<D as Disk>::File>);

/// A batch that is written but not yet committed.
#[derive(Debug)]
pub(crate) struct Prepared<F: DiskFile> {
    /// The index of the handle's slot, and the slot's number in the control file.
    own_slot: usize,
    slot: u16,
    claim: Claim<F>,
    removes: bool,
    entries: u64,
    value_bytes: u64,
    is_committed: bool,
}

/// A committed batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) sequence: u64,
    /// Whether it has removals.
    pub(crate) removes: bool,
}

impl<F: DiskFile> Drop for Prepared<F> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.claim.void();
        }
    }
}

impl<D: Disk> Writer<D> {
    /// Creates the writer of a handle that was opened, and checked every segment, at
    /// `opened_unix_ms`.
    pub(crate) fn new(options: &Options, opened_unix_ms: u64) -> Writer<D> {
        Writer {
            slots: std::array::from_fn(|_| OwnSlot::new()),
            sealed: SealedSegments::new(),
            making: Mutex::new(()),
            committing: Mutex::new(()),
            newest: AtomicU64::new(0),
            checked_unix_ms: AtomicU64::new(0),
            opened_unix_ms,
            space: Space::new(),
            write_back: WriteBack::new(options),
        }
    }

    /// Writes a batch.
    pub(crate) fn write(
        &self,
        store: &Store<D>,
        batch: &Batch<'_>,
        durability: Durability,
    ) -> Result<Written> {
        let mut prepared = self.prepare(store, batch, durability)?;
        loop {
            // Always commits: the condition is true.
            if let Some(sequence) = self.commit(store, &mut prepared, || true)? {
                return Ok(Written { sequence, removes: prepared.removes });
            }
        }
    }

    /// Does every step of a write that may fail for lack of a resource; only the commit remains.
    /// The batch becomes void if it is dropped before the commit.
    pub(crate) fn prepare(
        &self,
        store: &Store<D>,
        batch: &Batch<'_>,
        durability: Durability,
    ) -> Result<Prepared<D::File>> {
        let shape = Shape::of(store, batch)?;
        let control = store.control()?;
        control.reserve()?;
        // A sync of one segment is faster than of several, so durable batches share one.
        let is_large = shape.layout.batch_len(HEADER_LEN) >= BESIDE_MIN_BYTES;
        let (own_slot, _copying) = match is_large && durability == Durability::Plain {
            true => self.idle_slot(),
            false => (0, None),
        };
        let (own_slot, slot, claim) = self.claim_somewhere(store, control, &shape, own_slot)?;
        let mut prepared = Prepared {
            own_slot,
            slot,
            claim,
            removes: shape.removes,
            entries: shape.layout.entries(),
            value_bytes: shape.layout.values_len(),
            is_committed: false,
        };
        self.check_names(store, control, prepared.claim.segment())?;
        fill(&mut prepared.claim, batch, &shape.layout, control.durable_seq()).map_err(
            |source| Error::io("write to the segment", prepared.claim.segment().path(), source),
        )?;
        Ok(prepared)
    }

    /// Commits a prepared batch and returns its sequence number. Returns `None` if `holds` returns
    /// false; the batch can then be committed again. An error means that the batch is not in the
    /// history.
    pub(crate) fn commit(
        &self,
        store: &Store<D>,
        prepared: &mut Prepared<D::File>,
        holds: impl Fn() -> bool,
    ) -> Result<Option<u64>> {
        let control = store.control()?;
        let segment = prepared.claim.segment();
        let position = Position { segment: segment.id(), offset: prepared.claim.offset() };
        let guard = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.claim.reserve_words()?;
        control.reserve()?;
        let words = OwnWords { control, own: segment };
        let committed = commit::commit_if(&words, prepared.slot, position, holds);
        if committed.is_ok() {
            store.tally.wrote(prepared.entries, prepared.value_bytes);
        }
        drop(guard);
        match committed {
            Ok(sequence) => {
                prepared.is_committed = true;
                let len = prepared.claim.len();
                let waiting = &self.slots[prepared.own_slot].waiting_bytes;
                let end = position.offset + len;
                if let Some(range) = self.write_back.appended(waiting, end, len) {
                    segment.file().write_back(range);
                }
                Ok(Some(sequence))
            }
            Err(CommitError::Overtaken) => Ok(None),
            Err(CommitError::Help(error)) => Err(error),
            Err(CommitError::HistoryFull) => Err(Error::refused(
                ErrorKind::LimitReached,
                &**store.directory.path(),
                "every sequence number of the store has been used; copy it into a new store",
            )),
        }
    }

    /// Checks, at most ten times a second, that the control file and the segment still have their
    /// names: bytes written to a file without its name are lost to the store.
    fn check_names(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        segment: &Segment<D::File>,
    ) -> Result<()> {
        let now = store.directory.disk.now_unix_ms();
        let before = self.checked_unix_ms.load(Ordering::Relaxed);
        if now.abs_diff(before) < CHECK_NAMES_MS {
            return Ok(());
        }
        if !control.is_in_place()? {
            return Err(control.replaced());
        }
        store.directory.check_in_place(segment.id(), segment.file().id())?;
        self.checked_unix_ms.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The id of the newest segment that the handle has made; 0 for none.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Drops the handle's references to segments that a compaction has replaced.
    pub(crate) fn forget(&self, ids: &[u64]) {
        self.sealed.forget(ids);
    }

    /// The ids of the segments that the handle writes to.
    pub(crate) fn active_ids(&self) -> Vec<u64> {
        let id = |slot: &OwnSlot<D>| Some(slot.state().active.as_ref()?.segment().id());
        self.slots.iter().filter_map(id).collect()
    }

    /// Ends the first active segment of the handle for which `is_wanted` holds. Returns whether there
    /// was one.
    pub(crate) fn give_up_active(
        &self,
        control: &Control<D>,
        is_wanted: impl Fn(&ActiveSegment<D::File>) -> bool,
    ) -> bool {
        self.slots.iter().any(|slot| {
            let mut state = slot.state();
            if control.reserve().is_err() {
                return false;
            }
            let Some(active) = state.active.take_if(|active| is_wanted(active)) else {
                return false;
            };
            if let Some(lease) = &state.lease {
                control.clear_active(lease.slot);
            }
            self.sealed.seal(control, active);
            true
        })
    }

    /// Returns the first slot to whose segment no other thread is copying a large batch, and marks it as
    /// in use; the first of all if there is none.
    fn idle_slot(&self) -> (usize, Option<MutexGuard<'_, ()>>) {
        for (number, slot) in self.slots.iter().enumerate() {
            match slot.copying.try_lock() {
                Ok(copying) => return (number, Some(copying)),
                Err(TryLockError::Poisoned(error)) => return (number, Some(error.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        (0, None)
    }

    /// Claims space for a batch through the handle's slot `wanted`, or through another if that one
    /// cannot have it.
    fn claim_somewhere(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        shape: &Shape,
        wanted: usize,
    ) -> Result<Claimed<D>> {
        // If this fails, the first slot may still have a segment with room.
        if wanted > 0
            && let Ok((slot, claim)) = self.claim(store, control, shape, wanted)
        {
            return Ok((wanted, slot, claim));
        }
        if shape.only_removes {
            // They free space, so they take a new segment or a reserve only if they must.
            if let Some(claimed) = self.claim_active(store, shape)? {
                return Ok(claimed);
            }
        }
        let error = match self.claim(store, control, shape, 0) {
            Ok((slot, claim)) => return Ok((0, slot, claim)),
            Err(error) if !is_full(&error) => return Err(error),
            Err(error) => error,
        };
        self.claim_active(store, shape)?.ok_or(error)
    }

    /// Claims space for a batch in the first active segment that has room.
    fn claim_active(&self, store: &Store<D>, shape: &Shape) -> Result<Option<Claimed<D>>> {
        for (number, slot) in self.slots.iter().enumerate() {
            if let Some((slot, claim)) = slot.claim(&shape.layout, shape.reserve(&store.options))? {
                return Ok(Some((number, slot, claim)));
            }
        }
        Ok(None)
    }

    /// Claims space for a batch through the handle's slot `number`, in a new segment if necessary.
    fn claim(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        shape: &Shape,
        number: usize,
    ) -> Result<(u16, Claim<D::File>)> {
        let own_slot = &self.slots[number];
        let (options, space) = (&store.options, &self.space);
        let (layout, only_removes) = (&shape.layout, shape.only_removes);
        let mut state = own_slot.state();
        // Handles with several slots leave half of all to others.
        let slots = if number == 0 { SLOTS } else { SLOTS / 2 };
        let slot = self.lease(&mut state, store, control, slots)?;
        if let Some(active) = &mut state.active
            && let Some(claim) = active.claim(layout, shape.reserve(options))?
        {
            return Ok((slot, claim));
        }
        let _making = options
            .max_store_bytes
            .map(|_| self.making.lock().unwrap_or_else(PoisonError::into_inner));
        let len = layout.batch_len(HEADER_LEN);
        let make = |len| new_segment::make(store, space, control, slot, len);
        let make_on_a_full_disk =
            |len| new_segment::make_on_a_full_disk(store, space, control, slot, len);
        let segment_len = options.segment_len();
        let own_len = (HEADER_LEN + len + SEAL_LEN).next_multiple_of(4096);
        let fits_a_segment = HEADER_LEN + len + SEAL_LEN + options.reserve() <= segment_len;
        let (mut active, is_next) = if fits_a_segment {
            let least = own_len + options.reserve();
            match space.room_for(store, segment_len, least).and_then(make) {
                // Removals free space, so they work even beyond the store's size limit, and on a
                // full disk while any space or reserve is left. They take no more than they need.
                Err(error) if only_removes && is_full(&error) => {
                    (make_on_a_full_disk(own_len)?, false)
                }
                made => (made?, true),
            }
        } else if only_removes {
            (make_on_a_full_disk(own_len)?, false)
        } else {
            space.check(store, own_len)?;
            (make(own_len)?, false)
        };
        self.newest.fetch_max(active.segment().id(), Ordering::Relaxed);
        let Some(claim) = active.claim(layout, 0)? else {
            return Err(Error::Invalid(format!("a batch of {len} bytes does not fit its segment")));
        };
        if is_next {
            if let Some(sealed) = state.active.replace(active) {
                let end = sealed.end();
                if let Some(range) = self.write_back.sealed(&own_slot.waiting_bytes, end) {
                    sealed.segment().file().write_back(range);
                }
                self.sealed.seal(control, sealed);
            }
        } else {
            self.sealed.seal(control, active);
            match &state.active {
                Some(active) => control.set_active(slot, active.segment().id()),
                None => control.clear_active(slot),
            }
        }
        Ok((slot, claim))
    }

    /// The number of a slot in the control file. Leases the first free one of the first `slots` at the
    /// first call.
    fn lease(
        &self,
        state: &mut SlotState<D>,
        store: &Store<D>,
        control: &Control<D>,
        slots: u16,
    ) -> Result<u16> {
        if let Some(lease) = &state.lease {
            return Ok(lease.slot);
        }
        // Other processes may have created segments of a newer format since this handle was opened.
        let since_opened = store.directory.disk.now_unix_ms().abs_diff(self.opened_unix_ms);
        if !store.is_temporary && since_opened >= CHECK_NAMES_MS {
            store.directory.check_versions()?;
        }
        let Some(lease) = WriterLease::take_free(control, slots)? else {
            let why = format!(
                "the writing handles of the store take all of its {SLOTS} writer slots; close some"
            );
            return Err(Error::refused(ErrorKind::TooManyWriters, &**store.directory.path(), why));
        };
        let slot = lease.slot;
        commit::take_over(control, slot)?;
        seal_orphan(store, control, slot, control.active_segment(slot))?;
        lease.begin(control);
        state.lease = Some(lease);
        Ok(slot)
    }

    /// Ends the active segments and releases the slots; the handle writes no more.
    pub(crate) fn close(&self, control: &Control<D>) {
        for slot in &self.slots {
            let mut state = slot.state();
            if let Some(active) = state.active.take() {
                active.close();
            }
            // Without disk space for these words, the next owner of the slot finds them as after a
            // kill, which it can handle.
            if let Some(lease) = state.lease.take_if(|_| control.reserve().is_ok()) {
                lease.end(control);
            }
        }
    }
}
