//! The write path of one handle: claim space, copy, commit.
//!
//! Space is claimed under a short lock of the handle; bytes are copied outside of it, by several
//! threads at once; the commit is the protocol of [`commit`]. A handle takes its slot and
//! its first segment with its first write, so that one that only reads takes neither.

mod fill;
mod new_segment;
pub(crate) mod orphan;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partd_format::control::SLOTS;
use partd_format::segment::HEADER_LEN;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::{Disk, DiskFile, is_full};
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
use crate::partd::Batch;

/// Full segments that a handle keeps open until they are synced: few, since one that is compacted
/// away meanwhile keeps its disk space. Of failures in those beyond, and of a handle that is closed,
/// the system still tells whoever opens the file next, unless it was short of memory.
const SEALED_MAX: usize = 8;

/// How often a handle that writes looks whether its files are still there, in milliseconds.
const LOOK_MS: u64 = 100;

/// The writing half of a handle.
#[derive(Debug)]
pub(crate) struct Writer<D: Disk> {
    state: Mutex<WriterState<D>>,
    /// Held while a batch is committed: a slot commits one at a time.
    committing: Mutex<()>,
    /// The id of the newest segment that the handle has made; 0 for none.
    newest: AtomicU64,
    /// When the handle last looked whether its files are still there, in milliseconds since 1970.
    looked_unix_ms: AtomicU64,
    /// When the handle was opened.
    opened_unix_ms: u64,
    /// The disk space of the segments that the handle makes.
    pub(crate) space: Space<D>,
}

/// Where the handle writes.
#[derive(Debug)]
struct WriterState<D: Disk> {
    lease: Option<WriterLease<D>>,
    active: Option<ActiveSegment<D::File>>,
    /// Full segments, the oldest first, until they are synced: a failure to write to the disk is
    /// told of through the files that are open then, and forgotten where none is.
    sealed: VecDeque<SealedSegment<D::File>>,
}

#[derive(Debug)]
struct SealedSegment<F> {
    segment: Arc<Segment<F>>,
    /// No batch in it has a larger number; unknown while one is being written.
    max_seq: Option<u64>,
}

/// A batch that is written, and not yet committed.
#[derive(Debug)]
pub(crate) struct Prepared<F: DiskFile> {
    slot: u16,
    claim: Claim<F>,
    removes: bool,
    is_committed: bool,
}

