//! A chunk of a value that is lent before its checksum is compared.

use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::segment::Segment;
use crate::log::segment::ahead::Ahead;
use crate::log::segment::extent::Extent;

/// The length of the parts that are verified and passed on in turn.
const PART_BYTES: usize = 64 << 10;

/// A chunk of a value in the mapped segments, lent before its checksum is compared.
///
/// Passed to the closure of [`SegmentLog::visit_unverified`](crate::SegmentLog::visit_unverified).
#[derive(Debug)]
pub struct Unverified<'s, D: Disk = OsDisk> {
    segment: &'s Segment<D::File>,
    extent: &'s Extent,
    compares: bool,
}

impl<D: Disk> Clone for Unverified<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Disk> Copy for Unverified<'_, D> {}

impl<'s, D: Disk> Unverified<'s, D> {
    pub(super) fn new(segment: &'s Segment<D::File>, extent: &'s Extent, compares: bool) -> Self {
        Unverified { segment, extent, compares }
    }

    /// Returns the bytes of the chunk, which may be damaged.
    #[must_use]
    pub fn bytes(&self) -> &'s [u8] {
        self.segment.value(self.extent)
    }

    /// Passes the bytes to `each`, in parts that fit into the cache, and compares their checksum.
    ///
    /// Use the bytes only after this has returned `Ok`. The checksum is not compared if
    /// [`verify_on_read`](crate::Options::verify_on_read) is off.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the file and the offset, if the checksum differs.
    /// The bytes that `each` was given are then damaged.
    pub fn verify(&self, mut each: impl FnMut(&'s [u8])) -> Result<()> {
        let bytes = self.bytes();
        let is_long = bytes.len() > PART_BYTES;
        let ahead = is_long.then(|| Ahead::new([self.segment.span(self.extent)], false));
        let mut hasher = self.segment.value_hasher();
        for part in bytes.chunks(PART_BYTES) {
            if let Some(ahead) = &ahead {
                ahead.begin(part.len() as u64);
            }
            if self.compares {
                hasher.update(part);
            }
            each(part);
        }
        match self.compares {
            true => self.segment.compare(self.extent, hasher.finalize()),
            false => Ok(()),
        }
    }
}
