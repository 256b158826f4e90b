//! Compaction: live entries of sealed segments move into one new segment, the old ones go.
//!
//! One run writes one output: each key's values side by side, sequence numbers kept. The order is
//! what makes it safe: the history up to `U` is synced, but for the sources; the output is written
//! and synced, renamed, the directory synced; only then is all up to `U` on stable storage, and the
//! sources are unlinked: what was deleted before anyone asked for a sync need never be written to
//! the disk. Only when the unlinks are durable may a later run forget a delete. Whoever sees both an
//! output and a segment that it replaces ignores the latter. It runs beside appends, gets, deletes and
//! pops of every process; there is one compaction at a time. Its memory grows with keys and extents,
//! not with bytes.

mod plan;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use partd_format::batch::{Layout, NewEntry, WORDS_LEN};
use partd_format::control::{COMPACTION_LOCK_AT, SLOTS};
use partd_format::segment::HEADER_LEN;

use crate::Key;
use crate::error::{Error, Result};
use crate::log::Core;
use crate::log::fs::names::{OUTPUT_RESERVE, RESERVE, UNFINISHED_OUTPUT, segment_name};
use crate::log::fs::{Access, Disk, DiskFile};
use crate::log::maintain::compaction::plan::{Plan, Planned, choose, split};
use crate::log::read::index::Extents;
use crate::log::read::version::{AtRest, Segments};
use crate::log::segment::ahead::Ahead;
use crate::log::segment::outputs::NewestOutput;
use crate::log::segment::{ActiveSegment, Claim, NewSegment, SEAL_LEN, Segment, Unpublished};
use crate::log::shared::commit;
use crate::log::shared::control::{Control, ReservedFor};
use crate::log::write::{GROUP_BUFFERS, GROUP_BYTES, is_full, new_file, seal_orphan};

/// How long a compaction that keeps a rate sleeps before it looks whether it is to stop.
const PACE_SLICE: Duration = Duration::from_millis(20);

/// What [`SegmentLog::compact`](crate::SegmentLog::compact) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// The outputs that were written: 0 where there was nothing to do, or nothing could be done.
    /// Each makes every handle build its index anew.
    pub runs: u64,
    /// Why something is left to compact that could have been; `None` where nothing is.
    pub skipped: Option<Skipped>,
    /// The segments that were replaced.
    pub segments_replaced: u64,
    /// The bytes of live values that were copied.
    pub bytes_rewritten: u64,
    /// The length of the segments that were replaced, less that of the outputs, in bytes.
    pub bytes_freed: u64,
    /// The pieces in which the copied values lay before.
    pub extents_before: u64,
    /// The pieces in which they lie now.
    pub extents_after: u64,
    /// Deletes that had to be kept, since something older than they are is still there.
    pub deletes_kept: u64,
}

/// Why a compaction has left something for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// Another compaction of the store is under way, in this process or in another.
    OtherCompaction,
    /// The disk has no space for the output of another run. What was done so far has freed some.
    NoSpace,
    /// It was asked to end: the handle is being closed.
    Closing,
}

/// Which segments are worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// All of them: every key's value in as few pieces as can be.
    Everything,
    /// Those in which more than this share of the values' bytes is dead.
    Dead(f64),
    /// Those in which all values are dead: nothing is copied.
    Gone,
}

/// Ends a compaction early, and cleanly.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    at: Option<Instant>,
}

impl Stop {
    /// One that ends it after a while by itself.
    pub(crate) fn after(limit: Duration) -> Stop {
        Stop { asked: AtomicBool::new(false), at: Some(Instant::now() + limit) }
    }

    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }
}

/// The store as a run sees it: everything up to `max_seq`.
#[derive(Debug)]
struct Base<F> {
    max_seq: u64,
    segments: Segments<F>,
    /// Numbers of the segments that are part of the store.
    current: Vec<u32>,
    /// The segments to rewrite, those first that free the most for the least space.
    inputs: Vec<AtRest>,
    /// Whether some are left for another run.
    has_more: bool,
    /// Every key with its extents, and whether it was set; in key order.
    keys: Vec<(Key, Extents, bool)>,
}

