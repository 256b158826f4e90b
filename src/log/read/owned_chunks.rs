//! The chunks of a view as `bytes::Bytes`, each of which keeps its own segment alive.

use std::sync::Arc;

use bytes::Bytes;

use crate::log::fs::{Disk, DiskFile};
use crate::log::read::pieces::Spans;
use crate::log::read::view::View;
use crate::log::segment::Segment;
use crate::log::segment::ahead::Ahead;
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
    pub fn owned_chunks(&self) -> impl ExactSizeIterator<Item = Bytes> {
        // The chunks may be read long after the iteration, so it releases no pages behind it.
        let ahead = Ahead::new(Spans::new(&self.snapshot, self.extents()), false);
        self.extents().iter().map(move |extent| {
            if extent.len() == 0 {
                return Bytes::new();
            }
            ahead.begin(extent.len());
            let segment = Arc::clone(self.snapshot.pinned(extent));
            Bytes::from_owner(OwnedChunk { segment, extent: *extent })
        })
    }
}
