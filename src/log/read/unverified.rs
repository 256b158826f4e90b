//! A chunk of a value that is lent before its checksum is compared.

use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::segment::Segment;
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
    compares_checksum: bool,
}

impl<D: Disk> Clone for Unverified<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Disk> Copy for Unverified<'_, D> {}

impl<'s, D: Disk> Unverified<'s, D> {
    pub(super) fn new(
        segment: &'s Segment<D::File>,
        extent: &'s Extent,
        compares_checksum: bool,
    ) -> Self {
        Unverified { segment, extent, compares_checksum }
    }

    /// Returns the bytes of the chunk, which may be damaged.
    #[must_use]
    pub fn bytes(&self) -> &'s [u8] {
        self.segment.value(self.extent)
    }

    /// Returns whether [`verify`](Unverified::verify) compares the checksum.
    ///
    /// Chunks of more than 1 MiB were compared before they were lent, in parallel and ahead of the disk.
    /// Nothing is compared if [`verify_on_read`](crate::Options::verify_on_read) is off.
    #[must_use]
    pub fn compares_checksum(&self) -> bool {
        self.compares_checksum
    }

    /// Passes the bytes to `each`, in parts that fit into the cache, and compares their checksum.
    ///
    /// Use the bytes only after this has returned `Ok`. The checksum is compared if
    /// [`compares_checksum`](Unverified::compares_checksum) is true.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the file and the offset, if the checksum differs.
    /// The bytes that `each` was given are then damaged.
    pub fn verify(&self, mut each: impl FnMut(&'s [u8])) -> Result<()> {
        let mut hasher = self.segment.value_hasher();
        for part in self.bytes().chunks(PART_BYTES) {
            if self.compares_checksum {
                hasher.update(part);
            }
            each(part);
        }
        match self.compares_checksum {
            true => self.segment.compare(self.extent, hasher.finalize()),
            false => Ok(()),
        }
    }
}
