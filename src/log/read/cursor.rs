//! A cursor: how far a segment's chain of batches was walked, and what the walk found.

use partd_format::{Link, State};

use crate::log::fs::DiskFile;
use crate::log::segment::Segment;
use crate::log::segment::chain::{BatchRange, Chain, Step};

/// A committed batch to apply to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    pub(crate) sequence: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The position of a version in one segment's chain of batches.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    pub(crate) next: u64,
    /// Batches that the walk has passed and that may still become visible.
    pub(crate) pending: Vec<BatchRange>,
    /// Whether the segment gets no more batches.
    pub(crate) sealed: bool,
    /// The last damage that was found in a link or a state, if any.
    pub(crate) broken: Option<partd_format::Error>,
}

impl Cursor {
    /// Continues the walk to the end of the chain, or to a link that is not in memory, whose page
    /// it requests. Returns whether it reached the end. `chain` must begin at the cursor's
    /// position.
    pub(crate) fn walk<F: DiskFile>(
        &mut self,
        segment: &Segment<F>,
        visible: u64,
        chain: &mut Chain<'_, F>,
        units: &mut Vec<Unit>,
    ) -> bool {
        loop {
            match chain.step() {
                Step::Batch(batch) => {
                    if self.examine(segment, visible, batch, units) {
                        self.pending.push(batch);
                    }
                    self.next = batch.end();
                }
                Step::Waits => return false,
                Step::End => {
                    match chain.ending() {
                        Ok(Link::Sealed) => self.sealed = true,
                        Ok(_) => {}
                        Err(error) => self.broken = Some(error),
                    }
                    return true;
                }
            }
        }
    }

    /// Adds a batch to `units` if it is committed and visible. Returns whether the batch must be
    /// examined again later.
    pub(crate) fn examine<F: DiskFile>(
        &mut self,
        segment: &Segment<F>,
        visible: u64,
        batch: BatchRange,
        units: &mut Vec<Unit>,
    ) -> bool {
        let BatchRange { offset, len } = batch;
        match segment.state(offset) {
            Ok(State::Committed(sequence)) if sequence <= visible => {
                units.push(Unit { sequence, segment: self.segment, offset, len });
                false
            }
            Ok(State::Committed(_) | State::Pending) => true,
            Ok(State::Void) => false,
            Err(error) => {
                self.broken = Some(error);
                true
            }
        }
    }
}
