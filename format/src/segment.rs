//! The header of a segment file, the lists of an output, and the names of segment files.

use byteorder::{ByteOrder, LittleEndian as Le};

use crate::error::{Error, Evidence};
use crate::salt::Salt;
use crate::{SEQUENCE_MAX, VERSION, align};

pub use crate::layout::DURABLE_END_AT;

/// The first bytes of a segment file.
pub const MAGIC: [u8; 8] = *b"PARTDSEG";
/// The length of the fixed part of the header in bytes; the lists of an output follow it.
pub const HEADER_LEN: u64 = 256;
/// The number of hexadecimal digits of the id in a segment's name, before `.seg`.
pub const NAME_DIGITS: usize = 16;

/// The smallest segment length that the options accept, in bytes.
pub const SEGMENT_LEN_MIN: u64 = 64 << 10;
/// The largest segment length that the options accept, in bytes. A batch that needs more gets a
/// segment of its own size.
pub const SEGMENT_LEN_MAX: u64 = 4 << 30;

const VERSION_AT: usize = 8;
const KIND_AT: usize = 12;
const STORE_AT: usize = 16;
const ID_AT: usize = 32;
const LEN_AT: usize = 40;
const SALT_AT: usize = 48;
const MAX_SEQ_AT: usize = 56;
const INPUTS_AT: usize = 64;
const RETAINED_AT: usize = 68;
const DATA_AT: usize = 72;
const CREATED_AT: usize = 80;
const PID_AT: usize = 88;
const SLOT_AT: usize = 92;
const RESERVED_AT: usize = 96;
const LISTS_CHECKSUM_AT: usize = 120;
const CHECKSUM_AT: usize = 124;

const _: () = assert!(CHECKSUM_AT + 4 == DURABLE_END_AT as usize);
const _: () = assert!(DURABLE_END_AT + 8 <= HEADER_LEN && HEADER_LEN.is_multiple_of(8));

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The uuid of the store that the segment belongs to.
    pub store: [u8; 16],
    /// The segment's id, which also names its file. A store never uses an id twice.
    pub id: u64,
    /// The length of the file in bytes.
    pub len: u64,
    /// The seed of every check and checksum in the segment, except the checksum of this header.
    pub salt: Salt,
    /// The fields of an output; `None` for the segment of a writer.
    pub output: Option<Output>,
    /// The offset of the first batch.
    pub data_start: u64,
    /// When it was created, in milliseconds since 1970; informational.
    pub created_unix_ms: u64,
    /// The process that created it; informational.
    pub pid: u32,
    /// The writer slot of its creator. Together with
    /// [`SLOT_FIRST_AT`](crate::control::SLOT_FIRST_AT) it tells whether the creator can still be
    /// alive.
    pub slot: u32,
}

/// The fields of a header that only the output of a compaction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// No input holds a sequence number above this one.
    pub max_seq: u64,
    /// The number of segments that it replaces.
    pub inputs: u32,
    /// The number of other segments that held sequence numbers up to `max_seq`.
    pub retained: u32,
    /// The checksum of the two lists, `inputs` and `retained`.
    pub lists_checksum: u32,
}

impl Output {
    /// The length of the two lists after the header in bytes.
    #[must_use]
    pub fn lists_len(&self) -> u64 {
        u64::from(self.inputs) * 8 + u64::from(self.retained) * 16
    }
}

/// A segment that a compaction did not rewrite although it held numbers up to `max_seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// The id of the segment.
    pub id: u64,
    /// The end of its last batch with a number up to the output's `max_seq`: its chain must reach
    /// this offset.
    pub end: u64,
}

