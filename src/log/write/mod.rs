//! The write path of a handle: claim space, copy, commit.
//!
//! Threads claim space under a short lock of the handle and copy their bytes outside it, several at
//! a time. The commit follows the protocol of [`commit`]. A handle takes its slot and its first
//! segment with its first write, so a handle that only reads takes neither.

mod fill;
mod new_segment;
pub(crate) mod orphan;
pub(crate) mod write_back;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use crate::log::write::write_back::WriteBack;
use crate::partd::Batch;

/// Full segments that a handle keeps open until they are synced. The number is small because a
/// segment that is compacted away meanwhile keeps its disk space. A writeback error in other
/// segments, or after the handle is closed, is still reported to the next process that opens the
/// file, unless the kernel was short of memory.
const SEALED_MAX: usize = 8;

/// How long a writing handle waits between two checks that its files still have their names.
const CHECK_NAMES_MS: u64 = 100;

/// The writing half of a handle.
#[derive(Debug)]
pub(crate) struct Writer<D: Disk> {
    state: Mutex<WriterState<D>>,
    /// Held while a batch is committed: a slot commits one at a time.
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

/// The slot and the segments that the handle writes to.
#[derive(Debug)]
struct WriterState<D: Disk> {
    lease: Option<WriterLease<D>>,
    active: Option<ActiveSegment<D::File>>,
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

/// A batch that is written but not yet committed.
#[derive(Debug)]
pub(crate) struct Prepared<F: DiskFile> {
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
            state: Mutex::new(WriterState { lease: None, active: None, sealed: VecDeque::new() }),
            committing: Mutex::new(()),
            newest: AtomicU64::new(0),
            checked_unix_ms: AtomicU64::new(0),
            opened_unix_ms,
            space: Space::new(),
            write_back: WriteBack::new(options),
        }
    }

    fn state(&self) -> MutexGuard<'_, WriterState<D>> {
        // Poisoning is harmless: the guarded state is consistent between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch.
    pub(crate) fn write(&self, store: &Store<D>, batch: &Batch<'_>) -> Result<Written> {
        let mut prepared = self.prepare(store, batch)?;
        loop {
            // Always commits: the condition is true.
            if let Some(sequence) = self.commit(store, &mut prepared, || true)? {
                return Ok(Written { sequence, removes: prepared.removes });
            }
        }
    }

    /// Does every step of a write that may fail for lack of a resource; only the commit remains.
    /// The batch becomes void if it is dropped before the commit.
    pub(crate) fn prepare(&self, store: &Store<D>, batch: &Batch<'_>) -> Result<Prepared<D::File>> {
        let shape = Shape::of(store, batch)?;
        let control = store.control()?;
        control.reserve()?;
        let (slot, claim) = self.claim(store, control, &shape)?;
        let mut prepared = Prepared {
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
                if let Some(range) = self.write_back.appended(position.offset + len, len) {
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
        self.state().sealed.retain(|sealed| !ids.contains(&sealed.segment.id()));
    }

    /// Ends the handle's active segment early if that frees at least `len` bytes of disk space.
    pub(crate) fn give_up_active(&self, control: &Control<D>, len: u64) -> bool {
        let mut state = self.state();
        // Only whole pages are freed, so up to a page is lost.
        let has_room =
            |active: &mut ActiveSegment<D::File>| len == 0 || active.room() >= len + 4096;
        if control.reserve().is_err() {
            return false;
        }
        let Some(active) = state.active.take_if(has_room) else { return false };
        if let Some(lease) = &state.lease {
            control.clear_active(lease.slot);
        }
        state.close(control, active);
        true
    }

    /// Claims space for a batch, in a new segment if necessary.
    fn claim(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        shape: &Shape,
    ) -> Result<(u16, Claim<D::File>)> {
        let (options, space) = (&store.options, &self.space);
        let (layout, only_removes) = (&shape.layout, shape.only_removes);
        let mut state = self.state();
        let slot = self.lease(&mut state, store, control)?;
        let reserve = if only_removes { 0 } else { options.reserve() };
        if let Some(active) = &mut state.active
            && let Some(claim) = active.claim(layout, reserve)?
        {
            return Ok((slot, claim));
        }
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
        self.newest.store(active.segment().id(), Ordering::Relaxed);
        let Some(claim) = active.claim(layout, 0)? else {
            return Err(Error::Invalid(format!("a batch of {len} bytes does not fit its segment")));
        };
        if is_next {
            if let Some(sealed) = state.active.replace(active) {
                let end = sealed.end();
                if let Some(range) = self.write_back.sealed(end) {
                    sealed.segment().file().write_back(range);
                }
                state.close(control, sealed);
            }
        } else {
            state.close(control, active);
            match &state.active {
                Some(active) => control.set_active(slot, active.segment().id()),
                None => control.clear_active(slot),
            }
        }
        Ok((slot, claim))
    }

    /// The slot of the handle. A handle without a slot leases the first free one.
    fn lease(
        &self,
        state: &mut WriterState<D>,
        store: &Store<D>,
        control: &Control<D>,
    ) -> Result<u16> {
        if let Some(lease) = &state.lease {
            return Ok(lease.slot);
        }
        // Other processes may have created segments of a newer format since this handle was opened.
        let since_opened = store.directory.disk.now_unix_ms().abs_diff(self.opened_unix_ms);
        if !store.is_temporary && since_opened >= CHECK_NAMES_MS {
            store.directory.check_versions()?;
        }
        let Some(lease) = WriterLease::take_free(control)? else {
            let why =
                format!("{SLOTS} handles write to the store, and it has no more slots; close some");
            return Err(Error::refused(ErrorKind::TooManyWriters, &**store.directory.path(), why));
        };
        let slot = lease.slot;
        commit::take_over(control, slot)?;
        seal_orphan(store, control, slot, control.active_segment(slot))?;
        lease.begin(control);
        state.lease = Some(lease);
        Ok(slot)
    }

    /// Ends the active segment and releases the slot; the handle writes no more.
    pub(crate) fn close(&self, control: &Control<D>) {
        let mut state = self.state();
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

impl<D: Disk> WriterState<D> {
    /// Ends a segment, and keeps its file open while a sync may need it.
    fn close(&mut self, control: &Control<D>, active: ActiveSegment<D::File>) {
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
