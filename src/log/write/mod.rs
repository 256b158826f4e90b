//! The write path of one handle: claim space, copy, commit.
//!
//! Space is claimed under a short lock of the handle; bytes are copied outside of it, by several
//! threads at once; the commit is the protocol of [`super::commit`]. A handle takes its slot and
//! its first segment with its first write, so that one that only reads takes neither.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partd_format::batch::{Layout, NewEntry, WORDS_LEN};
use partd_format::control::SLOTS;
use partd_format::segment::HEADER_LEN;
use partd_format::{Kind, Link, State};

use crate::error::{Error, ErrorKind, Result};
use crate::log::Core;
use crate::log::fs::names::{OUTPUT_RESERVE, RESERVE, segment_name, unfinished_of_writer};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::segment::{ActiveSegment, Claim, NewSegment, SEAL_LEN, Segment, Unpublished};
use crate::log::shared::commit::{self, CommitError, Position};
use crate::log::shared::control::{Control, OwnWords, ReservedFor};
use crate::partd::{Batch, Op};

/// Values of this length on average go through the file, not through the mapping: a write into
/// fresh pages spares the kernel from filling them with zeros first, but has a cost of its own.
/// Pages that are there already are better mapped.
const FILE_WRITE_MIN_BYTES: u64 = 1024;
/// Bytes that are checksummed and then written in one call, while they are in the cache.
pub(crate) const GROUP_BYTES: usize = 256 << 10;
/// Buffers in one call.
pub(crate) const GROUP_BUFFERS: usize = 256;

/// Full segments that a handle keeps open until they are synced: few, since one that is compacted
/// away meanwhile keeps its disk space. Of failures in those beyond, and of a handle that is closed,
/// the system still tells whoever opens the file next, unless it was short of memory.
const SEALED_MAX: usize = 8;

/// No reserve is longer for more segments than these.
const RESERVED_FOR_MAX: usize = 16;

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
    /// Whether the store is known to have its reserves.
    has_reserves: AtomicBool,
    /// How many segments the handle has made.
    made: AtomicUsize,
}

/// Where the handle writes.
#[derive(Debug)]
struct WriterState<D: Disk> {
    slot: Option<WriterLease<D>>,
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
    is_committed: bool,
}

impl<F: DiskFile> Drop for Prepared<F> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.claim.void();
        }
    }
}

/// The slot that the handle holds.
#[derive(Debug)]
struct WriterLease<D: Disk> {
    number: u16,
    /// Held for as long as the handle lives.
    _lock: D::Lock,
}

