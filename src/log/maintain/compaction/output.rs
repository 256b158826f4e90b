//! Writes, syncs and publishes the output of a run.

use std::sync::Arc;

use partd_format::batch::{Layout, NewEntry};
use partd_format::segment::HEADER_LEN;

use crate::error::{Error, Result};
use crate::log::fs::names::{OUTPUT_RESERVE, RESERVE, UNFINISHED_OUTPUT};
use crate::log::fs::{Disk, DiskFile, is_full};
use crate::log::maintain::compaction::base::Base;
use crate::log::maintain::compaction::plan::{Plan, Planned, split};
use crate::log::maintain::compaction::stop::{Pace, Stop};
use crate::log::maintain::engine::Engine;
use crate::log::segment::ahead::Ahead;
use crate::log::segment::batch_writer::{BatchWriter, GROUP_BYTES, Scratch};
use crate::log::segment::claim::{ActiveSegment, Claim};
use crate::log::segment::space::{Space, wait_for_freed};
use crate::log::segment::through::Through;
use crate::log::segment::unpublished::{NewSegment, Unpublished};
use crate::log::segment::{SEAL_LEN, Segment};
use crate::log::shared::control::{Control, ReservedFor};
use crate::log::store::Store;
use crate::log::write::write_back::STEP_BYTES;

/// The result of writing an output.
#[derive(Debug)]
pub(super) enum Written {
    /// The compaction was stopped before the output was published.
    Stopped,
    /// The output replaces its inputs. `finished` is whether the steps after that have succeeded.
    Published { len: u64, finished: Result<()> },
}

/// Writes, syncs and publishes the output. After an error, nothing was published.
///
/// An output without entries is published as well, because it records up to which sequence number
/// batches may be missing.
pub(super) fn write_output<D: Disk>(
    engine: &Engine<D>,
    control: &Control<D>,
    base: &Base<D::File>,
    plan: &Plan,
    has_freed: bool,
    stop: &Stop,
) -> Result<Written> {
    let Engine { store, writer, .. } = engine;
    let inputs = base.input_ids();
    let batches = split(&plan.entries)?;
    let lists_len = inputs.len() as u64 * 8 + plan.retained.len() as u64 * 16;
    let data_start = HEADER_LEN + lists_len;
    let data_end = batches.iter().fold(data_start, |at, (_, layout)| at + layout.batch_len(at));
    let len = (data_end + SEAL_LEN).next_multiple_of(4096);
    let create = || new_output(store, &writer.space, len);
    let created = match create() {
        // With several inputs, the caller retries with half of them.
        Err(error) if is_full(&error) && has_freed && base.inputs.len() == 1 => {
            let new_file = || writer.space.new_file(store, UNFINISHED_OUTPUT, len);
            wait_for_freed(new_file, || stop.is_due())
        }
        created => created,
    };
    let mut new = match created {
        Err(error) if is_full(&error) && stop.is_due() => return Ok(Written::Stopped),
        // Last resort, used only if it is sure to help: give up the free end of a segment that this
        // handle writes to. Only whole pages are freed, so up to a page is lost.
        Err(error)
            if is_full(&error)
                && base.inputs.iter().map(|source| source.len).sum::<u64>() >= 2 * len
                && base.inputs.len() == 1
                && writer.give_up_active(control, |active| active.room() >= len + 4096) =>
        {
            create()?
        }
        created => created?,
    };
    let id = control.reserve_segment_id(ReservedFor::Output)?;
    let output = Some((base.max_seq, &inputs[..], &plan.retained[..]));
    let segment = NewSegment { store: store.uuid, slot: 0, output };
    let written = new
        .begin(id, &segment)
        .and_then(|active| write_batches(store, control, base, active, batches, stop));
    let published = match written {
        Ok(true) => new.publish(id).map(|()| true),
        stopped => stopped,
    };
    let synced = matches!(published, Ok(true)).then(|| store.sync_dir(control));
    // Reserve after the sync, because the words may need space again. If this fails, the output may
    // be published without a raised directory epoch; the next compaction raises it.
    let reserved = control.reserve();
    if reserved.is_ok() {
        if synced.is_some() {
            control.raise_directory_epoch();
        }
        // No handle has to look for this output any more.
        control.clear_output();
    }
    match synced {
        Some(synced) => Ok(Written::Published { len, finished: synced.and(reserved) }),
        None => published.and(reserved).map(|()| Written::Stopped),
    }
}

