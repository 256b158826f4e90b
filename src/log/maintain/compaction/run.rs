//! The runs of a compaction. Each writes one output and then removes its inputs.

use std::sync::Arc;

use partd_format::control::{COMPACTION_LOCK_AT, SLOTS};

use crate::error::{Error, Result};
use crate::log::fs::names::{UNFINISHED_OUTPUT, segment_name};
use crate::log::fs::{Access, Disk, DiskFile, is_full};
use crate::log::maintain::compaction::base::{Aim, Base};
use crate::log::maintain::compaction::output::{Written, write_output};
use crate::log::maintain::compaction::stop::Stop;
use crate::log::maintain::engine::Engine;
use crate::log::segment::Segment;
use crate::log::segment::outputs::NewestOutput;
use crate::log::shared::commit;
use crate::log::shared::control::Control;
use crate::log::shared::lease::WriterLease;
use crate::log::store::Store;
use crate::log::trace;
use crate::log::write::orphan::seal_orphan;

/// The result of [`SegmentLog::compact`](crate::SegmentLog::compact).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// The number of outputs written; 0 if there was nothing to do or nothing could be done. Each
    /// output makes every handle rebuild its index.
    pub runs: u64,
    /// Why the compaction left work for a later one; `None` if it left none.
    pub skipped: Option<Skipped>,
    /// The number of segments replaced.
    pub segments_replaced: u64,
    /// The bytes of live values copied.
    pub bytes_rewritten: u64,
    /// The total length of the replaced segments minus that of the outputs, in bytes.
    pub bytes_freed: u64,
    /// The number of extents that the copied values had before.
    pub extents_before: u64,
    /// The number of extents that they have now.
    pub extents_after: u64,
    /// The number of deletes, prefix deletes and clears kept because older values that they remove
    /// are still in the store.
    pub deletes_kept: u64,
}

/// Why a compaction left work for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// Another compaction of the store is running, in this process or in another.
    OtherCompaction,
    /// The disk has no space for the output of another run. The earlier runs have freed some.
    NoSpace,
    /// The compaction was asked to stop, because the handle is being closed.
    Closing,
}

/// Compacts, run by run, until there is nothing left to gain.
pub(crate) fn compact<D: Disk>(engine: &Engine<D>, aim: Aim, stop: &Stop) -> Result<Compaction> {
    let control = engine.store.control()?;
    let mut report = Compaction::default();
    control.reserve()?;
    let Some(_lock) = control.try_lock(COMPACTION_LOCK_AT, true)? else {
        report.skipped = Some(Skipped::OtherCompaction);
        return Ok(report);
    };
    let path = engine.store.directory.path();
    let _span = trace::compaction(path);
    let has_unlinked = finish_predecessor(&engine.store, control)?;
    let first_new = control.next_segment();
    loop {
        let has_freed = has_unlinked || report.runs > 0;
        match run(engine, control, aim, first_new, has_freed, stop, &mut report) {
            Ok(true) => {}
            Ok(false) => return Ok(report),
            // Keep the result of the earlier runs; the next one needs more space than they freed.
            Err(error)
                if is_full(&error)
                    && report.runs > 0
                    && engine.store.check_sync(control).is_ok() =>
            {
                trace::out_of_space(path, "compact", &error);
                report.skipped = Some(Skipped::NoSpace);
                return Ok(report);
            }
            Err(error) => {
                trace::out_of_space(path, "compact", &error);
                return Err(error);
            }
        }
    }
}

/// Unlinks the inputs of all outputs and makes the unlinks durable. Returns whether a file was
/// unlinked.
fn finish_predecessor<D: Disk>(store: &Store<D>, control: &Control<D>) -> Result<bool> {
    // After a failed sync, an output's bytes and name may not be durable.
    store.check_sync(control)?;
    store.sync_dir(control)?;
    let ids = store.directory.segment_ids()?;
    let mut newest = NewestOutput::default();
    let mut dead = Vec::new();
    for &id in &ids {
        if let Some(segment) = open_if_there(store, id)? {
            dead.extend(newest.see(&segment)?.into_iter().filter(|id| ids.contains(id)));
        }
    }
    for &id in ids.iter().filter(|&&id| newest.may_have_outlived(id)) {
        let segment = open_if_there(store, id)?;
        if segment.is_some_and(|segment| newest.has_outlived(&segment)) {
            dead.push(id);
        }
    }
    if dead.is_empty() {
        return Ok(false);
    }
    control.reserve()?;
    // The compaction that renamed the newest output had synced the rest of the history, and may
    // have died before it recorded that. If it stayed behind, a sync by a handle that still maps an
    // input finds batches to sync in a file that is gone.
    control.raise_durable_seq(newest.max_seq);
    // The compaction that renamed the output may have died before it raised the directory epoch. A
    // version that has only the inputs, even this handle's own, must be refreshed before they are
    // gone.
    control.raise_directory_epoch();
    let mut gone = false;
    for id in dead {
        // If the name leads to another store's file by now, that file stays.
        gone |= store.directory.unlink_segment(id, &store.uuid)?;
    }
    if gone {
        store.sync_dir(control)?;
    }
    Ok(gone)
}

