//! The control file: the words that the processes on a store share.
//!
//! A cache of the segments, with one exception: the commit word, while processes live. It is made
//! under a temporary name and renamed, so that nobody ever maps half of one.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

use partd_format::control::{self as layout, Commit, Fixed};

use super::commit::{Position, Word, Words};
use super::disk::{Disk, DiskFile, was_not_tried};
use super::segment::{Segment, create_anew};
use super::{Names, open_io};
use crate::error::{Error, Result};

/// The mapped control file of an open store.
#[derive(Debug)]
pub(crate) struct Control<D: Disk> {
    disk: D,
    names: Names,
    file: D::File,
    pub(crate) fixed: Fixed,
}

/// What a new control file begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) fixed: Fixed,
    pub(crate) sequence: u64,
    pub(crate) next_segment: u64,
    pub(crate) generation: u64,
    pub(crate) synced: u64,
    pub(crate) sync_failed: bool,
}

/// One word of the control file.
#[derive(Debug)]
pub(crate) struct ControlWord<'a, F> {
    file: &'a F,
    offset: u64,
}

impl<F: DiskFile> Word for ControlWord<'_, F> {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.file.mapping().load(self.offset, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.file.mapping().store(self.offset, value, order);
        self.file.stored(self.offset, 8);
    }

    #[inline]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let mapping = self.file.mapping();
        let done = mapping.compare_exchange(self.offset, current, new, success, failure);
        if done.is_ok() {
            self.file.stored(self.offset, 8);
        }
        done
    }
}

impl<D: Disk> Control<D> {
    /// Opens the control file; an error of the format if it cannot be one of this store.
    pub(crate) fn open(
        disk: &D,
        names: &Names,
        writable: bool,
    ) -> Result<Result<Control<D>, partd_format::Error>> {
        let path = names.control();
        let file = disk.open(&path, writable).map_err(|e| open_io(&path, e))?;
        let len = file.mapping().len();
        if len != layout::FILE_LEN {
            return Ok(Err(partd_format::Error {
                offset: 0,
                what: "length of control file",
                expected: partd_format::Evidence::Number(layout::FILE_LEN),
                found: partd_format::Evidence::Number(len),
            }));
        }
        let mut bytes = [0; layout::FIXED_LEN];
        file.mapping().copy_out(0, &mut bytes);
        Ok(Fixed::decode(&bytes).map(|fixed| Control {
            disk: disk.clone(),
            names: names.clone(),
            file,
            fixed,
        }))
    }

    /// Makes the control file anew, in place of the one that is there.
    pub(crate) fn create(disk: &D, names: &Names, start: &Start) -> Result<()> {
        let temporary = names.temporary("control");
        let make = || -> io::Result<()> {
            let file = create_anew(disk, &temporary, layout::FILE_LEN)?;
            let put = |offset, value| {
                file.mapping().store(offset, value, Relaxed);
                file.stored(offset, 8);
            };
            for (i, word) in start.fixed.encode().chunks_exact(8).enumerate() {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(word);
                put(i as u64 * 8, u64::from_le_bytes(bytes));
            }
            let commit = Commit { sequence: start.sequence, slot: 0, done: true };
            put(layout::COMMIT_AT, commit.encode());
            put(layout::NEXT_SEGMENT_AT, start.next_segment);
            put(layout::GENERATION_AT, start.generation);
            put(layout::SYNCED_AT, layout::encode_synced(&start.fixed.store, start.synced));
            put(layout::SYNC_FAILED_AT, if start.sync_failed { layout::SYNC_FAILED } else { 0 });
            drop(file);
            disk.replace(&temporary, &names.control())
        };
        make().map_err(|source| {
            // Half a control file is of no use to anyone; the error that counts is the first.
            let _ = disk.unlink(&temporary);
            Error::io("make the control file", names.control(), source)
        })
    }

    /// Whether words may be stored.
    pub(crate) fn is_writable(&self) -> bool {
        self.file.mapping().is_writable()
    }

