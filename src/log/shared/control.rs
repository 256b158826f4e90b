//! The control file: the words that all processes on a store share.
//!
//! It can be rebuilt from the segments, except for the commit word while processes are alive.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

use partd_format::control::{self as layout, Commit, Fixed};

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::CONTROL;
use crate::log::fs::{Access, Dir, Disk, DiskFile, was_not_tried};
use crate::log::shared::commit::Word;
use crate::log::trace;

/// The mapped control file of an open store.
#[derive(Debug)]
pub(crate) struct Control<D: Disk> {
    pub(crate) directory: Directory<D>,
    file: D::File,
    pub(crate) fixed: Fixed,
    /// Whether a sync of this handle has failed.
    sync_failed: AtomicBool,
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
    /// Opens the control file. The inner error is a format error: the file is not a control file.
    pub(crate) fn open(
        directory: &Directory<D>,
        access: Access,
    ) -> Result<Result<Control<D>, partd_format::Error>> {
        let opened = directory.dir.open(CONTROL, access);
        let file = opened.map_err(|error| directory.error("open", CONTROL, error))?;
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
        let sync_failed = AtomicBool::new(false);
        Ok(Fixed::decode(&bytes).map(|fixed| Control {
            directory: directory.clone(),
            file,
            fixed,
            sync_failed,
        }))
    }

    /// Whether the words of this file were stored only by users of this directory on this machine:
    /// the file is not a copy, has no name in another directory, and is not in use through one. The
    /// caller is alone in the directory.
    pub(crate) fn is_own(&self) -> Result<bool> {
        let links = self.directory.dir.links(CONTROL);
        let links = links.map_err(|error| self.directory.error("examine", CONTROL, error))?;
        Ok(self.is_original() && links == 1 && !self.is_present()?)
    }

    /// Whether the file was created for this store, and is not a copy.
    pub(crate) fn is_original(&self) -> bool {
        let id = self.file.id();
        (self.fixed.device, self.fixed.inode) == (id.device, id.inode)
    }

