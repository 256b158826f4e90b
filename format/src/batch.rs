//! A batch, which is what one write appends: header, table of entries, keys, values.
//!
//! The link and state words at its beginning belong to [`crate::word`]. They change while a writer
//! builds the batch, so the parser here never reads them.
//!
//! Encoder and parser share this file, although it is long: each check of one mirrors a line of the
//! other, and both use the same offsets.

use byteorder::{ByteOrder, LittleEndian as Le};
use crc32fast::Hasher;

use crate::error::{Error, Evidence};
use crate::salt::Salt;
use crate::word::BATCH_LEN_MAX;
use crate::{SEQUENCE_MAX, align};

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

/// The effect of an entry on its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Adds the value at the end of the key's value.
    Append,
    /// Replaces the key's value, unless the key has been set since it was last removed, by a
    /// delete, a prefix delete or a clear.
    Set,
    /// Removes the key.
    Delete,
    /// Removes every key. The entry itself has no key.
    Clear,
    /// Removes every key that begins with the entry's key, which is a prefix.
    DeletePrefix,
}

impl Kind {
    fn decode(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Append,
            2 => Kind::Set,
            3 => Kind::Delete,
            4 => Kind::Clear,
            5 => Kind::DeletePrefix,
            _ => return None,
        })
    }

    fn encode(self) -> u8 {
        match self {
            Kind::Append => 1,
            Kind::Set => 2,
            Kind::Delete => 3,
            Kind::Clear => 4,
            Kind::DeletePrefix => 5,
        }
    }

    /// Whether entries of this kind have a value.
    #[must_use]
    pub fn has_value(self) -> bool {
        matches!(self, Kind::Append | Kind::Set)
    }
}

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
    /// If `out` or the entries do not fit the layout, or [`Batch::parse`] would refuse an entry.
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

/// Computes the checksum over the batch's offset and everything from the flags to the values.
fn head_checksum(salt: Salt, offset: u64, flags_to_values: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt.0 as u32);
    hasher.update(&offset.to_le_bytes());
    hasher.update(flags_to_values);
    hasher.finalize()
}

/// The numbers of a header that determine where the keys end. No checksum has been compared yet.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    flags: u32,
    entries: u32,
    keys_len: u64,
    /// Offset in the batch.
    keys_start: u64,
    /// Offset in the batch, at most its length.
    values_start: u64,
}

impl Lengths {
    /// Reads them from the fixed part of the header, after the link and state words, and checks
    /// them against `len`, the length of the batch at `offset`.
    fn read(offset: u64, len: u64, head: &[u8]) -> Result<Lengths, Error> {
        let at = |field: u64| (field - WORDS_LEN) as usize;
        let given = (head.len() as u64 + WORDS_LEN).min(len);
        if given < HEAD_LEN {
            return Err(Error::at_least(offset, "length of batch", HEAD_LEN, given));
        }
        let flags = Le::read_u32(&head[at(FLAGS_AT)..]);
        let entries = Le::read_u32(&head[at(ENTRIES_AT)..]);
        let keys_len = Le::read_u64(&head[at(KEYS_LEN_AT)..]);
        let row = ENTRY_LEN + if flags & FLAG_SEQUENCES != 0 { SEQUENCE_LEN } else { 0 };
        let keys_start = HEAD_LEN + u64::from(entries) * row;
        if keys_start > len {
            let (at, limit) = (offset + ENTRIES_AT, (len - HEAD_LEN) / row);
            return Err(Error::at_most(at, "number of entries", limit, entries.into()));
        }
        let room = len - keys_start;
        if keys_len > room {
            return Err(Error::at_most(offset + KEYS_LEN_AT, "bytes of keys", room, keys_len));
        }
        let values_start = keys_start + keys_len;
        Ok(Lengths { flags, entries, keys_len, keys_start, values_start })
    }
}

/// A committed batch whose header, table and keys have been checked; its values have not.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The offset of the link word in the segment.
    offset: u64,
    /// The length up to the next link word.
    len: u64,
    /// The bytes after the link and state words that the caller supplied: at least up to the values.
    body: &'a [u8],
    entries: u32,
    sequences: bool,
    durable_seq: u64,
    /// Offset in the batch.
    keys_start: u64,
    /// Offset in the batch.
    values_start: u64,
}

