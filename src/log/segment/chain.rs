//! Iterates over the batches of a segment by following its links.

use partd_format::Link;

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{ChainAhead, Span};

/// The range of a batch in its segment, as its link gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl BatchRange {
    /// The offset of the next link.
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    pub(crate) fn span<F>(self, segment: &Segment<F>) -> Span<'_, F> {
        Span { segment, offset: self.offset, len: self.len }
    }
}

/// An iterator over a chain: its batches in order, whatever their states.
#[derive(Debug)]
pub(crate) struct Chain<'s, F> {
    segment: &'s Segment<F>,
    next: u64,
    ahead: Option<ChainAhead>,
    /// How the chain ended; `None` during the walk.
    ending: Option<Result<Link, partd_format::Error>>,
}

/// One step of a walk.
pub(crate) enum Step {
    Batch(BatchRange),
    /// The next link is not in memory and has been requested; the next step waits for it.
    Waits,
    End,
}

impl<F: DiskFile> Segment<F> {
    /// Walks the chain from the link at `from`: the start of the chain, or the end of an earlier
    /// walk.
    pub(crate) fn chain(&self, from: u64) -> Chain<'_, F> {
        Chain { segment: self, next: from, ahead: None, ending: None }
    }

    /// Collects all batches of a segment that no writer appends to. If damage is ignored, stops
    /// before a broken link.
    pub(crate) fn all_batches(&self, ignore_damage: bool) -> Result<Vec<BatchRange>> {
        let mut chain = self.chain(self.header().data_start).ahead();
        let batches = chain.by_ref().collect();
        match chain.ending() {
            Err(error) if !ignore_damage => Err(self.damage(error)),
            _ => Ok(batches),
        }
    }
}

impl<F: DiskFile> Chain<'_, F> {
    /// Enables read-ahead of links that are not in memory.
    pub(crate) fn ahead(mut self) -> Self {
        self.ahead = Some(ChainAhead::default());
        self
    }

    /// The offset of the next link; after the walk, the end of the chain.
    pub(crate) fn at(&self) -> u64 {
        self.next
    }

    /// How the chain ends: open, sealed or broken. Open during the walk.
    pub(crate) fn ending(&self) -> Result<Link, partd_format::Error> {
        self.ending.unwrap_or(Ok(Link::End))
    }

    /// Takes the next step. With read-ahead, avoids waiting for the disk.
    pub(crate) fn step(&mut self) -> Step {
        if self.ending.is_some() {
            return Step::End;
        }
        if self.ahead.as_mut().is_some_and(|ahead| ahead.step(self.segment, self.next)) {
            return Step::Waits;
        }
        match self.segment.link(self.next) {
            Ok(Link::Batch(len)) => {
                let batch = BatchRange { offset: self.next, len };
                self.next = batch.end();
                Step::Batch(batch)
            }
            ending => {
                self.ending = Some(ending);
                Step::End
            }
        }
    }
}

impl<F: DiskFile> Iterator for Chain<'_, F> {
    type Item = BatchRange;

    fn next(&mut self) -> Option<BatchRange> {
        loop {
            match self.step() {
                Step::Batch(batch) => return Some(batch),
                Step::Waits => {}
                Step::End => return None,
            }
        }
    }
}
