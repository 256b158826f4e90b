//! The entries of a parsed batch.

use byteorder::{ByteOrder, LittleEndian as Le};

use super::kind::Kind;
use super::{SEQUENCE_LEN, value_offset};
use crate::error::Error;
use crate::salt::Salt;

/// One key's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The effect on the key.
    pub kind: Kind,
    /// The key; empty for [`Kind::Clear`].
    pub key: &'a [u8],
    /// The offset of the value in the segment.
    pub value_offset: u64,
    /// The length of the value in bytes.
    pub value_len: u64,
    /// The checksum that the value must match.
    pub value_checksum: u32,
    /// The entry's own sequence number, in the output of a compaction.
    pub sequence: Option<u64>,
}

impl Entry<'_> {
    /// Compares the checksum of the value.
    ///
    /// # Errors
    /// If it does not match.
    pub fn check(&self, salt: Salt, value: &[u8]) -> Result<(), Error> {
        let right = if self.kind.has_value() { salt.value_checksum(value) } else { 0 };
        if right == self.value_checksum {
            return Ok(());
        }
        let (expected, found) = (self.value_checksum.into(), right.into());
        Err(Error::bits(self.value_offset, "checksum of value", expected, found))
    }
}

/// An iterator over the entries of a checked batch.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    pub(super) rows: core::slice::ChunksExact<'a, u8>,
    /// The sequence numbers; empty without them.
    pub(super) column: &'a [u8],
    pub(super) keys: &'a [u8],
    /// The end of the values so far, in the segment.
    pub(super) values_end: u64,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let row = self.rows.next()?;
        let word = Le::read_u64(row);
        let (key, keys) = self.keys.split_at_checked(Le::read_u32(&row[8..]) as usize)?;
        self.keys = keys;
        let sequence = self.column.split_at_checked(SEQUENCE_LEN as usize).map(|(cell, rest)| {
            self.column = rest;
            Le::read_u64(cell)
        });
        let value_len = word >> 8;
        let value_offset = value_offset(self.values_end, value_len);
        self.values_end = value_offset + value_len;
        Some(Entry {
            kind: Kind::decode(word as u8)?,
            key,
            value_offset,
            value_len,
            value_checksum: Le::read_u32(&row[12..]),
            sequence,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}