    /// Whether the name of the control file still refers to this file.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        match self.directory.dir.id_of(CONTROL) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            id => {
                Ok(id.map_err(|e| self.directory.error("examine", CONTROL, e))? == self.file.id())
            }
        }
    }

    /// The error for a control file that was removed or replaced while this handle used it.
    pub(crate) fn replaced(&self) -> Error {
        if self.directory.dir.is_removed().unwrap_or(false) {
            return self.directory.removed();
        }
        Error::refused(
            ErrorKind::Removed,
            self.directory.path_of(CONTROL),
            "this file was removed or replaced while the store was open, and its locks with it; acknowledged \
             batches are in the segments. Close every handle on the store and open it again to recover from \
             them",
        )
    }

    /// Locks a byte of the control file; `None` if a conflicting lock is held.
    pub(crate) fn try_lock(&self, at: u64, exclusive: bool) -> Result<Option<D::Lock>> {
        let (id, byte) = (self.file.id(), &mut std::iter::once(at));
        let locked = self.directory.dir.try_lock_byte(CONTROL, id, byte, exclusive);
        Ok(locked.map_err(|error| self.lock_error(error))?.map(|(_, lock)| lock))
    }

    /// Marks this handle as present until the lock is dropped: see
    /// [`is_present`](Self::is_present).
    pub(crate) fn take_presence_lock(&self) -> Result<Option<D::Lock>> {
        self.try_lock(layout::PRESENCE_LOCK_AT, false)
    }

    /// Whether an open handle uses this control file. If the directory is in use and this is false,
    /// the handles use another control file, or one handle is creating or recovering the store.
    pub(crate) fn is_present(&self) -> Result<bool> {
        let at = layout::PRESENCE_LOCK_AT;
        let locked = self.directory.dir.is_byte_locked(CONTROL, self.file.id(), at);
        locked.map_err(|error| self.lock_error(error))
    }

    /// Locks the first of `bytes` that is free, and returns it; `None` if all are locked.
    pub(crate) fn try_lock_first(
        &self,
        bytes: &mut dyn Iterator<Item = u64>,
    ) -> Result<Option<(u64, D::Lock)>> {
        let locked = self.directory.dir.try_lock_byte(CONTROL, self.file.id(), bytes, true);
        locked.map_err(|error| self.lock_error(error))
    }

    fn lock_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle => self.replaced(),
            _ => self.directory.error("lock", CONTROL, error),
        }
    }

    /// Reserves disk space for stores to the words.
    #[inline]
    pub(crate) fn reserve(&self) -> Result<()> {
        let reserved = self.file.reserve(0, layout::FILE_LEN);
        reserved.map_err(|error| self.directory.error("store to", CONTROL, error))
    }

    /// Whether the words can be stored to.
    pub(crate) fn is_writable(&self) -> bool {
        self.file.mapping().is_writable()
    }

    #[inline]
    pub(crate) fn word(&self, offset: u64) -> ControlWord<'_, D::File> {
        ControlWord { file: &self.file, offset }
    }

    #[inline]
    pub(crate) fn slot_word(&self, slot: u16, field: u64) -> ControlWord<'_, D::File> {
        self.word(layout::slot_at(slot) + field)
    }

    /// The last sequence number that readers see.
    #[inline]
    pub(crate) fn visible(&self) -> u64 {
        self.last_commit().visible()
    }

    /// The commit word.
    #[inline]
    pub(crate) fn last_commit(&self) -> Commit {
        Commit::decode(self.word(layout::COMMIT_AT).load(Acquire))
    }

    /// The sequence number of the last finished commit, and the segment of its batch. The caller is
    /// alone.
    pub(crate) fn last_position(&self) -> Option<(u64, u64)> {
        let last = self.last_commit();
        let slot = (last.slot < layout::SLOTS).then_some(last.slot)?;
        let segment = self.slot_word(slot, layout::SLOT_SEGMENT_AT).load(Acquire);
        (1..self.next_segment()).contains(&segment).then(|| (last.visible(), segment))
    }

    /// The directory epoch. It advances when a rename publishes a segment, and before segments are
    /// unlinked.
    #[inline]
    pub(crate) fn directory_epoch(&self) -> u64 {
        self.word(layout::DIRECTORY_EPOCH_AT).load(Acquire)
    }

    /// Advances the directory epoch: a rename has published a segment, or segments are about to be
    /// unlinked.
    pub(crate) fn raise_directory_epoch(&self) {
        let word = self.word(layout::DIRECTORY_EPOCH_AT);
        let mut seen = word.load(Relaxed);
        while let Err(now) = word.compare_exchange(seen, seen + 1, AcqRel, Relaxed) {
            seen = now;
        }
    }

    /// The id that the next new segment will have.
    pub(crate) fn next_segment(&self) -> u64 {
        self.word(layout::NEXT_SEGMENT_AT).load(Acquire)
    }

    /// Reserves an id for a new segment. The id is stored in the word of `reserved_for` before it
    /// is taken, so a process that finds an id without a file can tell whether the file may still
    /// appear.
    ///
    /// The next id may come from a malicious file, so it may have no successor.
    pub(crate) fn reserve_segment_id(&self, reserved_for: ReservedFor) -> Result<u64> {
        self.reserve()?;
        let word = match reserved_for {
            ReservedFor::Writer(slot) => self.slot_word(slot, layout::SLOT_ACTIVE_AT),
            ReservedFor::Output => self.word(layout::OUTPUT_AT),
        };
        let next = self.word(layout::NEXT_SEGMENT_AT);
        let mut id = next.load(Acquire);
        loop {
            let Some(following) = id.checked_add(1) else {
                let why = "every segment id has been used, or this file is malicious: \
                           copy the store into a new one";
                return Err(Error::refused(
                    ErrorKind::LimitReached,
                    self.directory.path_of(CONTROL),
                    why,
                ));
            };
            word.store(id, Release);
            match next.compare_exchange(id, following, AcqRel, Acquire) {
                Ok(_) => return Ok(id),
                Err(now) => id = now,
            }
        }
    }

    /// The ids of segments that are being made or appended to.
    pub(crate) fn reserved_ids(&self) -> impl Iterator<Item = u64> {
        let output = self.word(layout::OUTPUT_AT).load(Acquire);
        let active = (0..layout::SLOTS).map(|slot| self.active_segment(slot));
        std::iter::once(output).chain(active).filter(|id| *id != 0)
    }

    /// Whether the segment is being made or appended to.
    pub(crate) fn is_reserved(&self, id: u64) -> bool {
        self.reserved_ids().any(|reserved| reserved == id)
    }

    /// The segment that the owner of a slot appends to; 0 for none.
    pub(crate) fn active_segment(&self, slot: u16) -> u64 {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).load(Acquire)
    }

    /// Records the segment that the owner of a slot appends to.
    pub(crate) fn set_active(&self, slot: u16, id: u64) {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).store(id, Release);
    }

    /// Records that a slot has no active segment.
    pub(crate) fn clear_active(&self, slot: u16) {
        self.slot_word(slot, layout::SLOT_ACTIVE_AT).store(0, Release);
    }

    /// The lowest id that a segment made by the holder of a slot can have.
    pub(crate) fn first_segment(&self, slot: u16) -> u64 {
        self.slot_word(slot, layout::SLOT_FIRST_AT).load(Acquire)
    }

    /// Counts a compaction. The caller holds the compaction lock.
    pub(crate) fn count_compaction(&self) {
        let word = self.word(layout::COMPACTIONS_AT);
        word.store(word.load(Relaxed) + 1, Relaxed);
    }

    /// The number of compactions since the control file was made.
    pub(crate) fn compactions(&self) -> u64 {
        self.word(layout::COMPACTIONS_AT).load(Relaxed)
    }

    /// Records that no output of a compaction is being made.
    pub(crate) fn clear_output(&self) {
        self.word(layout::OUTPUT_AT).store(0, Release);
    }

    /// The sequence number up to which every batch is on stable storage.
    #[inline]
    pub(crate) fn durable_seq(&self) -> u64 {
        // A word that does not decode promises nothing.
        let word = self.word(layout::DURABLE_SEQ_AT).load(Acquire);
        layout::decode_durable_seq(&self.fixed.store, word).unwrap_or(0)
    }

    /// Raises `durable_seq` to `sequence`; never lowers it.
    pub(crate) fn raise_durable_seq(&self, sequence: u64) {
        let word = self.word(layout::DURABLE_SEQ_AT);
        loop {
            let seen = word.load(Acquire);
            if layout::decode_durable_seq(&self.fixed.store, seen).unwrap_or(0) >= sequence {
                return;
            }
            let new = layout::encode_durable_seq(&self.fixed.store, sequence);
            if word.compare_exchange(seen, new, AcqRel, Acquire).is_ok() {
                return;
            }
        }
    }

    /// The directory epoch of the last sync of the directory.
    pub(crate) fn durable_directory_epoch(&self) -> u64 {
        self.word(layout::DURABLE_DIRECTORY_EPOCH_AT).load(Acquire)
    }

    /// Records that the directory was synced at a directory epoch.
    pub(crate) fn set_durable_directory_epoch(&self, directory_epoch: u64) {
        self.word(layout::DURABLE_DIRECTORY_EPOCH_AT).store(directory_epoch, Release);
    }

    /// Whether a sync has failed since the machine was booted.
    pub(crate) fn has_sync_failed(&self) -> bool {
        self.sync_failed.load(Acquire)
            || self.word(layout::SYNC_FAILED_AT).load(Acquire) == layout::SYNC_FAILED
    }

    /// Wraps an error of a sync. If the sync was tried, nothing is acknowledged as durable from
    /// then on: the data that the disk lost cannot be determined, and a second sync would succeed
    /// and prove nothing.
    pub(crate) fn sync_error(&self, path: impl AsRef<Path>, source: io::Error) -> Error {
        if !was_not_tried(&source) {
            trace::sync_failed(path.as_ref(), &source);
            self.sync_failed.store(true, Release);
            // If the disk is too full to tell other processes, this handle still remembers the
            // failure.
            if self.reserve().is_ok() {
                self.word(layout::SYNC_FAILED_AT).store(layout::SYNC_FAILED, Release);
            }
        }
        Error::io("sync", path, source)
    }

    fn clean_stamp(&self) -> u64 {
        layout::clean_stamp(
            &self.fixed.store,
            self.word(layout::COMMIT_AT).load(Acquire),
            self.next_segment(),
            self.word(layout::DURABLE_SEQ_AT).load(Acquire),
        )
    }

    /// Whether the last handle closed the store and nothing has changed since. The caller is alone.
    pub(crate) fn is_clean(&self) -> bool {
        self.last_commit().done && self.word(layout::CLEAN_AT).load(Acquire) == self.clean_stamp()
    }

    /// Whether a process has the store open, or died while it had.
    pub(crate) fn is_open(&self) -> bool {
        self.word(layout::CLEAN_AT).load(Acquire) == 0
    }

    /// Records that the store is open.
    pub(crate) fn set_open(&self) {
        self.word(layout::CLEAN_AT).store(0, Release);
    }

    /// Records that a closed store is open again, and resets the words that the clean stamp does
    /// not cover. The caller is alone.
    pub(crate) fn reopen(&self) {
        self.word(layout::DIRECTORY_EPOCH_AT).store(1, Release);
        self.word(layout::DURABLE_DIRECTORY_EPOCH_AT).store(0, Release);
        self.word(layout::OUTPUT_AT).store(0, Release);
        self.set_open();
    }

    /// Records that the last handle has closed the store. The caller is alone.
    pub(crate) fn set_clean(&self) {
        self.word(layout::CLEAN_AT).store(self.clean_stamp(), Release);
    }
}

/// The purpose of a reserved segment id.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReservedFor {
    /// A segment that the writer in a slot will append to.
    Writer(u16),
    /// The output of a compaction; at most one compaction runs at a time.
    Output,
}
