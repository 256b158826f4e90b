//! The chunks of a view as `bytes::Bytes`, each of which keeps its own segment alive.

use std::sync::Arc;

use bytes::Bytes;

use crate::lend::LentChunks;
use crate::log::fs::{Disk, DiskFile};
use crate::log::read::sequential::{Place, Sequential};
use crate::log::read::snapshot::{Snapshot, total};
use crate::log::read::view::View;
use crate::log::segment::Segment;
use crate::log::segment::ahead::AHEAD_BYTES;
use crate::log::segment::extent::Extent;

/// The owner of a lent chunk: its segment, which stays mapped and is not recycled meanwhile.
struct OwnedChunk<F> {
    segment: Arc<Segment<F>>,
    extent: Extent,
}

impl<F: DiskFile> AsRef<[u8]> for OwnedChunk<F> {
    fn as_ref(&self) -> &[u8] {
        self.segment.value(&self.extent)
    }
}

impl<D: Disk> View<D> {
    /// Returns the chunks in order as [`Bytes`], without a copy; together they are the value.
    ///
    /// The chunks are those of [`chunks`](View::chunks), but they do not borrow the view. Each one,
    /// and every clone and slice of it, keeps alive the segment that it lies in, and no other. The
    /// disk space of a segment is freed once nothing uses it. The bytes stay valid after a delete,
    /// a compaction, and a drop of the view and of the store's handle.
    ///
    /// Requires the feature `bytes`.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("x", "world!")])?;
    /// let chunks: Vec<Bytes> = p.view("x")?.owned_chunks().collect();
    /// p.delete(["x"])?;
    /// p.compact()?;
    /// drop(p);
    /// assert_eq!(chunks, ["Hello ", "world!"]);
    /// # Ok::<(), partd::Error>(())
    /// ```
    #[must_use]
    pub fn owned_chunks(&self) -> impl ExactSizeIterator<Item = Bytes> + use<D> {
        self.lent_chunks()
    }

    pub(crate) fn lent_chunks(&self) -> Chunks<D::File> {
        Chunks {
            bytes_left: total(self.extents()),
            snapshot: Arc::clone(&self.snapshot),
            next: Place::default(),
            last: Place::default(),
            ahead: Sequential::new(),
        }
    }
}

/// The chunks of a view that are still to come.
pub(crate) struct Chunks<F> {
    snapshot: Arc<Snapshot<F>>,
    /// The starts of the next chunk and of the last one.
    next: Place,
    last: Place,
    bytes_left: u64,
    ahead: Sequential,
}

impl<F: DiskFile> Iterator for Chunks<F> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let extent = *self.snapshot.extents_of_first().get(self.next.extent)?;
        let (len, Place { at, extent: number, .. }) = (extent.len(), self.next);
        self.last = self.next;
        self.next = Place { at: at + len, extent: number + 1, within: 0 };
        self.bytes_left -= len;
        if len == 0 {
            return Some(Bytes::new());
        }
        self.read_ahead(0, len);
        let segment = Arc::clone(self.snapshot.pinned(&extent));
        Some(Bytes::from_owner(OwnedChunk { segment, extent }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.snapshot.extents_of_first().len() - self.next.extent;
        (left, Some(left))
    }
}

impl<F: DiskFile> ExactSizeIterator for Chunks<F> {}

impl<F: DiskFile> LentChunks for Chunks<F> {
    fn bytes_left(&self) -> u64 {
        self.bytes_left
    }

    fn read_ahead(&mut self, at: u64, len: u64) {
        let place = Place { at: self.last.at + at, extent: self.last.extent, within: at };
        // A chunk may be longer than memory.
        self.ahead.begin(&self.snapshot, place, len.min(AHEAD_BYTES));
    }
}