impl<'a> Batch<'a> {
    /// Parses and checks the batch at `offset`; `body` is all of it after its link and state words.
    ///
    /// # Errors
    /// If header, table or keys violate the format.
    pub fn parse(salt: Salt, offset: u64, body: &'a [u8]) -> Result<Batch<'a>, Error> {
        Batch::parse_head(salt, offset, body.len() as u64 + WORDS_LEN, body)
    }

    /// Returns where the keys end in the batch of `len` bytes at `offset`, counted from the start
    /// of the batch. [`parse_head`](Batch::parse_head) needs the bytes up to there, less the 16 of
    /// the link and state words.
    ///
    /// `head` holds at least the 32 bytes after the link and state words. The result is within the
    /// batch, but may be wrong otherwise: the checksum has not been compared.
    ///
    /// # Errors
    /// If `head` is too short or its lengths exceed the batch.
    pub fn values_start(offset: u64, len: u64, head: &[u8]) -> Result<u64, Error> {
        Lengths::read(offset, len, head).map(|lengths| lengths.values_start)
    }

    /// Parses and checks the batch of `len` bytes at `offset` without its values: `body` begins after
    /// the link and state words and ends at the first value or later.
    ///
    /// # Errors
    /// If header, table or keys violate the format, or `body` is too short.
    pub fn parse_head(
        salt: Salt,
        offset: u64,
        len: u64,
        body: &'a [u8],
    ) -> Result<Batch<'a>, Error> {
        let at = |field: u64| (field - WORDS_LEN) as usize;
        let Lengths { flags, entries, keys_len, keys_start, values_start } =
            Lengths::read(offset, len, body)?;
        let given = body.len() as u64 + WORDS_LEN;
        if given < values_start {
            return Err(Error::at_least(offset, "bytes of batch header", values_start, given));
        }
        let right = head_checksum(salt, offset, &body[4..at(values_start)]);
        let found = Le::read_u32(body);
        if found != right {
            let at = offset + CHECKSUM_AT;
            return Err(Error::bits(at, "checksum of batch header", right.into(), found.into()));
        }
        if flags & !FLAG_SEQUENCES != 0 {
            let known = FLAG_SEQUENCES.into();
            return Err(Error::bits(offset + FLAGS_AT, "flags of batch", known, flags.into()));
        }
        let zero = Le::read_u32(&body[at(ZERO_AT)..]);
        if zero != 0 {
            return Err(Error::number(offset + ZERO_AT, "reserved part of batch", 0, zero.into()));
        }
        let batch = Batch {
            offset,
            len,
            body,
            entries,
            sequences: flags & FLAG_SEQUENCES != 0,
            durable_seq: Le::read_u64(&body[at(DURABLE_SEQ_AT)..]),
            keys_start,
            values_start,
        };
        batch.check_table(keys_len)?;
        Ok(batch)
    }

    /// Checks each entry, and that the lengths fill the batch.
    fn check_table(&self, keys_len: u64) -> Result<(), Error> {
        let batch_end = self.offset + self.len;
        let (mut keys, mut values_end) = (0_u64, self.offset + self.values_start);
        for (i, row) in self.rows().enumerate() {
            let at = self.offset + HEAD_LEN + i as u64 * ENTRY_LEN;
            let word = Le::read_u64(row);
            let Some(kind) = Kind::decode(word as u8) else {
                return Err(Error::between(at, "kind of entry", (1, 5), word & 0xFF));
            };
            let key_len = u64::from(Le::read_u32(&row[8..]));
            if kind == Kind::Clear && key_len != 0 {
                return Err(Error::number(at + 8, "length of the key of a clear", 0, key_len));
            }
            if !kind.has_value() && word >> 8 != 0 {
                return Err(Error::number(at, "length of the value of a delete", 0, word >> 8));
            }
            // Fewer than 2^32 lengths, each below 2^32, cannot overflow.
            keys += key_len;
            // No overflow: the end so far is within the batch, and a length has 56 bits.
            let value_len = word >> 8;
            let start = value_offset(values_end, value_len);
            values_end = start + value_len;
            if values_end > batch_end {
                let room = batch_end.saturating_sub(start);
                return Err(Error::at_most(at, "length of value", room, value_len));
            }
        }
        if keys != keys_len {
            let at = self.offset + KEYS_LEN_AT;
            return Err(Error::number(at, "bytes of keys", keys, keys_len));
        }
        let filled = values_end - self.offset;
        if align(filled) != Some(self.len) {
            return Err(Error::number(self.offset, "bytes of batch", self.len, filled));
        }
        for (i, sequence) in self.column().enumerate() {
            if !(1..=SEQUENCE_MAX).contains(&sequence) {
                let at = HEAD_LEN + u64::from(self.entries) * ENTRY_LEN + i as u64 * SEQUENCE_LEN;
                let what = "sequence number of entry";
                return Err(Error::between(self.offset + at, what, (1, SEQUENCE_MAX), sequence));
            }
        }
        Ok(())
    }

