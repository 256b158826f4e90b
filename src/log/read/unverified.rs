//! A chunk of a value that is lent before its checksum is compared.

use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::segment::Segment;
use crate::log::segment::extent::Extent;

/// The length of the parts that are verified and passed on in turn.
const PART_BYTES: usize = 64 << 10;

/// A chunk of a value in the mapped segments, whose checksum the caller compares.
///
/// Passed to the closure of [`SegmentLog::visit_unverified`](crate::SegmentLog::visit_unverified).
#[derive(Debug)]
pub struct Unverified<'s, D: Disk = OsDisk> {
    segment: &'s Segment<D::File>,
    extent: &'s Extent,
    /// Whether the checksum still has to be compared.
    is_due: bool,
}

impl<'s, D: Disk> Unverified<'s, D> {
    pub(super) fn new(segment: &'s Segment<D::File>, extent: &'s Extent, is_due: bool) -> Self {
        Unverified { segment, extent, is_due }
    }

    /// Returns the bytes of the chunk, which may be damaged.
    #[must_use]
    pub fn bytes(&self) -> &'s [u8] {
        self.segment.value(self.extent)
    }

    /// Passes the bytes to `each`, in parts that fit into the cache, and compares their checksum.
    ///
    /// The checksum is not compared again if that has been done because the bytes had to be read from
    /// disk, nor if [`verify_on_read`](crate::Options::verify_on_read) is off.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the file and the offset, if the checksum differs.
    /// Then `each` was given damaged bytes.
    pub fn verify(&self, mut each: impl FnMut(&'s [u8])) -> Result<()> {
        let mut hasher = self.segment.value_hasher();
        for part in self.bytes().chunks(PART_BYTES) {
            if self.is_due {
                hasher.update(part);
            }
            each(part);
        }
        match self.is_due {
            true => self.segment.compare(self.extent, hasher.finalize()),
            false => Ok(()),
        }
    }
}