/// Creates a file for an output; on a full disk, takes a reserve that is long enough.
fn new_output<'s, D: Disk>(
    store: &'s Store<D>,
    space: &Space<D>,
    len: u64,
) -> Result<Unpublished<'s, D>> {
    let error = match space.new_file(store, UNFINISHED_OUTPUT, len) {
        Err(error) if is_full(&error) => error,
        created => return created,
    };
    for reserve in [OUTPUT_RESERVE, RESERVE] {
        if let Some(new) = space.take_reserve(store, reserve, UNFINISHED_OUTPUT, len)? {
            return Ok(new);
        }
    }
    Err(error)
}

/// Requests writeback of an output as it is written, so that the sync at the end has little left to
/// wait for. A stopped compaction has then written bytes for nothing.
#[derive(Debug)]
struct WriteBehind<'o, F> {
    /// `None` for an output that is not synced.
    output: Option<&'o Segment<F>>,
    requested: u64,
}

impl<F: DiskFile> WriteBehind<'_, F> {
    /// Requests writeback of the whole pages up to `end`, once [`STEP_BYTES`] are waiting.
    fn written_to(&mut self, end: u64) {
        if let Some(output) = self.output
            && end >= self.requested + STEP_BYTES
        {
            let end = end & !4095;
            output.file().write_back(self.requested..end);
            self.requested = end;
        }
    }
}

/// Writes the batches of an output and syncs it. Returns false if the compaction was stopped.
fn write_batches<D: Disk>(
    store: &Store<D>,
    control: &Control<D>,
    base: &Base<D::File>,
    mut active: ActiveSegment<D::File>,
    batches: Vec<(&[Planned], Layout)>,
    stop: &Stop,
) -> Result<bool> {
    let segment = Arc::clone(active.segment());
    let mut pace = Pace::new(store.options.compaction_bytes_per_second);
    let mut behind =
        WriteBehind { output: (!store.is_temporary).then_some(&*segment), requested: 0 };
    for (entries, layout) in batches {
        let mut claim = active
            .claim(&layout, 0)?
            .ok_or_else(|| Error::Invalid("the output of a compaction is too short".into()))?;
        if !copy(base, &mut claim, entries, &layout, &mut pace, &mut behind, stop)? {
            return Ok(false);
        }
        segment.mark_committed(claim.offset(), base.max_seq)?;
        behind.written_to(claim.offset() + claim.len());
    }
    active.close();
    if !store.is_temporary {
        segment.file().sync().map_err(|error| control.sync_error(segment.path(), error))?;
    }
    Ok(true)
}

/// Copies entries into a batch of the output, verifying each value and computing its new checksum.
/// Returns false if the compaction was stopped.
fn copy<F: DiskFile>(
    base: &Base<F>,
    claim: &mut Claim<F>,
    entries: &[Planned],
    layout: &Layout,
    pace: &mut Pace,
    behind: &mut WriteBehind<'_, F>,
    stop: &Stop,
) -> Result<bool> {
    let path = claim.segment().path();
    let error = |error| Error::io("write to the segment", &path, error);
    let through = match Through::fresh_pages(layout) {
        // Pages that are written once are not worth mapping.
        Through::Mapping => Through::Gathered,
        through => through,
    };
    let mut scratch = Scratch::default();
    let first = claim.segment().value_hasher();
    let mut writer = BatchWriter::new(claim, layout, through, &mut scratch);
    let mut checksums = Vec::with_capacity(entries.len());
    let spans = entries.iter().filter_map(|entry| entry.extents.as_ref());
    let spans = spans.flat_map(|(extents, range)| &extents[range.clone()]);
    // The inputs are about to be removed, so their pages need not stay cached.
    let ahead = Ahead::new(spans.map(|extent| base.segment(extent.segment()).span(extent)), true);
    for entry in entries {
        let Some((extents, range)) = &entry.extents else {
            checksums.push(0);
            continue;
        };
        writer.begin_value(entry.len);
        let mut hasher = first.clone();
        for extent in &extents[range.clone()] {
            let segment = base.segment(extent.segment());
            let mut check = segment.value_hasher();
            for piece in segment.value(extent).chunks(GROUP_BYTES) {
                ahead.begin(piece.len() as u64);
                check.update(piece);
                hasher.update(piece);
                if writer.push(piece) {
                    if stop.is_due() {
                        return Ok(false);
                    }
                    pace.keep(writer.flush().map_err(error)?, stop);
                    behind.written_to(writer.end());
                }
            }
            segment.compare(extent, check.finalize())?;
        }
        checksums.push(hasher.finalize());
    }
    pace.keep(writer.flush().map_err(error)?, stop);
    let new = entries.iter().zip(checksums).map(|(entry, value_checksum)| NewEntry {
        kind: entry.kind,
        key: entry.key.as_bytes(),
        value_len: entry.len,
        value_checksum,
        sequence: entry.sequence,
    });
    writer.finish(layout, 0, new).map_err(error)?;
    Ok(true)
}
