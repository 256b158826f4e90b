//! The one walker of batches: along the chain of a segment, from link to link.

use partd_format::Link;

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{ChainAhead, Span};

/// Where a batch lies in its segment, as its link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchRange {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl BatchRange {
    /// Where the batch behind it begins.
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }

    pub(crate) fn span<F>(self, segment: &Segment<F>) -> Span<'_, F> {
        Span { segment, offset: self.offset, len: self.len }
    }
}

/// A walk along a chain: the batches in order, whatever their states.
#[derive(Debug)]
pub(crate) struct Chain<'s, F> {
    segment: &'s Segment<F>,
    next: u64,
    ahead: Option<ChainAhead>,
    /// Once the walk is over.
    ending: Option<Result<Link, partd_format::Error>>,
}

/// One step of a walk.
pub(crate) enum Step {
    Batch(BatchRange),
    /// The next link is not in memory, and was asked for: the next step waits for it.
    Waits,
    End,
}

impl<F: DiskFile> Segment<F> {
    /// The chain from the link at `from` on: where the chain begins, or where a walk has ended.
    pub(crate) fn chain(&self, from: u64) -> Chain<'_, F> {
        Chain { segment: self, next: from, ahead: None, ending: None }
    }

    /// All batches of a segment at rest; those before a broken link, if that is ignored.
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
    /// The same walk, with links that are not in memory asked for ahead.
    pub(crate) fn ahead(mut self) -> Self {
        self.ahead = Some(ChainAhead::default());
        self
    }

    /// Where the next link is; once the walk is over, where the chain ends.
    pub(crate) fn at(&self) -> u64 {
        self.next
    }

    /// How the chain ends: open, sealed, or broken. While the walk goes on, it is open.
    pub(crate) fn ending(&self) -> Result<Link, partd_format::Error> {
        self.ending.unwrap_or(Ok(Link::End))
    }

    /// The next step, without a wait for the disk where one can be avoided.
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
