//! Offsets and lengths that several modules of the format share.

/// The length of the link and state words in bytes.
pub const WORDS_LEN: u64 = 16;
/// The length of everything before the table in bytes, link and state words included.
pub const HEAD_LEN: u64 = 48;
/// The offset of the state word in a batch.
pub const STATE_AT: u64 = 8;
/// The offset of the word `durable_end`. It changes, so the checksum of the header ends before it.
pub const DURABLE_END_AT: u64 = 128;

/// Values of at least this many bytes begin at a multiple of [`VALUE_ALIGN`] in the segment.
pub const ALIGNED_VALUE_MIN: u64 = 1024;
/// The alignment of long values in bytes: a cache line, and what Arrow asks of its buffers.
pub const VALUE_ALIGN: u64 = 64;

/// The offset of a value of `len` bytes if everything before it ends at `end`. Both ends count from
/// the beginning of the segment.
#[must_use]
pub const fn value_offset(end: u64, len: u64) -> u64 {
    if len >= ALIGNED_VALUE_MIN { end.next_multiple_of(VALUE_ALIGN) } else { end }
}