impl<D: Disk> Core<D> {
    /// Runs compactions until there is nothing more to gain.
    pub(crate) fn compact(&self, aim: Aim, stop: &Stop) -> Result<Compaction> {
        let control = self.control()?;
        let mut report = Compaction::default();
        control.reserve()?;
        let Some(_lock) = control.try_lock(COMPACTION_LOCK_AT, true)? else {
            report.skipped = Some(Skipped::OtherCompaction);
            return Ok(report);
        };
        self.finish_predecessor(control)?;
        let first_new = control.next_segment();
        loop {
            match self.run(control, aim, first_new, stop, &mut report) {
                Ok(true) => {}
                Ok(false) => return Ok(report),
                // What was freed is free; the rest needs more than that.
                Err(error) if is_full(&error) && report.runs > 0 => {
                    report.skipped = Some(Skipped::NoSpace);
                    return Ok(report);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Unlinks what outputs have replaced, and makes it durable that it is gone.
    fn finish_predecessor(&self, control: &Control<D>) -> Result<()> {
        // After a failed sync nobody knows whether an output has its bytes and its name for good.
        self.check_sync(control)?;
        self.sync_dir(control)?;
        let ids = self.store.segment_ids()?;
        let mut newest = NewestOutput::default();
        let mut dead = Vec::new();
        for &id in &ids {
            if let Some(segment) = self.open_if_there(control, id)? {
                dead.extend(newest.see(&segment)?.into_iter().filter(|id| ids.contains(id)));
            }
        }
        for &id in ids.iter().filter(|&&id| newest.may_have_outlived(id)) {
            let segment = self.open_if_there(control, id)?;
            if segment.is_some_and(|segment| newest.has_outlived(&segment)) {
                dead.push(id);
            }
        }
        if dead.is_empty() {
            return Ok(());
        }
        control.reserve()?;
        // Whoever renamed the output may have died before it said so: a picture that knows the sources
        // alone, this handle's among them, must not go on with them.
        control.raise_directory_epoch();
        let mut gone = false;
        for id in dead {
            // Where the name leads to a file of another store by now, that file stays.
            gone |= self.store.unlink_segment(id, &control.fixed.store)?;
        }
        if gone {
            self.sync_dir(control)?;
        }
        Ok(())
    }

    fn open_if_there(&self, control: &Control<D>, id: u64) -> Result<Option<Segment<D::File>>> {
        match Segment::open(&self.store, id, Some(&control.fixed.store), Access::Read) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// One run. Returns whether another may find something to do.
    fn run(
        &self,
        control: &Control<D>,
        aim: Aim,
        first_new: u64,
        stop: &Stop,
        report: &mut Compaction,
    ) -> Result<bool> {
        if stop.is_due() {
            report.skipped = Some(Skipped::Closing);
            return Ok(false);
        }
        self.seal_orphans(control)?;
        let Some(mut base) = self.base(aim, first_new)? else { return Ok(false) };
        let (plan, output_len) = loop {
            self.syncer.sync_beside(self, base.max_seq, &base.input_ids())?;
            let plan = base.plan()?;
            match self.write_output(control, &base, &plan, stop) {
                Ok(Some(len)) => break (plan, len),
                Ok(None) => {
                    report.skipped = Some(Skipped::Closing);
                    return Ok(false);
                }
                // On a full disk, fewer at a time, down to the one that needs the least.
                Err(error) if is_full(&error) && base.inputs.len() > 1 => {
                    base.inputs.truncate(base.inputs.len() / 2);
                    base.has_more = true;
                }
                Err(error) => return Err(error),
            }
        };
        let source_len: u64 = base.inputs.iter().map(|source| source.len).sum();
        self.check_sync(control)?;
        control.reserve()?;
        control.raise_durable_seq(base.max_seq);
        self.unlink_inputs(&base)?;
        control.count_compaction();
        let entries = &plan.entries;
        report.runs += 1;
        report.segments_replaced += base.inputs.len() as u64;
        report.bytes_rewritten += entries.iter().map(|entry| entry.len).sum::<u64>();
        report.bytes_freed += source_len.saturating_sub(output_len);
        report.extents_before += plan.extents;
        report.extents_after += entries.iter().filter(|e| e.kind.has_value()).count() as u64;
        report.deletes_kept += entries.iter().filter(|e| !e.kind.has_value()).count() as u64;
        if !self.is_temporary {
            // Makes it durable that the sources are gone, before a later run forgets a delete.
            self.finish_predecessor(control)?;
        }
        let has_more = base.has_more;
        let inputs = base.into_inputs();
        drop(plan);
        let ids: Vec<u64> = inputs.iter().map(|segment| segment.id()).collect();
        self.syncer.forget(&ids);
        self.writer.forget(&ids);
        self.with_version(|_| ())?;
        if self.is_temporary {
            inputs.into_iter().try_for_each(|segment| self.recycle_or_unlink(segment))?;
        }
        self.keep_reserves(control, UNFINISHED_OUTPUT);
        Ok(has_more)
    }

    /// Removes the sources of an output. Those of a temporary store stay until no view of this handle needs
    /// them, since they may be recycled.
    fn unlink_inputs(&self, base: &Base<D::File>) -> Result<()> {
        if self.is_temporary {
            return Ok(());
        }
        base.inputs.iter().try_for_each(|source| {
            let segment = base.segment(source.number);
            self.store.unlink_mapped(&segment_name(source.id), segment.file().id())
        })
    }

    /// Seals the segments of writers that are gone, so that they can be compacted.
    fn seal_orphans(&self, control: &Control<D>) -> Result<()> {
        let open: Vec<_> = self.with_walked_version(|version| {
            let segment = |number: u32| Arc::clone(&version.segments[number as usize]);
            version.open.iter().map(|cursor| segment(cursor.segment)).collect()
        })?;
        for segment in open {
            let Ok(slot) = u16::try_from(segment.header().slot) else { continue };
            if slot >= SLOTS {
                continue;
            }
            let lock = control.lock_slot(slot)?;
            if lock.is_some() {
                // Nobody holds the slot: whoever made the segment in it is gone.
                commit::take_over(control, slot)?;
                seal_orphan(self, control, slot, segment.id())?;
            } else if segment.id() < control.first_segment(slot) {
                // The holder came later, and has taken over what was open.
                seal_orphan(self, control, slot, segment.id())?;
            }
        }
        Ok(())
    }

    /// The store as it is now; `None` where nothing is to be gained.
    fn base(&self, aim: Aim, first_new: u64) -> Result<Option<Base<D::File>>> {
        let base = self.with_walked_version(|version| {
            // An output of this compaction is as good as it gets.
            let mut at_rest = version.at_rest();
            at_rest.retain(|segment| segment.id < first_new);
            let (inputs, has_more) =
                choose(at_rest, aim, self.options.segment_len(), self.options.compaction_run_bytes);
            (!inputs.is_empty()).then(|| Base {
                max_seq: version.sequence,
                segments: Arc::clone(&version.segments),
                current: version.current().collect(),
                inputs,
                has_more,
                keys: version
                    .index
                    .keys()
                    .map(|slot| (slot.key.clone(), slot.extents.clone(), slot.is_set))
                    .collect(),
            })
        })?;
        Ok(base.map(|mut base| {
            base.keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            base
        }))
    }

    /// Writes, syncs and publishes the output; returns its length, or `None` if it was stopped.
    ///
    /// There is one also where nothing is left to write: it says which numbers may miss.
    fn write_output(
        &self,
        control: &Control<D>,
        base: &Base<D::File>,
        plan: &Plan,
        stop: &Stop,
    ) -> Result<Option<u64>> {
        let inputs = base.input_ids();
        let batches = split(&plan.entries)?;
        let lists_len = inputs.len() as u64 * 8 + plan.retained.len() as u64 * 16;
        let data_len: u64 = batches.iter().map(|(_, layout)| layout.batch_len()).sum();
        let len = (HEADER_LEN + lists_len + data_len + SEAL_LEN).next_multiple_of(4096);
        let mut new = match self.new_output(control, len) {
            // The last resort, where it is sure to help: the free end of this handle's own segment.
            Err(error)
                if is_full(&error)
                    && base.inputs.iter().map(|source| source.len).sum::<u64>() >= 2 * len
                    && base.inputs.len() == 1
                    && self.writer.give_up_active(control, len) =>
            {
                self.new_output(control, len)?
            }
            created => created?,
        };
        let id = control.reserve_segment_id(ReservedFor::Output)?;
        let output = Some((base.max_seq, &inputs[..], &plan.retained[..]));
        let segment = NewSegment { store: control.fixed.store, slot: 0, output };
        let written =
            new.begin(id, &segment).and_then(|active| self.fill(base, active, batches, stop));
        let published = match written {
            Ok(true) => new.publish(id).map(|()| true),
            stopped => stopped,
        };
        let durable_seq = matches!(published, Ok(true)).then(|| self.sync_dir(control));
        // Behind the sync, after which the words may need space again. If there is none, the output is there and
        // nobody was told: the next compaction tells.
        control.reserve()?;
        if let Some(durable_seq) = durable_seq {
            control.raise_directory_epoch();
            control.clear_output();
            return durable_seq.map(|()| Some(len));
        }
        // Nobody need look for it any more.
        control.clear_output();
        published.map(|_| None)
    }

    /// A file for an output; on a full disk, a reserve that is long enough.
    fn new_output(&self, control: &Control<D>, len: u64) -> Result<Unpublished<'_, D>> {
        let error = match new_file(self, control, UNFINISHED_OUTPUT, len) {
            Err(error) if is_full(&error) => error,
            created => return created,
        };
        for reserve in [OUTPUT_RESERVE, RESERVE] {
            if let Some(file) = self.take_reserve(control, reserve, UNFINISHED_OUTPUT, len)? {
                let name = UNFINISHED_OUTPUT.to_owned();
                return Unpublished::of_file(&self.store, name, file, false);
            }
        }
        Err(error)
    }

    /// Writes the batches of an output and syncs it. Returns whether it came to the end.
    fn fill(
        &self,
        base: &Base<D::File>,
        mut active: ActiveSegment<D::File>,
        batches: Vec<(&[Planned], Layout)>,
        stop: &Stop,
    ) -> Result<bool> {
        let segment = Arc::clone(active.segment());
        let mut pace = Pace::new(self.options.compaction_bytes_per_second);
        for (entries, layout) in batches {
            let mut claim = active
                .claim(layout.batch_len())?
                .ok_or_else(|| Error::Invalid("the output of a compaction is too short".into()))?;
            if !copy(base, &mut claim, entries, &layout, &mut pace, stop)? {
                return Ok(false);
            }
            segment.mark_committed(claim.offset(), base.max_seq)?;
        }
        active.close();
        let control = self.control()?;
        if !self.is_temporary {
            segment.file().sync().map_err(|error| control.sync_error(segment.path(), error))?;
        }
        Ok(true)
    }
}

/// Copies entries into a batch of the output, each byte verified and checksummed anew on the way.
/// Returns whether it came to the end before it was stopped.
fn copy<F: DiskFile>(
    base: &Base<F>,
    claim: &mut Claim<F>,
    entries: &[Planned],
    layout: &Layout,
    pace: &mut Pace,
    stop: &Stop,
) -> Result<bool> {
    let salt = claim.segment().salt();
    let path = claim.segment().path();
    let mut at = layout.values_start();
    let mut checksums = Vec::with_capacity(entries.len());
    let mut group: Vec<IoSlice<'_>> = Vec::with_capacity(GROUP_BUFFERS);
    let mut group_len = 0;
    let mut write = |group: &mut Vec<IoSlice<'_>>, len: &mut usize| -> Result<()> {
        claim.write(at, group).map_err(|e| Error::io("write to the segment", &path, e))?;
        at += *len as u64;
        pace.keep(*len as u64, stop);
        group.clear();
        *len = 0;
        Ok(())
    };
    let spans = entries.iter().filter_map(|entry| entry.extents.as_ref());
    let spans = spans.flat_map(|(extents, range)| &extents[range.clone()]);
    // The inputs are about to go: nobody need keep their pages.
    let ahead = Ahead::new(spans.map(|extent| base.segment(extent.segment()).span(extent)), true);
    for entry in entries {
        let Some((extents, range)) = &entry.extents else {
            checksums.push(0);
            continue;
        };
        let mut hasher = salt.value_hasher();
        for extent in &extents[range.clone()] {
            let segment = base.segment(extent.segment());
            let mut check = segment.salt().value_hasher();
            for piece in segment.value(extent).chunks(GROUP_BYTES) {
                ahead.begin(piece.len() as u64);
                check.update(piece);
                hasher.update(piece);
                group.push(IoSlice::new(piece));
                group_len += piece.len();
                if group_len >= GROUP_BYTES || group.len() == GROUP_BUFFERS {
                    if stop.is_due() {
                        return Ok(false);
                    }
                    write(&mut group, &mut group_len)?;
                }
            }
            segment.compare(extent, check.finalize())?;
        }
        checksums.push(hasher.finalize());
    }
    if group_len > 0 {
        write(&mut group, &mut group_len)?;
    }
    let mut head = vec![0; (layout.values_start() - WORDS_LEN) as usize];
    let new = entries.iter().zip(checksums).map(|(entry, value_checksum)| NewEntry {
        kind: entry.kind,
        key: entry.key.as_bytes(),
        value_len: entry.len,
        value_checksum,
        sequence: entry.sequence,
    });
    layout
        .encode(salt, claim.offset(), 0, new, &mut head)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let mut head = [IoSlice::new(&head)];
    claim.write(WORDS_LEN, &mut head).map_err(|e| Error::io("write to the segment", &path, e))?;
    Ok(true)
}

/// Holds a rate, so that appends are not starved.
#[derive(Debug)]
struct Pace {
    bytes_per_second: Option<u64>,
    start: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, start: Instant::now(), bytes: 0 }
    }

    /// Sleeps until that many more bytes are due, or it is to stop.
    fn keep(&mut self, bytes: u64, stop: &Stop) {
        self.bytes += bytes;
        let Some(rate) = self.bytes_per_second else { return };
        let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
        while let Some(rest) = due.checked_sub(self.start.elapsed())
            && !rest.is_zero()
            && !stop.is_due()
        {
            std::thread::sleep(rest.min(PACE_SLICE));
        }
    }
}
