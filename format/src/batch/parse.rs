//! The parser. It checks everything before the values, and compares their checksums on request.
//!
//! Each check mirrors one of the encoder in [`super::layout`].

use byteorder::{ByteOrder, LittleEndian as Le};

use super::entry::{Entries, Entry};
use super::kind::Kind;
use super::{
    CHECKSUM_AT, DURABLE_SEQ_AT, ENTRIES_AT, ENTRY_LEN, FLAG_SEQUENCES, FLAGS_AT, HEAD_LEN,
    KEYS_LEN_AT, SEQUENCE_LEN, WORDS_LEN, ZERO_AT, head_checksum, value_offset,
};
use crate::error::{Error, Evidence};
use crate::salt::Salt;
use crate::{SEQUENCE_MAX, align};

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

    /// Returns the number of entries that the header of the batch of `len` bytes at `offset` states.
    ///
    /// `head` is as in [`values_start`](Batch::values_start), and the result may be wrong as well, but
    /// so many entries fit in the batch.
    ///
    /// # Errors
    /// If `head` is too short or its lengths exceed the batch.
    pub fn stated_entries(offset: u64, len: u64, head: &[u8]) -> Result<u32, Error> {
        Lengths::read(offset, len, head).map(|lengths| lengths.entries)
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
