//! A value lent as it lies in the mapped segments.

use std::iter::FusedIterator;
use std::sync::Arc;

use super::{Snapshot, total};
use crate::error::Result;
use crate::log::disk::{Disk, DiskFile, OsDisk};
use crate::log::segment::Extent;
use crate::log::segment::ahead::{self, AHEAD_BYTES};
use crate::threads::LentPool;

/// What an iteration asks for at a time.
const STEP_BYTES: u64 = AHEAD_BYTES / 4;

/// A key's value as it lies in the mapped segments: chunks without a copy.
///
/// Made by [`SegmentLog::view`](crate::SegmentLog::view). The bytes stay as they are for as long as
/// the view lives, whatever is appended, deleted or compacted meanwhile.
#[derive(Debug)]
pub struct View<D: Disk = OsDisk> {
    snapshot: Arc<Snapshot<D::File>>,
}

impl<D: Disk> View<D> {
    pub(crate) fn new(snapshot: Snapshot<D::File>, pool: Option<&LentPool>) -> Result<View<D>> {
        // Compares the checksums once, here.
        snapshot.check(pool)?;
        Ok(View { snapshot: Arc::new(snapshot) })
    }

    fn extents(&self) -> &[Extent] {
        self.snapshot.extents.first().and_then(|key| key.as_deref()).map_or(&[], |list| list)
    }

    /// The chunks in order; together they are the value.
    ///
    /// What is not in memory is read from disk a little ahead of the iteration. A chunk may be as long as the value;
    /// [`pieces`](View::pieces) cuts it, so that a value of any length passes through bounded memory.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        Pieces::new(&self.snapshot, self.extents(), u64::MAX)
    }

    /// The value in pieces of at most `max_bytes`, in order.
    ///
    /// As the iteration moves on, the next pieces are read from disk, and those behind it leave memory again if
    /// the store was opened with [`release_after_read`](crate::Options::release_after_read).
    pub fn pieces(&self, max_bytes: usize) -> impl Iterator<Item = &[u8]> {
        Pieces::new(&self.snapshot, self.extents(), (max_bytes as u64).max(1))
    }

    /// The length of the value in bytes.
    pub fn len(&self) -> u64 {
        total(self.extents())
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Pieces of a value, the next ones asked for ahead.
struct Pieces<'s, F> {
    snapshot: &'s Snapshot<F>,
    rest: &'s [Extent],
    /// How much of the first of `rest` is done.
    done: u64,
    max_bytes: u64,
    /// What is still to be asked for, and how much of its first extent was.
    to_ask: &'s [Extent],
    asked_of_first: u64,
    /// Bytes that were asked for and not yet lent.
    ahead_bytes: u64,
}

impl<'s, F: DiskFile> Pieces<'s, F> {
    fn new(snapshot: &'s Snapshot<F>, extents: &'s [Extent], max_bytes: u64) -> Self {
        let (rest, to_ask) = (extents, extents);
        Pieces { snapshot, rest, done: 0, max_bytes, to_ask, asked_of_first: 0, ahead_bytes: 0 }
    }

    /// Asks for some more, where it is not in memory.
    fn ask(&mut self) {
        let (mut spans, mut bytes) = (Vec::new(), 0);
        while bytes < STEP_BYTES
            && let [first, behind @ ..] = self.to_ask
        {
            let len = (first.len() - self.asked_of_first).min(STEP_BYTES);
            spans.push(self.snapshot.span(first).piece(self.asked_of_first, len));
            bytes += len;
            self.asked_of_first += len;
            if self.asked_of_first == first.len() {
                (self.to_ask, self.asked_of_first) = (behind, 0);
            }
        }
        self.ahead_bytes += bytes;
        if ahead::is_missing(spans.len(), bytes, |i| spans[i]) {
            ahead::fetch(&mut spans);
        }
    }
}

impl<'s, F: DiskFile> Iterator for Pieces<'s, F> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        let (extent, behind) = self.rest.split_first()?;
        let len = (extent.len() - self.done).min(self.max_bytes);
        while self.ahead_bytes < len.min(AHEAD_BYTES) + 3 * STEP_BYTES && !self.to_ask.is_empty() {
            self.ask();
        }
        let segment = self.snapshot.segment(extent);
        let piece = &segment.value(extent)[self.done as usize..][..len as usize];
        if self.snapshot.release && self.done > 0 {
            let span = self.snapshot.span(extent);
            let before = self.done.min(self.max_bytes);
            ahead::release(&[span.piece(self.done - before, before)]);
        }
        self.ahead_bytes = self.ahead_bytes.saturating_sub(len);
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
impl<F: DiskFile> FusedIterator for Pieces<'_, F> {}
