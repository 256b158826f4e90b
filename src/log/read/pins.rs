//! The segments that a snapshot keeps alive: those in which its own extents lie, and no others.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::log::segment::Segment;
use crate::log::segment::extent::Extent;

/// Up to so many numbers behind the first are looked up by position, which is quicker; the few
/// snapshots whose extents are further apart search for the rest.
const DENSE_MAX: usize = 1024;

/// Segments by the number that extents of one picture give them.
#[derive(Debug)]
pub(crate) struct Pins<F> {
    /// The number of the first in `dense`.
    first: u32,
    dense: SmallVec<[Option<Arc<Segment<F>>>; 1]>,
    /// In the order of their numbers.
    sparse: Vec<(u32, Arc<Segment<F>>)>,
}

impl<F> Pins<F> {
    /// Pins the segments of some extents; `segments` are those of the picture.
    pub(crate) fn new<'e>(
        segments: &[Arc<Segment<F>>],
        extents: impl Iterator<Item = &'e Extent> + Clone,
    ) -> Pins<F> {
        let first = extents.clone().map(Extent::segment).min().unwrap_or(0);
        let mut pins = Pins { first, dense: SmallVec::new(), sparse: Vec::new() };
        let mut last = None;
        for extent in extents {
            let number = extent.segment();
            // Neighbours mostly lie in one segment.
            if last == Some(number) {
                continue;
            }
            last = Some(number);
            let place = (number - first) as usize;
            if place < DENSE_MAX {
                if pins.dense.len() <= place {
                    pins.dense.resize(place + 1, None);
                }
                pins.dense[place].get_or_insert_with(|| Arc::clone(&segments[number as usize]));
            } else {
                pins.sparse.push((number, Arc::clone(&segments[number as usize])));
            }
        }
        pins.sparse.sort_unstable_by_key(|(number, _)| *number);
        pins.sparse.dedup_by_key(|(number, _)| *number);
        pins
    }

    /// The segment of one of the extents that it was made for.
    #[inline]
    pub(crate) fn segment(&self, extent: &Extent) -> &Segment<F> {
        let place = extent.segment().wrapping_sub(self.first) as usize;
        match self.dense.get(place) {
            Some(Some(segment)) => segment,
            _ => self.search(extent.segment()),
        }
    }

    #[cold]
    fn search(&self, number: u32) -> &Segment<F> {
        let place = self.sparse.partition_point(|(other, _)| *other < number);
        &self.sparse[place].1
    }
}
