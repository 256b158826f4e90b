//! How far a segment was walked along its chain of batches, and what was found on the way.

use partd_format::{Link, State};

use crate::log::fs::DiskFile;
use crate::log::segment::Segment;
use crate::log::segment::chain::{BatchRange, Chain, Step};

/// A committed batch that is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    pub(crate) sequence: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// How far a segment was walked.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    pub(crate) next: u64,
    /// Batches behind which the walk went on, and whose state was not final.
    pub(crate) pending: Vec<BatchRange>,
    /// Whether no more batches come.
    pub(crate) sealed: bool,
    /// Where the chain was seen to be broken.
    pub(crate) broken: Option<partd_format::Error>,
}

impl Cursor {
    /// Walks on to the end of what is there, or to a link that is not in memory, which is asked for. Returns whether
    /// it came to the end. `chain` begins where the cursor is.
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
                    if self.look(segment, visible, batch, units) {
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

    /// Takes a batch in if it is committed and visible; returns whether its state may still change.
    pub(crate) fn look<F: DiskFile>(
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