    fn part(&self, start: u64, end: u64) -> &'a [u8] {
        // In range: `parse_head` checked both against the length of the body.
        &self.body[(start - WORDS_LEN) as usize..(end - WORDS_LEN) as usize]
    }

    fn rows(&self) -> core::slice::ChunksExact<'a, u8> {
        let end = HEAD_LEN + u64::from(self.entries) * ENTRY_LEN;
        self.part(HEAD_LEN, end).chunks_exact(ENTRY_LEN as usize)
    }

    fn column(&self) -> impl Iterator<Item = u64> + use<'a> {
        let start = HEAD_LEN + u64::from(self.entries) * ENTRY_LEN;
        let end = if self.sequences { self.keys_start } else { start };
        self.part(start, end).chunks_exact(SEQUENCE_LEN as usize).map(Le::read_u64)
    }

    /// The offset of the batch, and of its link word, in the segment.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the batch in bytes, link and state words included.
    #[must_use]
    pub fn batch_len(&self) -> u64 {
        self.len
    }

    /// The length of everything before the values in bytes, link and state words included.
    #[must_use]
    pub fn head_len(&self) -> u64 {
        self.values_start
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// Whether the batch has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The store's `durable_seq` when the batch was written.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Whether each entry has a sequence number of its own, as in the output of a compaction.
    #[must_use]
    pub fn has_sequences(&self) -> bool {
        self.sequences
    }

    /// Checks that the batch has a column of sequence numbers if its segment is an output.
    ///
    /// # Errors
    /// If the column is missing.
    pub fn check_sequences(&self, is_output: bool) -> Result<(), Error> {
        if self.sequences || !is_output {
            return Ok(());
        }
        Err(Error {
            offset: self.offset + FLAGS_AT,
            what: "flags of batch",
            expected: Evidence::Text("sequence numbers, as in every output of a compaction"),
            found: Evidence::Text("none"),
        })
    }

    /// Iterates over the entries in order.
    #[must_use]
    pub fn entries(&self) -> Entries<'a> {
        let column_start = HEAD_LEN + u64::from(self.entries) * ENTRY_LEN;
        Entries {
            rows: self.rows(),
            column: if self.sequences { self.part(column_start, self.keys_start) } else { &[] },
            keys: self.part(self.keys_start, self.values_start),
            values_end: self.offset + self.values_start,
        }
    }

    /// Returns the bytes of an entry's value, as far as the parser received them. It does not compare
    /// the checksum.
    #[must_use]
    pub fn value(&self, entry: &Entry<'_>) -> &'a [u8] {
        let given = self.body.len() as u64 + WORDS_LEN;
        let start = entry.value_offset.saturating_sub(self.offset).clamp(WORDS_LEN, given);
        let end = start.saturating_add(entry.value_len).min(given);
        self.part(start, end)
    }

    /// Compares the checksum of every value.
    ///
    /// # Errors
    /// The first value that does not match its checksum.
    pub fn check_values(&self, salt: Salt) -> Result<(), Error> {
        self.entries().try_for_each(|entry| entry.check(salt, self.value(&entry)))
    }
}

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
    rows: core::slice::ChunksExact<'a, u8>,
    column: &'a [u8],
    keys: &'a [u8],
    /// The end of the values so far, in the segment.
    values_end: u64,
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