    #[inline]
    fn word(&self, offset: u64) -> ControlWord<'_, D::File> {
        ControlWord { file: &self.file, offset }
    }

    #[inline]
    fn slot_word(&self, slot: u16, field: u64) -> ControlWord<'_, D::File> {
        self.word(layout::slot_at(slot) + field)
    }

    /// The last sequence number that readers see.
    #[inline]
    pub(crate) fn visible(&self) -> u64 {
        self.last_commit().visible()
    }

    /// The commit word as it is now.
    #[inline]
    pub(crate) fn last_commit(&self) -> Commit {
        Commit::decode(self.word(layout::COMMIT_AT).load(Acquire))
    }

    /// How many publishing renames there were.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.word(layout::GENERATION_AT).load(Acquire)
    }

    /// Says that a rename has published a segment, or that segments are about to be unlinked.
    pub(crate) fn raise_generation(&self) {
        let word = self.word(layout::GENERATION_AT);
        let mut seen = word.load(Relaxed);
        while let Err(now) = word.compare_exchange(seen, seen + 1, AcqRel, Relaxed) {
            seen = now;
        }
    }

    /// The id that the next new segment will have.
    pub(crate) fn next_segment(&self) -> u64 {
        self.word(layout::NEXT_SEGMENT_AT).load(Acquire)
    }

    /// Takes an id for a new segment. `announce` tells where it is being made, before it is taken:
    /// so whoever knows of an id without a file finds out whether one may still come.
    ///
    /// The number may come from a file that was made to harm: there is not always a next one.
    pub(crate) fn take_segment_id(&self, announce: Announce) -> Result<u64> {
        let place = match announce {
            Announce::Writer(slot) => self.slot_word(slot, layout::SLOT_ACTIVE_AT),
            Announce::Output => self.word(layout::OUTPUT_AT),
        };
        let next = self.word(layout::NEXT_SEGMENT_AT);
        let mut id = next.load(Acquire);
        loop {
            let Some(following) = id.checked_add(1) else {
                let why = "every number that a segment can have was used; remove this file while \
                           no process has the store open, and it is made again";
                return Err(Error::refused(self.names.control(), why));
            };
            place.store(id, Release);
            match next.compare_exchange(id, following, AcqRel, Acquire) {
                Ok(_) => return Ok(id),
                Err(now) => id = now,
            }
        }
    }

    /// The segments of which somebody has said that it is making them, or claims in them; 0 among them
    /// means nothing.
    pub(crate) fn announced(&self) -> impl Iterator<Item = u64> {
        let output = self.word(layout::OUTPUT_AT).load(Acquire);
        std::iter::once(output).chain((0..layout::SLOTS).map(|slot| self.active_segment(slot)))
    }

    /// Whether somebody has said that it is making the segment.
    pub(crate) fn is_announced(&self, id: u64) -> bool {
        self.announced().any(|announced| announced == id)
    }

    /// The segment in which the owner of a slot claims its batches; 0 for none.
    pub(crate) fn active_segment(&self, slot: u16) -> u64 {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).load(Acquire)
    }

    /// Notes who holds a slot.
    pub(crate) fn set_holder(&self, slot: u16, pid: u32) {
        self.slot_word(slot, layout::SLOT_PID_AT).store(pid.into(), Relaxed);
        self.slot_word(slot, layout::SLOT_FIRST_AT).store(self.next_segment(), Release);
    }

    /// Notes in which segment the owner of a slot claims its batches.
    pub(crate) fn set_active(&self, slot: u16, id: u64) {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).store(id, Release);
    }

    /// Notes that a slot has no active segment.
    pub(crate) fn clear_active(&self, slot: u16) {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).store(0, Release);
    }

    /// The lowest id that a segment made by the holder of a slot can have.
    pub(crate) fn first_segment(&self, slot: u16) -> u64 {
        self.slot_word(slot, layout::SLOT_FIRST_AT).load(Acquire)
    }

    /// Counts a compaction. Its caller holds the compaction lock.
    pub(crate) fn count_compaction(&self) {
        let word = self.word(layout::COMPACTIONS_AT);
        word.store(word.load(Relaxed) + 1, Relaxed);
    }

    /// The number of compactions since the control file was made.
    pub(crate) fn compactions(&self) -> u64 {
        self.word(layout::COMPACTIONS_AT).load(Relaxed)
    }

    /// Says that no output of a compaction is being made.
    pub(crate) fn clear_output(&self) {
        self.word(layout::OUTPUT_AT).store(0, Release);
    }

    /// The sequence number up to which everything is on stable storage.
    #[inline]
    pub(crate) fn synced(&self) -> u64 {
        // A word that is no mark promises nothing.
        let word = self.word(layout::SYNCED_AT).load(Acquire);
        layout::decode_synced(&self.fixed.store, word).unwrap_or(0)
    }

    /// Moves the synced mark up to `sequence`; never down.
    pub(crate) fn raise_synced(&self, sequence: u64) {
        let word = self.word(layout::SYNCED_AT);
        loop {
            let seen = word.load(Acquire);
            if layout::decode_synced(&self.fixed.store, seen).unwrap_or(0) >= sequence {
                return;
            }
            let new = layout::encode_synced(&self.fixed.store, sequence);
            if word.compare_exchange(seen, new, AcqRel, Acquire).is_ok() {
                return;
            }
        }
    }

    /// The generation at which the names in the directory were last on stable storage.
    pub(crate) fn directory_synced(&self) -> u64 {
        self.word(layout::DIRECTORY_SYNCED_AT).load(Acquire)
    }

    /// Notes that the names of a generation are on stable storage.
    pub(crate) fn set_directory_synced(&self, generation: u64) {
        self.word(layout::DIRECTORY_SYNCED_AT).store(generation, Release);
    }

    /// Whether a sync has failed since the machine was booted.
    pub(crate) fn has_sync_failed(&self) -> bool {
        self.word(layout::SYNC_FAILED_AT).load(Acquire) == layout::SYNC_FAILED
    }

    /// The error of a sync, which ends durable acknowledgements: what the disk has lost cannot be
    /// known, and a second try would succeed and prove nothing.
    pub(crate) fn sync_error(&self, path: impl AsRef<Path>, source: io::Error) -> Error {
        if !was_not_tried(&source) {
            self.word(layout::SYNC_FAILED_AT).store(layout::SYNC_FAILED, Release);
        }
        Error::io("sync", path, source)
    }

    fn clean_stamp(&self) -> u64 {
        layout::clean_stamp(
            &self.fixed.store,
            self.word(layout::COMMIT_AT).load(Acquire),
            self.next_segment(),
            self.word(layout::SYNCED_AT).load(Acquire),
        )
    }

    /// Whether the last handle closed the store and nothing was done since. The caller is alone.
    pub(crate) fn is_clean(&self) -> bool {
        self.last_commit().done && self.word(layout::CLEAN_AT).load(Acquire) == self.clean_stamp()
    }

    /// Whether somebody has the store open, or died while it did.
    pub(crate) fn is_open(&self) -> bool {
        self.word(layout::CLEAN_AT).load(Acquire) == 0
    }

    /// Says that the store is open.
    pub(crate) fn set_open(&self) {
        self.word(layout::CLEAN_AT).store(0, Release);
    }

    /// Says that the store is open again, after it was closed, and begins those words anew that the
    /// stamp of the closed store does not vouch for. The caller is alone.
    pub(crate) fn reopen(&self) {
        self.word(layout::GENERATION_AT).store(1, Release);
        self.word(layout::DIRECTORY_SYNCED_AT).store(0, Release);
        self.word(layout::OUTPUT_AT).store(0, Release);
        self.set_open();
    }

    /// Says that the store was closed by its last handle. The caller is alone.
    pub(crate) fn set_clean(&self) {
        self.word(layout::CLEAN_AT).store(self.clean_stamp(), Release);
    }
}

