//! One segment in a recovery scan: how far its chain reaches, and which of its batches recovery
//! discards.

use partd_format::{Link, State};

use crate::error::{Error, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::{Access, Disk, DiskFile};
use crate::log::segment::Segment;
use crate::log::segment::ahead::Span;
use crate::log::segment::chain::BatchRange;
use crate::log::shared::control::Control;
use crate::log::trace;

/// What recovery may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecoveryMode {
    /// The machine has not rebooted since, so everything that was stored is there.
    Memory,
    /// Only the checksums: the machine may have rebooted.
    Disk,
}

/// The contents of a segment.
#[derive(Debug)]
pub(super) struct ScannedSegment<F> {
    pub(super) segment: Segment<F>,
    pub(super) batches: Vec<ScannedBatch>,
    /// The offset at which the chain ends.
    pub(super) end: u64,
    pub(super) ending: Result<Link, partd_format::Error>,
    pub(super) is_replaced: bool,
}

/// The position and state of a batch, taken from its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedBatch {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) state: Result<State, partd_format::Error>,
}

impl<F: DiskFile> ScannedSegment<F> {
    /// Scans a segment to the end of its chain.
    pub(super) fn new(segment: Segment<F>) -> ScannedSegment<F> {
        let mut batches = Vec::new();
        let mut chain = segment.chain(segment.header().data_start).ahead();
        for BatchRange { offset, len } in &mut chain {
            batches.push(ScannedBatch { offset, len, state: segment.state(offset) });
        }
        let (end, ending) = (chain.at(), chain.ending());
        ScannedSegment { segment, batches, end, ending, is_replaced: false }
    }

    /// The bytes that a batch takes in the file.
    pub(super) fn span(&self, batch: usize) -> Span<'_, F> {
        let ScannedBatch { offset, len, .. } = self.batches[batch];
        Span { segment: &self.segment, offset, len }
    }

    /// Makes every batch outside the history up to `end` void, durably, and seals the chain.
    pub(super) fn void_beyond<D: Disk<File = F>>(
        &self,
        directory: &Directory<D>,
        end: u64,
        mode: RecoveryMode,
        control: Option<&Control<D>>,
    ) -> Result<()> {
        let is_given_up = |found: &&ScannedBatch| match found.state {
            // Within one boot, a void batch was never anything else, so its word needs no second
            // store.
            Ok(State::Void) => mode == RecoveryMode::Disk,
            Ok(State::Committed(sequence)) => sequence > end,
            _ => true,
        };
        let given_up: Vec<&ScannedBatch> = self.batches.iter().filter(is_given_up).collect();
        let is_open = self.ending != Ok(Link::Sealed);
        if given_up.is_empty() && !is_open {
            return Ok(());
        }
        let id = self.segment.id();
        directory.own_segment(id)?;
        let segment =
            Segment::open(directory, id, Some(&self.segment.header().store), Access::Write)?;
        given_up.iter().try_for_each(|found| segment.force_void(found.offset))?;
        if is_open {
            // The writer is gone. The seal is not worth a sync: recovery treats an open end the
            // same way.
            segment.seal_alone(self.end)?;
            segment.punch_behind(self.end);
        }
        if !given_up.is_empty() {
            segment.file().sync().map_err(|error| match control {
                Some(control) => control.sync_error(segment.path(), error),
                None => {
                    trace::sync_failed(&segment.path(), &error);
                    Error::io("sync", segment.path(), error)
                }
            })?;
        }
        Ok(())
    }

    /// Checks that the head of every batch can be read. All batches of an output are history.
    pub(super) fn must_parse(&self) -> Result<()> {
        let mut batches = self.batches.iter();
        batches.try_for_each(|found| self.segment.batch(found.offset, found.len).map(drop))
    }

    /// Checks that the chain reaches `end`, and that every batch before it has a readable state.
    pub(super) fn must_reach(&self, end: u64) -> Result<()> {
        if self.end < end {
            return Err(self.broken_at_end());
        }
        let mut before = self.batches.iter().take_while(|found| found.offset < end);
        match before.find_map(|found| found.state.err()) {
            Some(error) => Err(self.segment.damage(error)),
            None => Ok(()),
        }
    }

    fn broken_at_end(&self) -> Error {
        let error = self.ending.err().unwrap_or(partd_format::Error {
            offset: self.end,
            what: "link word",
            expected: partd_format::Evidence::Text("a batch"),
            found: partd_format::Evidence::Text("the end of the chain"),
        });
        self.segment.damage(error)
    }
}
