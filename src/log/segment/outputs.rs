//! Compaction outputs among the segments of a store, and which segments they replace or retain.

use std::collections::BTreeSet;

use partd_format::segment::Retained;
use partd_format::{Evidence, State};

use crate::error::{Error, Result, damage as damage_of};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Disk, DiskFile};
use crate::log::segment::Segment;

/// The newest compaction output. Only the newest one's list of retained segments counts.
#[derive(Debug, Default)]
pub(crate) struct NewestOutput {
    /// Sequence numbers up to this one may be missing from the store.
    pub(crate) max_seq: u64,
    /// 0 until an output is added.
    pub(crate) id: u64,
    pub(crate) retained: Vec<Retained>,
    /// The ids in `retained`.
    kept: BTreeSet<u64>,
}

impl NewestOutput {
    /// Adds a segment, and returns the ids of its inputs: none if it is the segment of a writer.
    pub(crate) fn see<F: DiskFile>(&mut self, segment: &Segment<F>) -> Result<Vec<u64>> {
        let Some(output) = segment.header().output else { return Ok(Vec::new()) };
        let (inputs, retained) = segment.lists()?;
        if (output.max_seq, segment.id()) > (self.max_seq, self.id) {
            let kept = retained.iter().map(|keep| keep.id).collect();
            *self = NewestOutput { max_seq: output.max_seq, id: segment.id(), retained, kept };
        }
        Ok(inputs)
    }

    /// Whether a segment was compacted away before this output was made and has reappeared from a
    /// backup or a slow copy of the store. The output that replaced it may no longer exist.
    pub(crate) fn has_outlived<F: DiskFile>(&self, segment: &Segment<F>) -> bool {
        self.may_have_outlived(segment.id())
            && (segment.header().output.is_some() || has_number_up_to(segment, self.max_seq))
    }

    /// Whether the segment has reappeared if it holds any sequence number up to `max_seq`.
    pub(crate) fn may_have_outlived(&self, id: u64) -> bool {
        id < self.id && !self.kept.contains(&id)
    }
}

/// The error for a segment that an output retained and that has no file.
pub(crate) fn retained_is_missing<D: Disk>(directory: &Directory<D>, keep: &Retained) -> Error {
    let damage = partd_format::Error {
        offset: keep.end,
        what: "chain of batches",
        expected: Evidence::AtLeast(keep.end),
        found: Evidence::Text("no such file, and no compaction has replaced it"),
    };
    damage_of(directory.path_of(&segment_name(keep.id)), damage)
}

/// Whether a writer's segment holds a batch with a sequence number up to `max_seq`.
fn has_number_up_to<F: DiskFile>(segment: &Segment<F>, max_seq: u64) -> bool {
    segment.chain(segment.header().data_start).any(|batch| {
        matches!(segment.state(batch.offset), Ok(State::Committed(sequence)) if sequence <= max_seq)
    })
}