/// Where a new segment is announced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Announce {
    /// In the slot of the writer that will claim in it.
    Writer(u16),
    /// In the word of the one compaction.
    Output,
}

impl<D: Disk> Words for Control<D> {
    type Word<'a> = ControlWord<'a, D::File>;
    type Error = Error;

    #[inline]
    fn commit(&self) -> ControlWord<'_, D::File> {
        self.word(layout::COMMIT_AT)
    }

    #[inline]
    fn position(&self, slot: u16) -> (ControlWord<'_, D::File>, ControlWord<'_, D::File>) {
        (
            self.slot_word(slot, layout::SLOT_SEGMENT_AT),
            self.slot_word(slot, layout::SLOT_OFFSET_AT),
        )
    }

    fn settle(&self, position: Position, sequence: u64) -> Result<()> {
        // Rare: somebody was stopped or died between two stores. No cache is worth having.
        let segment = Segment::open(
            &self.disk,
            &self.names,
            position.segment,
            Some(&self.fixed.store),
            true,
        )?;
        segment.settle(position.offset, sequence)
    }
}

/// The words seen by one writer, which reaches its own segment without opening it.
#[derive(Debug)]
pub(crate) struct OwnWords<'a, D: Disk> {
    pub(crate) control: &'a Control<D>,
    pub(crate) own: &'a Segment<D::File>,
}

impl<D: Disk> Words for OwnWords<'_, D> {
    type Word<'a>
        = ControlWord<'a, D::File>
    where
        Self: 'a;
    type Error = Error;

    #[inline]
    fn commit(&self) -> ControlWord<'_, D::File> {
        self.control.commit()
    }

    #[inline]
    fn position(&self, slot: u16) -> (ControlWord<'_, D::File>, ControlWord<'_, D::File>) {
        self.control.position(slot)
    }

    fn settle(&self, position: Position, sequence: u64) -> Result<()> {
        if position.segment == self.own.id() {
            self.own.settle(position.offset, sequence)
        } else {
            self.control.settle(position, sequence)
        }
    }
}