/// A batch that was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) sequence: u64,
    /// Whether it has deletes or clears.
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
    /// The writer of a handle that was opened, and has looked at every segment, at a time.
    pub(crate) fn new(opened_unix_ms: u64) -> Writer<D> {
        Writer {
            state: Mutex::new(WriterState { lease: None, active: None, sealed: VecDeque::new() }),
            committing: Mutex::new(()),
            newest: AtomicU64::new(0),
            looked_unix_ms: AtomicU64::new(0),
            opened_unix_ms,
            space: Space::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, WriterState<D>> {
        // What the lock guards is whole between any two of its statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch.
    pub(crate) fn write(&self, store: &Store<D>, batch: &Batch<'_>) -> Result<Written> {
        let mut prepared = self.prepare(store, batch)?;
        loop {
            // Nothing can overtake it.
            if let Some(sequence) = self.commit(store, &mut prepared, || true)? {
                return Ok(Written { sequence, removes: prepared.removes });
            }
        }
    }

    /// Does everything of a write that may fail for want of something: the batch then only has to be
    /// committed. It is void if it is dropped before.
    pub(crate) fn prepare(&self, store: &Store<D>, batch: &Batch<'_>) -> Result<Prepared<D::File>> {
        let shape = Shape::of(store, batch)?;
        let control = store.control()?;
        control.reserve()?;
        let (slot, claim) = self.claim(store, control, &shape)?;
        let mut prepared = Prepared { slot, claim, removes: shape.removes, is_committed: false };
        self.look(store, control, prepared.claim.segment())?;
        fill(&mut prepared.claim, batch, &shape.layout, control.durable_seq()).map_err(
            |source| Error::io("write to the segment", prepared.claim.segment().path(), source),
        )?;
        Ok(prepared)
    }

    /// Commits a prepared batch and returns its sequence number; `None`, and it can be tried again,
    /// where `holds` says no. An error means that the batch is not in the history.
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
        drop(guard);
        match committed {
            Ok(sequence) => {
                prepared.is_committed = true;
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

    /// Looks, ten times a second at most, whether the files that the handle writes to still have their names:
    /// what is written to a file without its name is lost to the store.
    fn look(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        segment: &Segment<D::File>,
    ) -> Result<()> {
        let now = store.directory.disk.now_unix_ms();
        let before = self.looked_unix_ms.load(Ordering::Relaxed);
        if now.abs_diff(before) < LOOK_MS {
            return Ok(());
        }
        if !control.is_in_place()? {
            return Err(control.replaced());
        }
        store.directory.check_in_place(segment.id(), segment.file().id())?;
        self.looked_unix_ms.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The id of the newest segment that the handle has made; 0 for none.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Lets go of segments that a compaction has replaced.
    pub(crate) fn forget(&self, ids: &[u64]) {
        self.state().sealed.retain(|sealed| !ids.contains(&sealed.segment.id()));
    }

    /// Ends the handle's segment early if that gives back `len` bytes of disk space.
    pub(crate) fn give_up_active(&self, control: &Control<D>, len: u64) -> bool {
        let mut state = self.state();
        // Less than a page of it is lost to where the pages begin.
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

    /// Claims space for a batch, in a new segment where it must be.
    fn claim(
        &self,
        store: &Store<D>,
        control: &Control<D>,
        shape: &Shape,
    ) -> Result<(u16, Claim<D::File>)> {
        let (options, space) = (&store.options, &self.space);
        let (len, only_removes) = (shape.layout.batch_len(), shape.only_removes);
        let mut state = self.state();
        let slot = self.lease(&mut state, store, control)?;
        let reserve = if only_removes { 0 } else { options.reserve() };
        if let Some(active) = &mut state.active
            && len + reserve <= active.room()
            && let Some(claim) = active.claim(len)?
        {
            return Ok((slot, claim));
        }
        let make = |len| new_segment::make(store, space, control, slot, len);
        let make_on_a_full_disk =
            |len| new_segment::make_on_a_full_disk(store, space, control, slot, len);
        let segment_len = options.segment_len();
        let own_len = (HEADER_LEN + len + SEAL_LEN).next_multiple_of(4096);
        let fits_a_segment = HEADER_LEN + len + SEAL_LEN + options.reserve() <= segment_len;
        let (mut active, is_next) = if fits_a_segment {
            let least = own_len + options.reserve();
            match space.room_for(store, segment_len, least).and_then(make) {
                // What frees space must work on a full disk, if any space is left at all, and is
                // never refused; it takes no more than it needs.
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
        let Some(claim) = active.claim(len)? else {
            return Err(Error::Invalid(format!("a batch of {len} bytes does not fit its segment")));
        };
        if is_next {
            if let Some(sealed) = state.active.replace(active) {
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

    /// The slot that the handle holds; the first free one if it has none.
    fn lease(
        &self,
        state: &mut WriterState<D>,
        store: &Store<D>,
        control: &Control<D>,
    ) -> Result<u16> {
        if let Some(lease) = &state.lease {
            return Ok(lease.slot);
        }
        // A handle may write for the first time long after it was opened.
        let since_opened = store.directory.disk.now_unix_ms().abs_diff(self.opened_unix_ms);
        if !store.is_temporary && since_opened >= LOOK_MS {
            store.directory.check_versions()?;
        }
        let Some(lease) = WriterLease::take_free(control)? else {
            let why = format!(
                "{SLOTS} handles write to the store, which is all that it has slots for; close some"
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

    /// Ends the handle's segment; the handle writes no more.
    pub(crate) fn close(&self, control: &Control<D>) {
        let mut state = self.state();
        if let Some(active) = state.active.take() {
            active.close();
        }
        // Without space for these words the next owner of the slot finds them as they are, which is what it
        // finds after a kill.
        if let Some(lease) = state.lease.take_if(|_| control.reserve().is_ok()) {
            lease.end(control);
        }
    }
}

impl<D: Disk> WriterState<D> {
    /// Ends a segment, and keeps its file open while it may have to be synced.
    fn close(&mut self, control: &Control<D>, active: ActiveSegment<D::File>) {
        self.sealed
            .push_back(SealedSegment { segment: Arc::clone(active.segment()), max_seq: None });
        active.close();
        let durable_seq = control.durable_seq();
        self.sealed.retain_mut(|sealed| {
            // Who writes a batch holds the segment.
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
