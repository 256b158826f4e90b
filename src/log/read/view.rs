//! A value lent from the mapped segments, without a copy.

use std::sync::Arc;

use crate::error::Result;
use crate::log::fs::{Disk, DiskFile, OsDisk};
use crate::log::read::snapshot::{Snapshot, total};
use crate::log::segment::ahead::{Ahead, Span};
use crate::log::segment::extent::Extent;
use crate::threads::LentPool;

/// A key's value as chunks of the mapped segments, without a copy.
///
/// Created by [`SegmentLog::view`](crate::SegmentLog::view). The bytes do not change as long as the
/// view lives, whatever is appended, deleted or compacted meanwhile.
#[derive(Debug)]
pub struct View<D: Disk = OsDisk> {
    snapshot: Arc<Snapshot<D::File>>,
}

impl<D: Disk> View<D> {
    pub(crate) fn new(snapshot: Snapshot<D::File>, pool: Option<&LentPool>) -> Result<View<D>> {
        // Compare the checksums once, so that iterations need not.
        snapshot.check(pool)?;
        Ok(View::of_checked(snapshot))
    }

    /// Creates a view of a value whose checksums were already compared.
    pub(super) fn of_checked(snapshot: Snapshot<D::File>) -> View<D> {
        View { snapshot: Arc::new(snapshot) }
    }

    fn extents(&self) -> &[Extent] {
        self.snapshot.first()
    }

    /// Returns the chunks in order; together they are the value.
    ///
    /// Chunks that are not in memory are read from disk a little ahead of the iteration. A chunk
    /// may be as long as the value; [`pieces`](View::pieces) splits it, so that a value of any
    /// length passes through bounded memory.
    #[must_use]
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        pieces(&self.snapshot, self.extents(), u64::MAX)
    }

    /// Returns the value in pieces of at most `max_bytes`, in order.
    ///
    /// The next pieces are read from disk ahead of the iteration. If the store was opened with
    /// [`release_after_read`](crate::Options::release_after_read), the iteration also drops the
    /// fetched pages behind it.
    pub fn pieces(&self, max_bytes: usize) -> impl Iterator<Item = &[u8]> {
        pieces(&self.snapshot, self.extents(), (max_bytes as u64).max(1))
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        total(self.extents())
    }

    /// Returns whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An iterator over the pieces of a value, which requests the next ones from disk ahead of time.
struct Pieces<'s, F: DiskFile, I> {
    snapshot: &'s Snapshot<F>,
    rest: &'s [Extent],
    /// The bytes of the first extent of `rest` that were returned.
    done: u64,
    max_bytes: u64,
    ahead: Ahead<'s, F, I>,
}

fn pieces<'s, F: DiskFile>(
    snapshot: &'s Snapshot<F>,
    extents: &'s [Extent],
    max_bytes: u64,
) -> impl ExactSizeIterator<Item = &'s [u8]> {
    let ahead = Ahead::new(extents.iter().map(|extent| snapshot.span(extent)), snapshot.release);
    Pieces { snapshot, rest: extents, done: 0, max_bytes, ahead }
}

impl<'s, F: DiskFile, I: Iterator<Item = Span<'s, F>>> Iterator for Pieces<'s, F, I> {
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

impl<'s, F: DiskFile, I: Iterator<Item = Span<'s, F>>> ExactSizeIterator for Pieces<'s, F, I> {}