thread_local! {
    /// The checksums of a batch's values, and its encoded head: reused from batch to batch.
    static SCRATCH: RefCell<(Vec<u32>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl<D: Disk> Writer<D> {
    /// The writer of a handle that was opened, and has looked at every segment, at a time.
    pub(crate) fn new(opened_unix_ms: u64) -> Writer<D> {
        Writer {
            state: Mutex::new(WriterState { slot: None, active: None, sealed: VecDeque::new() }),
            committing: Mutex::new(()),
            newest: AtomicU64::new(0),
            looked_unix_ms: AtomicU64::new(0),
            opened_unix_ms,
            has_reserves: AtomicBool::new(false),
            made: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, WriterState<D>> {
        // What the lock guards is whole between any two of its statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a batch and returns its sequence number.
    pub(crate) fn write(&self, core: &Core<D>, batch: &Batch<'_>) -> Result<u64> {
        let mut prepared = self.prepare(core, batch)?;
        loop {
            // Nothing can overtake it.
            if let Some(sequence) = self.commit(core, &mut prepared, || true)? {
                return Ok(sequence);
            }
        }
    }

    /// Does everything of a write that may fail for want of something: the batch then only has to be
    /// committed. It is void if it is dropped before.
    pub(crate) fn prepare(&self, core: &Core<D>, batch: &Batch<'_>) -> Result<Prepared<D::File>> {
        let layout = layout_of(core, batch)?;
        let only_removes = batch.ops().iter().all(|op| matches!(op, Op::Delete(_) | Op::Clear));
        let control = core.control()?;
        control.reserve()?;
        let (slot, claim) = self.claim(core, control, layout.batch_len(), only_removes)?;
        let mut prepared = Prepared { slot, claim, is_committed: false };
        self.look(core, control, prepared.claim.segment())?;
        fill(&mut prepared.claim, batch, &layout, control.durable_seq()).map_err(|source| {
            Error::io("write to the segment", prepared.claim.segment().path(), source)
        })?;
        Ok(prepared)
    }

    /// Commits a prepared batch and returns its sequence number; `None`, and it can be tried again,
    /// where `holds` says no. An error means that the batch is not in the history.
    pub(crate) fn commit(
        &self,
        core: &Core<D>,
        prepared: &mut Prepared<D::File>,
        holds: impl Fn() -> bool,
    ) -> Result<Option<u64>> {
        let control = core.control()?;
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
                &**core.store.path(),
                "every sequence number of the store has been used; copy it into a new store",
            )),
        }
    }

    /// Looks, ten times a second at most, whether the files that the handle writes to still have their names:
    /// what is written to a file without its name is lost to the store.
    fn look(&self, core: &Core<D>, control: &Control<D>, segment: &Segment<D::File>) -> Result<()> {
        let now = core.store.disk.now_unix_ms();
        let before = self.looked_unix_ms.load(Ordering::Relaxed);
        if now.abs_diff(before) < LOOK_MS {
            return Ok(());
        }
        if !control.is_in_place()? {
            return Err(control.replaced());
        }
        core.store.check_in_place(segment.id(), segment.file().id())?;
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
        if let Some(slot) = &state.slot {
            control.clear_active(slot.number);
        }
        state.close(control, active);
        true
    }

    /// Claims space for a batch of `len` bytes, in a new segment where it must be.
    fn claim(
        &self,
        core: &Core<D>,
        control: &Control<D>,
        len: u64,
        only_removes: bool,
    ) -> Result<(u16, Claim<D::File>)> {
        let mut state = self.state();
        let slot = take_lease(&mut state, core, control)?;
        let reserve = if only_removes { 0 } else { core.options.reserve() };
        if let Some(active) = &mut state.active
            && len + reserve <= active.room()
            && let Some(claim) = active.claim(len)?
        {
            return Ok((slot, claim));
        }
        let segment_len = core.options.segment_len();
        let own_len = (HEADER_LEN + len + SEAL_LEN).next_multiple_of(4096);
        let fits_a_segment = HEADER_LEN + len + SEAL_LEN + core.options.reserve() <= segment_len;
        let (mut active, is_next) = if fits_a_segment {
            let least = own_len + core.options.reserve();
            match room_for(core, segment_len, least)
                .and_then(|len| make_segment(core, control, slot, len))
            {
                // What frees space must work on a full disk, if any space is left at all, and is
                // never refused; it takes no more than it needs.
                Err(error) if only_removes && is_full(&error) => {
                    let made = make_segment(core, control, slot, own_len);
                    (
                        made.or_else(|error| from_reserve(core, control, slot, own_len, error))?,
                        false,
                    )
                }
                made => (made?, true),
            }
        } else {
            if !only_removes {
                check_space(core, own_len)?;
            }
            let made = make_segment(core, control, slot, own_len);
            let made = match only_removes {
                true => made.or_else(|error| from_reserve(core, control, slot, own_len, error)),
                false => made,
            };
            (made?, false)
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

    /// Ends the handle's segment; the handle writes no more.
    pub(crate) fn close(&self, control: &Control<D>) {
        let mut state = self.state();
        if let Some(active) = state.active.take() {
            active.close();
        }
        // Without space for these words the next owner of the slot finds them as they are, which is what it
        // finds after a kill.
        if let Some(slot) = state.slot.take_if(|_| control.reserve().is_ok()) {
            control.clear_active(slot.number);
            control.set_holder(slot.number, 0);
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

/// Whether an error says that the disk is full, or the store as large as it may be.
pub(crate) fn is_full(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Error::StoreFull { .. } => true,
        _ => false,
    }
}

/// The length of a new segment that stays within the limit of the store: `len`, or what is left of the limit where
/// that is not much shorter and `least` at least. So the output of a compaction, a few KiB, costs no whole segment.
fn room_for<D: Disk>(core: &Core<D>, len: u64, least: u64) -> Result<u64> {
    match check_space(core, len) {
        Err(Error::StoreFull { used, max, .. })
            if max.saturating_sub(used) >= least.max(len / 4) =>
        {
            Ok((max - used) & !4095)
        }
        checked => checked.map(|()| len),
    }
}

/// Whether a new segment of `len` bytes stays within the limit of the store.
fn check_space<D: Disk>(core: &Core<D>, len: u64) -> Result<()> {
    let Some(max) = core.options.max_store_bytes else { return Ok(()) };
    let used = || -> Result<u64> {
        let mut used = core.recycled_bytes();
        for name in core.store.segment_ids()?.into_iter().map(segment_name) {
            used += match core.store.dir.disk_bytes(&name) {
                // A compaction was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                bytes => bytes.map_err(|error| core.store.error("measure", &name, error))?,
            };
        }
        Ok(used)
    };
    // A recycled segment of that length takes no more than it has; one that is not may make room.
    if core.recycler.len() > 0 && len == core.options.segment_len()
        || used()? + len <= max
        || core.drop_recycled()? && used()? + len <= max
    {
        return Ok(());
    }
    let path = core.store.path().to_path_buf();
    Err(Error::StoreFull { path, used: used()?, needed: len, max })
}

/// Makes and publishes a segment for a writer.
fn make_segment<D: Disk>(
    core: &Core<D>,
    control: &Control<D>,
    slot: u16,
    len: u64,
) -> Result<ActiveSegment<D::File>> {
    let new = match core.take_recycled(len) {
        Some((name, file)) => Unpublished::of_file(&core.store, name, file, true)?,
        None => new_file(core, control, &unfinished_of_writer(slot), len)?,
    };
    let active = publish(control, slot, new)?;
    // They are there to be found on a full disk, and grow with what this handle makes.
    let made = core.writer.made.fetch_add(1, Ordering::Relaxed) + 1;
    let grows = made.is_power_of_two() && made <= RESERVED_FOR_MAX;
    if grows || !core.writer.has_reserves.load(Ordering::Relaxed) {
        core.keep_reserves(control, &unfinished_of_writer(slot));
    }
    Ok(active)
}

/// Makes and publishes a segment out of the reserve, where `error` says that the disk is full.
fn from_reserve<D: Disk>(
    core: &Core<D>,
    control: &Control<D>,
    slot: u16,
    len: u64,
    error: Error,
) -> Result<ActiveSegment<D::File>> {
    if !is_full(&error) {
        return Err(error);
    }
    let name = unfinished_of_writer(slot);
    match core.take_reserve(control, RESERVE, &name, len)? {
        Some(file) => publish(control, slot, Unpublished::of_file(&core.store, name, file, false)?),
        None => Err(error),
    }
}

fn publish<D: Disk>(
    control: &Control<D>,
    slot: u16,
    mut new: Unpublished<'_, D>,
) -> Result<ActiveSegment<D::File>> {
    let active = control.active_segment(slot);
    let id = control.reserve_segment_id(ReservedFor::Writer(slot))?;
    let made = new
        .begin(id, &NewSegment { store: control.fixed.store, slot, output: None })
        .and_then(|active| new.publish(id).map(|()| active));
    match &made {
        Ok(_) => control.raise_directory_epoch(),
        // It will not come.
        Err(_) => control.set_active(slot, active),
    }
    made
}

/// Makes a file for a segment; on a full disk, those that wait to be recycled give it their space.
pub(crate) fn new_file<'c, D: Disk>(
    core: &'c Core<D>,
    control: &Control<D>,
    name: &str,
    len: u64,
) -> Result<Unpublished<'c, D>> {
    let create = || Unpublished::create(&core.store, name, len, &control.fixed.store);
    match create() {
        Err(error) if is_full(&error) && core.drop_recycled()? => create(),
        created => created,
    }
}

impl<D: Disk> Core<D> {
    /// Takes a reserve of the store, of `len` bytes at least. There is another once there is space again.
    pub(crate) fn take_reserve(
        &self,
        control: &Control<D>,
        reserve: &str,
        name: &str,
        len: u64,
    ) -> Result<Option<D::File>> {
        let taken = self.store.take_reserve(reserve, name, len, &control.fixed.store)?;
        if taken.is_some() {
            self.writer.has_reserves.store(false, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Keeps reserves that do for the segments that there are. `unfinished` is a name that the caller alone uses.
    pub(crate) fn keep_reserves(&self, control: &Control<D>, unfinished: &str) {
        if self.is_temporary {
            return;
        }
        let Ok(ids) = self.store.segment_ids() else { return };
        let disk_bytes = |id: u64| self.store.dir.disk_bytes(&segment_name(id)).unwrap_or(0);
        let (options, uuid) = (&self.options, &control.fixed.store);
        let used = ids.into_iter().map(disk_bytes).sum();
        let lens = [options.reserve_file_len(), options.output_reserve_len(used)];
        for (name, len) in [RESERVE, OUTPUT_RESERVE].into_iter().zip(lens) {
            self.store.keep_reserve(name, len, unfinished, uuid);
        }
        self.writer.has_reserves.store(true, Ordering::Relaxed);
    }
}

/// The handle's slot; the first free one if it has none.
fn take_lease<D: Disk>(
    state: &mut WriterState<D>,
    core: &Core<D>,
    control: &Control<D>,
) -> Result<u16> {
    if let Some(slot) = &state.slot {
        return Ok(slot.number);
    }
    // A handle may write for the first time long after it was opened.
    let opened = core.writer.opened_unix_ms;
    if !core.is_temporary && core.store.disk.now_unix_ms().abs_diff(opened) >= LOOK_MS {
        core.store.check_versions()?;
    }
    let Some((number, lock)) = control.lock_free_slot()? else {
        let why = format!(
            "{SLOTS} handles write to the store, which is all that it has slots for; close some"
        );
        return Err(Error::refused(ErrorKind::TooManyWriters, &**core.store.path(), why));
    };
    commit::take_over(control, number)?;
    seal_orphan(core, control, number, control.active_segment(number))?;
    control.clear_active(number);
    control.set_holder(number, std::process::id());
    state.slot = Some(WriterLease { number, _lock: lock });
    Ok(number)
}

/// Ends the segment of a dead writer in a slot: what it left pending is void, and nothing follows.
pub(crate) fn seal_orphan<D: Disk>(
    core: &Core<D>,
    control: &Control<D>,
    slot: u16,
    id: u64,
) -> Result<()> {
    if id == 0 {
        return Ok(());
    }
    let store = Some(&control.fixed.store);
    let segment = match Segment::open(&core.store, id, store, Access::Write) {
        Ok(segment) => segment,
        // It died before it had published the segment, or a compaction has replaced it since.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Damage is for those who read to report; it must not keep others from writing.
        Err(Error::Damage { .. } | Error::Refused { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    if segment.header().slot != u32::from(slot) {
        // The dead writer reserved this id but lost the race; the segment belongs to another writer.
        return Ok(());
    }
    let mut offset = segment.header().data_start;
    loop {
        match segment.link(offset) {
            Ok(Link::Batch(len)) => {
                if segment.state(offset) == Ok(State::Pending) {
                    segment.reserve(offset, WORDS_LEN)?;
                    segment.void(offset);
                }
                offset += len;
            }
            Ok(Link::End) => {
                segment.reserve(offset, SEAL_LEN)?;
                segment.seal(offset);
                segment.punch_behind(offset);
                return Ok(());
            }
            Ok(Link::Sealed) | Err(_) => return Ok(()),
        }
    }
}

/// The layout of a batch, or why the format cannot hold it.
fn layout_of<D: Disk>(core: &Core<D>, batch: &Batch<'_>) -> Result<Layout> {
    let mut layout = Layout::new();
    for op in batch.ops() {
        let key_len = op.key().map_or(0, |key| key.len() as u64);
        layout.add(key_len, op.value().len() as u64).map_err(|error| {
            let key = op.key().cloned().unwrap_or_default();
            Error::Invalid(format!(
                "{}: the batch is more than the format can hold, at key {key}: {} may be {}, not {}",
                core.store.path().display(),
                error.what,
                error.expected,
                error.found
            ))
        })?;
    }
    Ok(layout)
}

/// Writes everything of a batch but its link and state words.
fn fill<F: DiskFile>(
    claim: &mut Claim<F>,
    batch: &Batch<'_>,
    layout: &Layout,
    durable_seq: u64,
) -> io::Result<()> {
    let salt = claim.segment().salt();
    SCRATCH.with_borrow_mut(|(checksums, head)| {
        checksums.clear();
        let is_large = layout.values_len() >= layout.entries() * FILE_WRITE_MIN_BYTES;
        let through_file = is_large && !claim.has_pages();
        if through_file {
            write_values(claim, batch, layout, checksums)?;
        } else {
            claim.populate()?;
            put_values(claim, batch, layout, checksums);
        }
        head.resize((layout.values_start() - WORDS_LEN) as usize, 0);
        let entries = batch.ops().iter().zip(&*checksums).map(|(op, &value_checksum)| NewEntry {
            kind: kind_of(op),
            key: op.key().map_or(&[], |key| key.as_bytes()),
            value_len: op.value().len() as u64,
            value_checksum,
            sequence: 0,
        });
        layout
            .encode(salt, claim.offset(), durable_seq, entries, head)
            .map_err(io::Error::other)?;
        if through_file {
            // A page that is first stored to through the mapping would bring in those around it.
            claim.write(WORDS_LEN, &mut [IoSlice::new(head)])?;
        } else {
            claim.put(WORDS_LEN, head);
        }
        // Scratch of a rare huge batch is not kept.
        head.shrink_to(1 << 20);
        checksums.shrink_to(1 << 18);
        Ok(())
    })
}

fn kind_of(op: &Op<'_>) -> Kind {
    match op {
        Op::Append(..) => Kind::Append,
        Op::Set(..) => Kind::Set,
        Op::Delete(_) => Kind::Delete,
        Op::Clear => Kind::Clear,
    }
}

/// Copies the values through the mapping.
fn put_values<F: DiskFile>(
    claim: &mut Claim<F>,
    batch: &Batch<'_>,
    layout: &Layout,
    checksums: &mut Vec<u32>,
) {
    let salt = claim.segment().salt();
    let mut at = layout.values_start();
    for op in batch.ops() {
        if !kind_of(op).has_value() {
            checksums.push(0);
            continue;
        }
        let mut hasher = salt.value_hasher();
        for piece in op.value().chunks(GROUP_BYTES) {
            hasher.update(piece);
            claim.put(at, piece);
            at += piece.len() as u64;
        }
        checksums.push(hasher.finalize());
    }
}

/// Writes the values through the file, a group at a time.
fn write_values<F: DiskFile>(
    claim: &mut Claim<F>,
    batch: &Batch<'_>,
    layout: &Layout,
    checksums: &mut Vec<u32>,
) -> io::Result<()> {
    let salt = claim.segment().salt();
    let mut at = layout.values_start();
    let mut group: Vec<IoSlice<'_>> = Vec::with_capacity(GROUP_BUFFERS);
    let mut group_len = 0;
    for op in batch.ops() {
        if !kind_of(op).has_value() {
            checksums.push(0);
            continue;
        }
        let mut hasher = salt.value_hasher();
        for piece in op.value().chunks(GROUP_BYTES) {
            hasher.update(piece);
            group.push(IoSlice::new(piece));
            group_len += piece.len();
            if group_len >= GROUP_BYTES || group.len() == GROUP_BUFFERS {
                claim.write(at, &mut group)?;
                at += group_len as u64;
                group.clear();
                group_len = 0;
            }
        }
        checksums.push(hasher.finalize());
    }
    if group_len > 0 {
        claim.write(at, &mut group)?;
    }
    Ok(())
}