fn open_if_there<D: Disk>(store: &Store<D>, id: u64) -> Result<Option<Segment<D::File>>> {
    match Segment::open(&store.directory, id, Some(&store.uuid), Access::Read) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Does one run. Returns whether another may find work. `has_freed` says whether this compaction has
/// unlinked segments, whose space may not be free yet.
fn run<D: Disk>(
    engine: &Engine<D>,
    control: &Control<D>,
    aim: Aim,
    first_new: u64,
    has_freed: bool,
    stop: &Stop,
    report: &mut Compaction,
) -> Result<bool> {
    let Engine { store, writer, reader, syncer } = engine;
    if stop.is_due() {
        report.skipped = Some(Skipped::Closing);
        return Ok(false);
    }
    seal_orphans(engine, control)?;
    let Some(mut base) = Base::of(engine, aim, first_new)? else { return Ok(false) };
    let (plan, output_len) = loop {
        syncer.sync_beside(store, base.max_seq, &base.input_ids())?;
        let plan = base.plan()?;
        match write_output(engine, control, &base, &plan, has_freed, stop) {
            Ok(Written::Published { len, finished }) => {
                // Never another attempt: it would replace inputs that are replaced already. The
                // next compaction removes them.
                finished?;
                break (plan, len);
            }
            Ok(Written::Stopped) => {
                report.skipped = Some(Skipped::Closing);
                return Ok(false);
            }
            // On a full disk, retry with half the inputs, down to the one with the fewest live
            // bytes.
            Err(error) if is_full(&error) && base.inputs.len() > 1 => {
                base.inputs.truncate(base.inputs.len() / 2);
                base.has_more = true;
            }
            Err(error) => return Err(error),
        }
    };
    let source_len: u64 = base.inputs.iter().map(|source| source.len).sum();
    store.check_sync(control)?;
    control.reserve()?;
    control.raise_durable_seq(base.max_seq);
    unlink_inputs(store, &base)?;
    control.count_compaction();
    let entries = &plan.entries;
    let bytes_freed = source_len.saturating_sub(output_len);
    store.tally.compacted(bytes_freed);
    trace::compacted(store.directory.path(), base.inputs.len() as u64, bytes_freed);
    report.runs += 1;
    report.segments_replaced += base.inputs.len() as u64;
    report.bytes_rewritten += entries.iter().map(|entry| entry.len).sum::<u64>();
    report.bytes_freed += bytes_freed;
    report.extents_before += plan.extents;
    report.extents_after += entries.iter().filter(|e| e.kind.has_value()).count() as u64;
    report.deletes_kept += entries.iter().filter(|e| !e.kind.has_value()).count() as u64;
    if !store.is_temporary {
        // Makes the unlinks of the inputs durable before a later run drops a delete.
        finish_predecessor(store, control)?;
    }
    let has_more = base.has_more;
    let inputs = base.into_inputs();
    drop(plan);
    let ids: Vec<u64> = inputs.iter().map(|segment| segment.id()).collect();
    syncer.forget(&ids);
    writer.forget(&ids);
    reader.with_version(store, |_| ())?;
    if store.is_temporary {
        let recycler = &writer.space.recycler;
        inputs.into_iter().try_for_each(|segment| recycler.recycle_or_unlink(store, segment))?;
    }
    writer.space.keep_reserves(store, UNFINISHED_OUTPUT);
    Ok(has_more)
}

/// Removes the inputs of an output. A temporary store keeps them until no view of this handle needs
/// them, because it may recycle them.
fn unlink_inputs<D: Disk>(store: &Store<D>, base: &Base<D::File>) -> Result<()> {
    if store.is_temporary {
        return Ok(());
    }
    base.inputs.iter().try_for_each(|source| {
        let segment = base.segment(source.number);
        store.directory.unlink_mapped(&segment_name(source.id), segment.file().id())
    })
}

/// Seals the segments of dead writers, so that they can be compacted.
fn seal_orphans<D: Disk>(engine: &Engine<D>, control: &Control<D>) -> Result<()> {
    let Engine { store, reader, .. } = engine;
    let open: Vec<_> = reader.with_walked_version(store, |version| {
        let segment = |number: u32| Arc::clone(&version.segments[number as usize]);
        version.open.iter().map(|cursor| segment(cursor.segment)).collect()
    })?;
    for segment in open {
        let Ok(slot) = u16::try_from(segment.header().slot) else { continue };
        if slot >= SLOTS {
            continue;
        }
        let lease = WriterLease::take(control, slot)?;
        if lease.is_some() {
            // The slot is free, so the writer that created the segment is gone.
            commit::take_over(control, slot)?;
            seal_orphan(store, control, slot, segment.id())?;
        } else if segment.id() < control.first_segment(slot) {
            // The segment is older than the slot's current holder, which has already finished the
            // dead writer's commit.
            seal_orphan(store, control, slot, segment.id())?;
        }
    }
    Ok(())
}
