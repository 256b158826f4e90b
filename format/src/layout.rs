//! Offsets and lengths that several modules of the format share.

/// The length of the link and state words in bytes.
pub const WORDS_LEN: u64 = 16;
/// The length of everything before the table in bytes, link and state words included.
pub const HEAD_LEN: u64 = 48;
/// The offset of the state word in a batch.
pub const STATE_AT: u64 = 8;
/// The offset of the word `durable_end`. It changes, so the checksum of the header ends before it.
pub const DURABLE_END_AT: u64 = 128;
