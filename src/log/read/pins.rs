//! The segments that a snapshot keeps alive: only those that contain its extents.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::log::segment::Segment;
use crate::log::segment::extent::Extent;

/// Segment numbers less than this far above the first are looked up by index, which is faster. The
/// few snapshots with a wider range binary-search the others.
const DENSE_MAX: usize = 1024;

/// Segments by their number in one version.
#[derive(Debug)]
pub(crate) struct Pins<F> {
    /// The segment number of the first element of `dense`.
    first: u32,
    dense: SmallVec<[Option<Arc<Segment<F>>>; 1]>,
    /// Sorted by segment number.
    sparse: Vec<(u32, Arc<Segment<F>>)>,
}

impl<F> Pins<F> {
    /// Pins the segments of the extents; `segments` are those of the version.
    pub(crate) fn new<'e>(
        segments: &[Arc<Segment<F>>],
        extents: impl Iterator<Item = &'e Extent> + Clone,
    ) -> Pins<F> {
        Pins::collect(extents, |extent| &segments[extent.segment() as usize])
    }

    /// Pins the segments of some of the extents.
    pub(crate) fn subset<'e>(&self, extents: impl Iterator<Item = &'e Extent> + Clone) -> Pins<F> {
        Pins::collect(extents, |extent| self.segment(extent))
    }

    fn collect<'s, 'e>(
        extents: impl Iterator<Item = &'e Extent> + Clone,
        segment: impl Fn(&Extent) -> &'s Arc<Segment<F>>,
    ) -> Pins<F>
    where
        F: 's,
    {
        let first = extents.clone().map(Extent::segment).min().unwrap_or(0);
        let mut pins = Pins { first, dense: SmallVec::new(), sparse: Vec::new() };
        let mut last = None;
        for extent in extents {
            let number = extent.segment();
            // Neighbouring extents are mostly in the same segment.
            if last == Some(number) {
                continue;
            }
            last = Some(number);
            let index = (number - first) as usize;
            if index < DENSE_MAX {
                if pins.dense.len() <= index {
                    pins.dense.resize(index + 1, None);
                }
                pins.dense[index].get_or_insert_with(|| Arc::clone(segment(extent)));
            } else {
                pins.sparse.push((number, Arc::clone(segment(extent))));
            }
        }
        pins.sparse.sort_unstable_by_key(|(number, _)| *number);
        pins.sparse.dedup_by_key(|(number, _)| *number);
        pins
    }

    /// Returns the segment of an extent, which must be one of those passed to `new`.
    #[inline]
    pub(crate) fn segment(&self, extent: &Extent) -> &Arc<Segment<F>> {
        let index = extent.segment().wrapping_sub(self.first) as usize;
        match self.dense.get(index) {
            Some(Some(segment)) => segment,
            _ => self.search(extent.segment()),
        }
    }

    #[cold]
    fn search(&self, number: u32) -> &Arc<Segment<F>> {
        let index = self.sparse.partition_point(|(other, _)| *other < number);
        &self.sparse[index].1
    }
}
