//! Corrects the checks of a segment after a mutation, so that the code after them is reached.
//!
//! Bytes that no check covers keep the fuzzer's values. The old value of each corrected word
//! selects what the link or state says. The top byte of a state word selects which rules of the
//! batch stay broken; in the words of a valid segment it is 0, so a valid seed is left unchanged.

use partd_format::batch::{ENTRY_LEN, FLAG_SEQUENCES, HEAD_LEN, SEQUENCE_LEN};
use partd_format::segment::{HEADER_LEN, MAGIC, SegmentHeader, lists_checksum};
use partd_format::{Link, SEQUENCE_MAX, Salt, State, align};

/// In the plan of a batch: entries and keys can claim more than there is.
const ANY_COUNT: u64 = 1;
/// Entries can have any contents.
const ANY_TABLE: u64 = 2;
/// Values need not match their checksums.
const ANY_VALUES: u64 = 4;
/// The head need not match its checksum.
const ANY_HEAD: u64 = 8;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Corrects a segment in place, keeping its length; a segment that is too short for a header is
/// extended. With an identity, it becomes a segment of that store with that id.
pub fn segment(bytes: &mut Vec<u8>, identity: Option<([u8; 16], u64)>) {
    if bytes.len() < HEADER_LEN as usize {
        bytes.resize(HEADER_LEN as usize, 0);
    }
    if let Some((store, id)) = identity {
        bytes[16..32].copy_from_slice(&store);
        put(bytes, 32, id);
    }
    let header = mend_header(bytes);
    let salt = header.salt;
    let mut offset = header.data_start as usize;
    while offset + 8 <= bytes.len() {
        let room = (bytes.len() - offset) as u64;
        let wish = u64_at(bytes, offset);
        // The length is above the 24 bits of the check.
        let link = match (wish >> 24) * 8 {
            _ if wish == 0 => Link::End,
            0 | 8 => Link::Sealed,
            _ if room < HEAD_LEN => Link::Sealed,
            len if len <= room => Link::Batch(len.max(HEAD_LEN)),
            len => Link::Batch((HEAD_LEN + len % (room - HEAD_LEN + 1)) & !7),
        };
        put(bytes, offset, link.encode(salt, offset as u64));
        let Link::Batch(len) = link else { return };
        mend_batch(&mut bytes[offset..offset + len as usize], salt, offset as u64);
        offset += len as usize;
    }
}

fn mend_header(bytes: &mut [u8]) -> SegmentHeader {
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&partd_format::VERSION.to_le_bytes());
    let is_output = u32_at(bytes, 12) == 2;
    let rooms = ((len - HEADER_LEN) / 16).min(64) as u32;
    let (inputs, retained) = (u32_at(bytes, 64), u32_at(bytes, 68));
    let output = is_output.then(|| {
        let inputs = inputs % (rooms + 1);
        let retained = retained % (rooms - inputs.div_ceil(2).min(rooms) + 1);
        let max_seq = u64_at(bytes, 56) % (SEQUENCE_MAX + 1);
        partd_format::segment::Output { max_seq, inputs, retained, lists_checksum: 0 }
    });
    let mut header = SegmentHeader {
        store: bytes[16..32].try_into().expect("sixteen bytes"),
        id: u64_at(bytes, 32).max(1),
        len,
        salt: Salt(u64_at(bytes, 48)),
        output,
        data_start: align(HEADER_LEN + output.map_or(0, |output| output.lists_len()))
            .expect("a small number"),
        created_unix_ms: u64_at(bytes, 80),
        pid: u32_at(bytes, 88),
        slot: u32_at(bytes, 92),
    };
    if let Some(output) = &mut header.output {
        let lists = &bytes[HEADER_LEN as usize..(HEADER_LEN + output.lists_len()) as usize];
        output.lists_checksum = lists_checksum(header.salt, lists);
    }
    let note = bytes[128..HEADER_LEN as usize].to_vec();
    bytes[..HEADER_LEN as usize].copy_from_slice(&header.encode());
    bytes[128..HEADER_LEN as usize].copy_from_slice(&note);
    header
}

