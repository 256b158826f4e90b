//! A chunk of a value that is lent before its checksum is compared.

use crate::error::{Error, Result};
use crate::log::fs::{Disk, OsDisk};
use crate::log::segment::Segment;
use crate::log::segment::extent::Extent;

/// A chunk of a value in the mapped segments, whose checksum the caller compares.
///
/// Passed to the closure of [`SegmentLog::visit_unverified`](crate::SegmentLog::visit_unverified).
/// Copy [`bytes`](Unverified::bytes), and pass the copy to [`verify`](Unverified::verify) while it is
/// still in the cache.
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

    /// Compares the checksum of a copy of the chunk with the one that was stored.
    ///
    /// Does nothing if the chunk has been compared already, because it had to be read from disk, or
    /// if [`verify_on_read`](crate::Options::verify_on_read) is off.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the file and the offset, if the checksum differs,
    /// and [`Invalid`](crate::ErrorKind::Invalid) if the copy has another length than the chunk.
    pub fn verify(&self, copy: &[u8]) -> Result<()> {
        if copy.len() as u64 != self.extent.len() {
            let (len, copied) = (self.extent.len(), copy.len());
            let what = format!("a copy of {copied} bytes cannot verify a chunk of {len} bytes");
            return Err(Error::Invalid(what));
        }
        match self.is_due {
            true => self.segment.compare(self.extent, self.segment.value_checksum(copy)),
            false => Ok(()),
        }
    }
}
