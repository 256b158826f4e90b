//! The encoder: computes where the parts of a batch lie, and writes everything before the values.
//!
//! Each check mirrors one of the parser in `parse`.

use byteorder::{ByteOrder, LittleEndian as Le};

use super::kind::Kind;
use super::{
    ALIGNED_VALUE_MIN, DURABLE_SEQ_AT, ENTRIES_AT, ENTRY_LEN, FLAG_SEQUENCES, FLAGS_AT, HEAD_LEN,
    KEY_LEN_MAX, KEYS_LEN_AT, SEQUENCE_LEN, VALUE_ALIGN, WORDS_LEN, ZERO_AT, head_checksum,
    value_offset,
};
use crate::SEQUENCE_MAX;
use crate::error::{Error, Evidence};
use crate::salt::Salt;
use crate::word::BATCH_LEN_MAX;

/// The offsets of the parts of a batch, computed from the lengths of its keys and values.
///
/// Long values are aligned in the segment, so the length of the batch depends on its offset there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    entries: u64,
    sequences: bool,
    keys_len: u64,
    values_len: u64,
    /// The bytes of the values before the first aligned one.
    before_aligned: u64,
    /// The bytes from the first aligned value to the end of the last value; 0 without one.
    from_aligned: u64,
}

impl Layout {
    /// Creates the layout of a batch without entries.
    #[must_use]
    pub fn new() -> Layout {
        Layout::default()
    }

    /// Creates the layout of a batch without entries that has a column of sequence numbers.
    #[must_use]
    pub fn with_sequences() -> Layout {
        Layout { sequences: true, ..Layout::default() }
    }

    /// Adds an entry with a key and a value of these lengths in bytes.
    ///
    /// # Errors
    /// If the key or the batch would be longer than the format allows.
    #[inline]
    pub fn add(&mut self, key_len: u64, value_len: u64) -> Result<(), Error> {
        if key_len > KEY_LEN_MAX {
            return Err(Error::at_most(0, "length of key", KEY_LEN_MAX, key_len));
        }
        if value_len > BATCH_LEN_MAX {
            return Err(Error::at_most(0, "length of value", BATCH_LEN_MAX, value_len));
        }
        let mut added = Layout {
            entries: self.entries + 1,
            keys_len: self.keys_len + key_len,
            values_len: self.values_len + value_len,
            ..*self
        };
        if self.from_aligned > 0 || value_len >= ALIGNED_VALUE_MIN {
            added.from_aligned = value_offset(self.from_aligned, value_len) + value_len;
        } else {
            added.before_aligned += value_len;
        }
        if added.entries > u64::from(u32::MAX) {
            let limit = u32::MAX.into();
            return Err(Error::at_most(0, "entries of a batch", limit, added.entries));
        }
        if added.batch_len_max() > BATCH_LEN_MAX {
            return Err(Error::at_most(0, "length of batch", BATCH_LEN_MAX, added.batch_len_max()));
        }
        *self = added;
        Ok(())
    }

    /// The number of entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The offset in the batch at which the keys end. The first value begins here, unless it is
    /// aligned.
    #[must_use]
    pub fn values_start(&self) -> u64 {
        let row = ENTRY_LEN + if self.sequences { SEQUENCE_LEN } else { 0 };
        HEAD_LEN + self.entries * row + self.keys_len
    }

    /// The length of all values in bytes, without the padding that aligns them.
    #[must_use]
    pub fn values_len(&self) -> u64 {
        self.values_len
    }

    /// The length in bytes of the batch at `offset` of a segment, from its link word to the next one.
    #[must_use]
    pub fn batch_len(&self, offset: u64) -> u64 {
        let mut end = offset + self.values_start() + self.before_aligned;
        if self.from_aligned > 0 {
            end = end.next_multiple_of(VALUE_ALIGN) + self.from_aligned;
        }
        (end - offset).next_multiple_of(8)
    }

    /// The length in bytes of the batch at the offset where it is longest.
    fn batch_len_max(&self) -> u64 {
        let gap = if self.from_aligned > 0 { VALUE_ALIGN - 1 } else { 0 };
        let len = self.values_start() + self.before_aligned + gap + self.from_aligned;
        len.next_multiple_of(8)
    }

