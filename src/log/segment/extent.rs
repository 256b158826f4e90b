//! The location of a value in a segment.

use partd_format::Entry;

/// The location of an entry's value, the sequence number of its batch, and its expected checksum.
///
/// Packed into 24 bytes, since there is one per entry:
/// `segment:20 | offset:44`, `len:44 | sequence's top 20`, `sequence's low 32 | checksum:32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent([u64; 3]);

/// The number of segments that a `Version` can address.
pub(crate) const SEGMENT_NUMBERS: usize = 1 << 20;
const OFFSET_BITS: u32 = 44;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const _: () = assert!(partd_format::word::BATCH_LEN_MAX <= OFFSET_MASK);
const _: () = assert!(partd_format::SEQUENCE_MAX >> 32 < 1 << 20);

impl Extent {
    /// Creates the extent of an entry of a committed batch. `segment` is the number of the segment
    /// in the `Version`.
    #[inline]
    pub(crate) fn of(entry: &Entry<'_>, segment: u32, sequence: u64) -> Extent {
        Extent([
            u64::from(segment) << OFFSET_BITS | entry.value_offset & OFFSET_MASK,
            entry.value_len | sequence >> 32 << OFFSET_BITS,
            sequence << 32 | u64::from(entry.value_checksum),
        ])
    }

    /// The length of the value in bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.0[1] & OFFSET_MASK
    }

    /// The extent without its first `skip` bytes, which is at most its length; `checksum` is that of
    /// the rest.
    pub(crate) fn tail(&self, skip: u64, checksum: u32) -> Extent {
        let [place, len, numbers] = self.0;
        Extent([place + skip, len - skip, numbers >> 32 << 32 | u64::from(checksum)])
    }

    /// The offset of the value in its segment.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.0[0] & OFFSET_MASK
    }

    /// A sort key for the extents of one `Version`: by segment, then by offset.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.0[0]
    }

    /// The number of the segment in the `Version`.
    #[inline]
    pub(crate) fn segment(&self) -> u32 {
        (self.0[0] >> OFFSET_BITS) as u32
    }

    /// The sequence number of the batch.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        self.0[1] >> OFFSET_BITS << 32 | self.0[2] >> 32
    }

    /// The expected checksum of the value.
    #[inline]
    pub(crate) fn checksum(&self) -> u32 {
        self.0[2] as u32
    }
}
