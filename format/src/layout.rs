//! Where things lie that more than one part of the format speaks of.

/// Bytes of the link and state words.
pub const WORDS_LEN: u64 = 16;
/// Bytes from the link word to the table.
pub const HEAD_LEN: u64 = 48;
/// Where the state word lies in a batch.
pub const STATE_AT: u64 = 8;
/// Where the note word lies, behind the checksum of the header: it changes.
pub const DURABLE_END_AT: u64 = 128;