fn mend_batch(batch: &mut [u8], salt: Salt, offset: u64) {
    let wish = u64_at(batch, 8);
    let plan = wish >> 56;
    // The sequence number is above the 17 bits of the check.
    let state = match (wish >> 17) & ((1 << 39) - 1) {
        _ if wish == 0 => State::Pending,
        _ if wish >> 17 == SEQUENCE_MAX + 1 => State::Void,
        sequence => State::Committed(sequence.max(1)),
    };
    put(batch, 8, state.encode(salt, offset));
    if matches!(state, State::Pending | State::Void) {
        return;
    }
    let flags = u32_at(batch, 20) & FLAG_SEQUENCES;
    batch[20..24].copy_from_slice(&flags.to_le_bytes());
    let row = ENTRY_LEN + if flags == 0 { 0 } else { SEQUENCE_LEN };
    let room = batch.len() as u64 - HEAD_LEN;
    if plan & ANY_COUNT == 0 {
        let entries = u64::from(u32_at(batch, 32)) % (room / row + 1);
        batch[32..36].copy_from_slice(&(entries as u32).to_le_bytes());
        let keys_room = room - entries * row;
        let keys = u64_at(batch, 40) % (keys_room + 1);
        put(batch, 40, keys);
        if plan & ANY_TABLE == 0 {
            mend_table(batch, entries, row, keys, salt, plan & ANY_VALUES == 0);
        }
    }
    if plan & ANY_HEAD == 0 {
        mend_head(batch, row, salt, offset);
    }
}

/// Makes the lengths add up to the keys and the values; the last entry takes the remainder.
fn mend_table(batch: &mut [u8], entries: u64, row: u64, keys: u64, salt: Salt, values: bool) {
    let keys_start = HEAD_LEN + entries * row;
    let mut value_at = (keys_start + keys) as usize;
    let (mut keys_left, end) = (keys, batch.len());
    for i in 0..entries {
        let at = (HEAD_LEN + i * ENTRY_LEN) as usize;
        let (word, wanted) = (u64_at(batch, at), u64::from(u32_at(batch, at + 8)));
        let kind = match word & 0xFF {
            kind @ 1..=3 => kind,
            4 if wanted == 0 => 4,
            other => 1 + other % 3,
        };
        let is_last = i + 1 == entries;
        let value_room = (end - value_at) as u64;
        // The last entry must be able to take the remainder.
        let fits = wanted == keys_left && value_room < 8;
        let kind = if is_last && kind > 2 && !fits { 1 } else { kind };
        let key_len = match kind {
            4 => 0,
            _ if is_last => keys_left,
            _ => wanted.min(keys_left),
        };
        keys_left -= key_len;
        let value_len = match kind {
            3 | 4 => 0,
            // Up to seven bytes after the last value are padding.
            _ if is_last && (word >> 8) + 7 >= value_room => (word >> 8).min(value_room),
            _ if is_last => value_room,
            _ => (word >> 8).min(value_room),
        };
        put(batch, at, value_len << 8 | kind);
        batch[at + 8..at + 12].copy_from_slice(&(key_len as u32).to_le_bytes());
        if row > ENTRY_LEN {
            let cell = (HEAD_LEN + entries * ENTRY_LEN + i * SEQUENCE_LEN) as usize;
            let sequence = u64_at(batch, cell).clamp(1, SEQUENCE_MAX);
            put(batch, cell, sequence);
        }
        if values {
            let value_end = value_at + value_len as usize;
            let checksum = match kind {
                1 | 2 => salt.value_checksum(&batch[value_at..value_end]),
                _ => 0,
            };
            batch[at + 12..at + 16].copy_from_slice(&checksum.to_le_bytes());
        }
        value_at += value_len as usize;
    }
    if entries == 0 {
        put(batch, 40, 0);
    }
}

/// Corrects the checksum of the head, over the bytes that it covers.
fn mend_head(batch: &mut [u8], row: u64, salt: Salt, offset: u64) {
    let entries = u64::from(u32_at(batch, 32));
    let end = (HEAD_LEN + entries * row).checked_add(u64_at(batch, 40));
    let Some(end) = end.filter(|end| *end <= batch.len() as u64) else { return };
    let mut hasher = salt.value_hasher();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&batch[20..end as usize]);
    let checksum = hasher.finalize();
    batch[16..20].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn a_valid_segment_is_left_unchanged() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../format/golden/v1");
        let mut segments = 0;
        for file in fs::read_dir(golden).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                let real = fs::read(&path).unwrap();
                let mut mended = real.clone();
                super::segment(&mut mended, None);
                let differs = mended.iter().zip(&real).position(|(a, b)| a != b);
                assert!(mended == real, "{} differs at {differs:?}", path.display());
                segments += 1;
            }
        }
        assert!(segments >= 5);
    }
}