    /// Encodes header, table, sequence numbers and keys of a batch at `offset` of a segment.
    ///
    /// `out` receives the bytes after the link and state words: its length is
    /// [`values_start`](Layout::values_start) less those 16. The entries are those that were added,
    /// in the same order. Their sequence numbers are written only if the batch has the column.
    ///
    /// # Errors
    /// If `out` or the entries do not fit the layout, or [`Batch::parse`](super::Batch::parse) would refuse an entry.
    pub fn encode<'k>(
        &self,
        salt: Salt,
        offset: u64,
        durable_seq: u64,
        entries: impl IntoIterator<Item = NewEntry<'k>>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let misfit = |what| Error {
            offset,
            what,
            expected: Evidence::Text("what the layout was made for"),
            found: Evidence::Text("something else"),
        };
        if out.len() as u64 != self.values_start() - WORDS_LEN {
            return Err(misfit("room for the head of a batch"));
        }
        let (head, rest) = out.split_at_mut((HEAD_LEN - WORDS_LEN) as usize);
        let (mut table, rest) = rest.split_at_mut((self.entries * ENTRY_LEN) as usize);
        let column_len = if self.sequences { self.entries * SEQUENCE_LEN } else { 0 };
        let (mut column, mut keys) = rest.split_at_mut(column_len as usize);
        let mut values_len = 0_u64;
        for entry in entries {
            let empty = entry.value_len == 0 && entry.value_checksum == 0;
            if !entry.kind.has_value() && !empty {
                return Err(misfit("value of a delete"));
            }
            if entry.kind == Kind::Clear && !entry.key.is_empty() {
                return Err(misfit("key of a clear"));
            }
            if self.sequences && !(1..=SEQUENCE_MAX).contains(&entry.sequence) {
                return Err(misfit("sequence number of entry"));
            }
            if entry.key.len() as u64 > KEY_LEN_MAX || entry.value_len > self.values_len {
                return Err(misfit("lengths of entry"));
            }
            values_len += entry.value_len;
            let (row, rest) =
                table.split_at_mut_checked(ENTRY_LEN as usize).ok_or_else(|| misfit("entries"))?;
            Le::write_u64(row, entry.value_len << 8 | u64::from(entry.kind.encode()));
            Le::write_u32(&mut row[8..], entry.key.len() as u32);
            Le::write_u32(&mut row[12..], entry.value_checksum);
            table = rest;
            if self.sequences {
                let (cell, rest) = column.split_at_mut(SEQUENCE_LEN as usize);
                Le::write_u64(cell, entry.sequence);
                column = rest;
            }
            let (key, rest) =
                keys.split_at_mut_checked(entry.key.len()).ok_or_else(|| misfit("keys"))?;
            key.copy_from_slice(entry.key);
            keys = rest;
        }
        if !table.is_empty() || !keys.is_empty() || values_len != self.values_len {
            return Err(misfit("entries"));
        }
        let at = |field: u64| (field - WORDS_LEN) as usize;
        Le::write_u32(&mut head[at(FLAGS_AT)..], if self.sequences { FLAG_SEQUENCES } else { 0 });
        Le::write_u64(&mut head[at(DURABLE_SEQ_AT)..], durable_seq);
        Le::write_u32(&mut head[at(ENTRIES_AT)..], self.entries as u32);
        Le::write_u32(&mut head[at(ZERO_AT)..], 0);
        Le::write_u64(&mut head[at(KEYS_LEN_AT)..], self.keys_len);
        let checksum = head_checksum(salt, offset, &out[4..]);
        Le::write_u32(out, checksum);
        Ok(())
    }
}

/// An entry to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'k> {
    /// The effect on the key.
    pub kind: Kind,
    /// The key; empty for [`Kind::Clear`].
    pub key: &'k [u8],
    /// The length of its value in bytes; 0 if the kind has none.
    pub value_len: u64,
    /// [`Salt::value_checksum`] of the value; 0 if the kind has none.
    pub value_checksum: u32,
    /// The sequence number; written only in a batch that has the column.
    pub sequence: u64,
}