impl SegmentHeader {
    /// Encodes the fixed part of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        Le::write_u32(&mut bytes[VERSION_AT..], VERSION);
        Le::write_u32(&mut bytes[KIND_AT..], if self.output.is_some() { 2 } else { 1 });
        bytes[STORE_AT..ID_AT].copy_from_slice(&self.store);
        Le::write_u64(&mut bytes[ID_AT..], self.id);
        Le::write_u64(&mut bytes[LEN_AT..], self.len);
        Le::write_u64(&mut bytes[SALT_AT..], self.salt.0);
        if let Some(output) = &self.output {
            Le::write_u64(&mut bytes[MAX_SEQ_AT..], output.max_seq);
            Le::write_u32(&mut bytes[INPUTS_AT..], output.inputs);
            Le::write_u32(&mut bytes[RETAINED_AT..], output.retained);
            Le::write_u32(&mut bytes[LISTS_CHECKSUM_AT..], output.lists_checksum);
        }
        Le::write_u64(&mut bytes[DATA_AT..], self.data_start);
        Le::write_u64(&mut bytes[CREATED_AT..], self.created_unix_ms);
        Le::write_u32(&mut bytes[PID_AT..], self.pid);
        Le::write_u32(&mut bytes[SLOT_AT..], self.slot);
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        Le::write_u32(&mut bytes[CHECKSUM_AT..], checksum);
        bytes
    }

    /// Decodes the fixed part of the header of a file of `file_len` bytes.
    ///
    /// It reads only the first 128 bytes, since those after them may be changing. The caller
    /// compares the id with the file's name, and the uuid with that of the store.
    ///
    /// # Errors
    /// If the header violates the format or does not fit `file_len`.
    pub fn decode(bytes: &[u8], file_len: u64) -> Result<SegmentHeader, Error> {
        if (bytes.len() as u64) < DURABLE_END_AT || file_len < HEADER_LEN {
            return Err(Error::at_least(0, "length of segment file", HEADER_LEN, file_len));
        }
        if bytes[..8] != MAGIC {
            return Err(Error::bits(0, "magic", Le::read_u64(&MAGIC), Le::read_u64(bytes)));
        }
        let version = Le::read_u32(&bytes[VERSION_AT..]);
        if version != VERSION {
            return Err(Error::number(8, "format version", VERSION.into(), version.into()));
        }
        let right = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        let found = Le::read_u32(&bytes[CHECKSUM_AT..]);
        if found != right {
            return Err(Error::bits(124, "checksum of header", right.into(), found.into()));
        }
        if bytes[RESERVED_AT..LISTS_CHECKSUM_AT].iter().any(|&byte| byte != 0) {
            let (expected, found) = (Evidence::Text("zeros"), Evidence::Text("something else"));
            let offset = RESERVED_AT as u64;
            return Err(Error { offset, what: "reserved part of header", expected, found });
        }
        let output = match Le::read_u32(&bytes[KIND_AT..]) {
            1 => None,
            2 => Some(Output {
                max_seq: Le::read_u64(&bytes[MAX_SEQ_AT..]),
                inputs: Le::read_u32(&bytes[INPUTS_AT..]),
                retained: Le::read_u32(&bytes[RETAINED_AT..]),
                lists_checksum: Le::read_u32(&bytes[LISTS_CHECKSUM_AT..]),
            }),
            kind => return Err(Error::between(12, "kind of segment", (1, 2), kind.into())),
        };
        let mut store = [0; 16];
        store.copy_from_slice(&bytes[STORE_AT..ID_AT]);
        let header = SegmentHeader {
            store,
            id: Le::read_u64(&bytes[ID_AT..]),
            len: Le::read_u64(&bytes[LEN_AT..]),
            salt: Salt(Le::read_u64(&bytes[SALT_AT..])),
            output,
            data_start: Le::read_u64(&bytes[DATA_AT..]),
            created_unix_ms: Le::read_u64(&bytes[CREATED_AT..]),
            pid: Le::read_u32(&bytes[PID_AT..]),
            slot: Le::read_u32(&bytes[SLOT_AT..]),
        };
        if header.id == 0 {
            return Err(Error::at_least(ID_AT as u64, "id of segment", 1, 0));
        }
        if let Some(output) = header.output.filter(|output| output.max_seq > SEQUENCE_MAX) {
            let at = MAX_SEQ_AT as u64;
            return Err(Error::at_most(at, "max_seq", SEQUENCE_MAX, output.max_seq));
        }
        if header.len != file_len {
            return Err(Error::number(LEN_AT as u64, "length of file", header.len, file_len));
        }
        let lists = HEADER_LEN + output.map_or(0, |output| output.lists_len());
        let data_start = align(lists).unwrap_or(u64::MAX);
        if header.data_start != data_start || data_start > file_len {
            let at = DATA_AT as u64;
            return Err(Error::number(at, "start of data", data_start, header.data_start));
        }
        Ok(header)
    }

    /// Checks and decodes the lists of an output, `inputs` and `retained`, from the first
    /// [`data_start`](Self::data_start) bytes of the file. Both are empty for a writer's segment.
    ///
    /// # Errors
    /// If `bytes` is too short or the checksum of the lists does not match.
    pub fn lists<'a>(
        &self,
        bytes: &'a [u8],
    ) -> Result<(impl Iterator<Item = u64> + 'a, impl Iterator<Item = Retained> + 'a), Error> {
        let (lists, inputs_len) = match &self.output {
            Some(output) => {
                let end = HEADER_LEN + output.lists_len();
                let lists = usize::try_from(end)
                    .ok()
                    .and_then(|end| bytes.get(HEADER_LEN as usize..end))
                    .ok_or_else(|| Error::at_least(0, "length of file", end, bytes.len() as u64))?;
                let right = lists_checksum(self.salt, lists);
                if output.lists_checksum != right {
                    let (at, found) = (LISTS_CHECKSUM_AT as u64, output.lists_checksum);
                    return Err(Error::bits(at, "checksum of lists", right.into(), found.into()));
                }
                (lists, output.inputs as usize * 8)
            }
            None => (&bytes[..0], 0),
        };
        let (inputs, retained) = lists.split_at(inputs_len);
        let retained_of =
            |pair: &[u8]| Retained { id: Le::read_u64(pair), end: Le::read_u64(&pair[8..]) };
        Ok((inputs.chunks_exact(8).map(Le::read_u64), retained.chunks_exact(16).map(retained_of)))
    }
}

/// Computes the checksum of the encoded lists of an output.
#[must_use]
pub fn lists_checksum(salt: Salt, lists: &[u8]) -> u32 {
    salt.value_checksum(lists)
}

/// Returns the file name of a segment.
#[must_use]
pub fn file_name(id: u64) -> [u8; NAME_DIGITS + 4] {
    let mut name = *b"0000000000000000.seg";
    for (i, digit) in name[..NAME_DIGITS].iter_mut().enumerate() {
        let nibble = (id >> (4 * (NAME_DIGITS - 1 - i))) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    name
}

/// Returns the id in the file name of a segment; `None` for any other name.
#[must_use]
pub fn id_of_file_name(name: &[u8]) -> Option<u64> {
    let digits = name.strip_suffix(b".seg")?;
    if digits.len() != NAME_DIGITS {
        return None;
    }
    let id = digits.iter().try_fold(0_u64, |id, &digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(id << 4 | u64::from(nibble))
    })?;
    (id > 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_map_to_each_other() {
        for id in [1, 10, 0xabc, u64::MAX] {
            assert_eq!(id_of_file_name(&file_name(id)), Some(id));
        }
        for name in [&b"0000000000000000.seg"[..], b"1.seg", b"000000000000000A.seg", b"control"] {
            assert_eq!(id_of_file_name(name), None);
        }
    }
}
