//! Iterates over the pieces of one key's value in a snapshot, and requests the next ones from disk
//! ahead of time.

use std::slice;

use crate::log::fs::DiskFile;
use crate::log::read::snapshot::Snapshot;
use crate::log::segment::ahead::{Ahead, Span};
use crate::log::segment::extent::Extent;

/// The spans of some extents of a snapshot.
#[derive(Debug)]
pub(super) struct Spans<'s, F> {
    snapshot: &'s Snapshot<F>,
    extents: slice::Iter<'s, Extent>,
}

impl<'s, F: DiskFile> Spans<'s, F> {
    pub(super) fn new(snapshot: &'s Snapshot<F>, extents: &'s [Extent]) -> Spans<'s, F> {
        Spans { snapshot, extents: extents.iter() }
    }
}

impl<'s, F: DiskFile> Iterator for Spans<'s, F> {
    type Item = Span<'s, F>;

    fn next(&mut self) -> Option<Span<'s, F>> {
        self.extents.next().map(|extent| self.snapshot.span(extent))
    }
}

/// An iterator over the pieces of a value.
#[derive(Debug)]
pub(super) struct Pieces<'s, F: DiskFile> {
    snapshot: &'s Snapshot<F>,
    rest: &'s [Extent],
    /// The bytes of the first extent of `rest` that were returned.
    done: u64,
    max_bytes: u64,
    ahead: Ahead<'s, F, Spans<'s, F>>,
}

impl<'s, F: DiskFile> Pieces<'s, F> {
    /// Splits extents of the snapshot into pieces of at most `max_bytes`, which is at least 1.
    pub(super) fn new(
        snapshot: &'s Snapshot<F>,
        extents: &'s [Extent],
        max_bytes: u64,
    ) -> Pieces<'s, F> {
        let ahead = Ahead::new(Spans::new(snapshot, extents), snapshot.release);
        Pieces { snapshot, rest: extents, done: 0, max_bytes, ahead }
    }
}

impl<'s, F: DiskFile> Iterator for Pieces<'s, F> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        let (extent, behind) = self.rest.split_first()?;
        let len = (extent.len() - self.done).min(self.max_bytes);
        self.ahead.begin(len);
        let value = self.snapshot.segment(extent).value(extent);
        let piece = &value[self.done as usize..][..len as usize];
        self.done += len;
        if self.done >= extent.len() {
            (self.rest, self.done) = (behind, 0);
        }
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let lens = self.rest.iter().map(|extent| extent.len().max(1).div_ceil(self.max_bytes));
        let begun = self.done / self.max_bytes;
        let pieces = (lens.sum::<u64>() - begun) as usize;
        (pieces, Some(pieces))
    }
}

impl<F: DiskFile> ExactSizeIterator for Pieces<'_, F> {}
