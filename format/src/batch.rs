//! A batch, which is what one write appends: header, table of entries, keys, values.
//!
//! The link and state words at its beginning belong to [`crate::word`]. They change while a writer
//! builds the batch, so the parser never reads them.
//!
//! This file has the offsets and the checksum, which encoder and parser share.

mod entry;
mod kind;
mod layout;
mod parse;

use crc32fast::Hasher;

use crate::salt::Salt;

pub use self::entry::{Entries, Entry};
pub use self::kind::Kind;
pub use self::layout::{Layout, NewEntry};
pub use self::parse::Batch;
pub use crate::layout::{ALIGNED_VALUE_MIN, HEAD_LEN, VALUE_ALIGN, WORDS_LEN, value_offset};

/// The length of a row of the table in bytes.
pub const ENTRY_LEN: u64 = 16;
/// The length of a number in the column of sequence numbers in bytes.
pub const SEQUENCE_LEN: u64 = 8;
/// The length of the longest key in bytes.
pub const KEY_LEN_MAX: u64 = u32::MAX as u64;
/// The flag of a batch with a column of sequence numbers, as every batch of an output has.
pub const FLAG_SEQUENCES: u32 = 1;

// Offsets in the batch.
const CHECKSUM_AT: u64 = 16;
const FLAGS_AT: u64 = 20;
const DURABLE_SEQ_AT: u64 = 24;
const ENTRIES_AT: u64 = 32;
const ZERO_AT: u64 = 36;
const KEYS_LEN_AT: u64 = 40;

const _: () = assert!(CHECKSUM_AT == WORDS_LEN && KEYS_LEN_AT + 8 == HEAD_LEN);
const _: () = assert!(ENTRY_LEN == 8 + 4 + 4);

/// Computes the checksum over the batch's offset and everything from the flags to the values.
fn head_checksum(salt: Salt, offset: u64, flags_to_values: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt.0 as u32);
    hasher.update(&offset.to_le_bytes());
    hasher.update(flags_to_values);
    hasher.finalize()
}
