//! The reading path of `partd-inspect` on hostile stores: a control file and up to three segments
//! out of the input, as they are or with their checks made right after the mutation, so that the
//! fuzzer comes past the first of them.
//!
//! Nothing may panic, loop or take more memory than a small multiple of the input; what is listed
//! must lie within the files.
#![no_main]

use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as Le};
use libfuzzer_sys::fuzz_target;
use partd_format::segment::{HEADER_LEN, lists_checksum};
use partd_format::{Batch, Kind, Link, Salt, State, control};

#[path = "../../src/bin/partd-inspect/read/mod.rs"]
#[allow(dead_code, reason = "the binary uses the rest of it")]
mod read;

use read::control::Control;
use read::history::{Around, value_checksum};
use read::index::Index;
use read::key::{escape, unescape};
use read::source::Source;
use read::store::Store;
use read::walk::Segment;

const STORE: [u8; 16] = [7; 16];
const BOOT: [u8; 16] = [9; 16];

/// Makes the header of a segment right, and every word and batch along its chain.
fn mend(bytes: &mut [u8], id: u64) {
    let len = bytes.len() as u64;
    if len < HEADER_LEN {
        return;
    }
    bytes[..8].copy_from_slice(b"PARTDSEG");
    Le::write_u32(&mut bytes[8..], 1);
    let kind = 1 + u32::from(bytes[12] & 1);
    Le::write_u32(&mut bytes[12..], kind);
    bytes[16..32].copy_from_slice(&STORE);
    Le::write_u64(&mut bytes[32..], id);
    Le::write_u64(&mut bytes[40..], len);
    let salt = Salt(Le::read_u64(&bytes[48..]));
    let (replaces, keeps) = (u32::from(bytes[64] & 3), u32::from(bytes[68] & 3));
    let lists = if kind == 2 { u64::from(replaces) * 8 + u64::from(keeps) * 16 } else { 0 };
    let start = HEADER_LEN + lists;
    if start > len {
        return;
    }
    Le::write_u32(&mut bytes[64..], replaces);
    Le::write_u32(&mut bytes[68..], keeps);
    Le::write_u64(&mut bytes[72..], start);
    bytes[96..120].fill(0);
    let checksum = lists_checksum(salt, &bytes[HEADER_LEN as usize..start as usize]);
    Le::write_u32(&mut bytes[120..], checksum);
    let checksum = crc32fast::hash(&bytes[..124]);
    Le::write_u32(&mut bytes[124..], checksum);
    let mut offset = start;
    while len - offset >= 48 {
        let at = offset as usize;
        let units = u64::from(Le::read_u16(&bytes[at..]) & 0x3F);
        let batch = (units * 8).min((len - offset) & !7);
        if batch < 48 {
            let link = if units == 1 { Link::Sealed } else { Link::End };
            Le::write_u64(&mut bytes[at..], link.encode(salt, offset));
            return;
        }
        Le::write_u64(&mut bytes[at..], Link::Batch(batch).encode(salt, offset));
        let state = match bytes[at + 8] {
            0 => State::Pending,
            1 => State::Void,
            sequence => State::Committed(u64::from(sequence) - 1),
        };
        Le::write_u64(&mut bytes[at + 8..], state.encode(salt, offset));
        bytes[at + 36..at + 40].fill(0);
        if let Ok(values) = Batch::values_start(offset, batch, &bytes[at + 16..]) {
            let mut hasher = salt.value_hasher();
            hasher.update(&offset.to_le_bytes());
            hasher.update(&bytes[at + 20..at + values as usize]);
            Le::write_u32(&mut bytes[at + 16..], hasher.finalize());
        }
        offset += batch;
    }
}

/// A control file whose words are the input's.
fn control_file(words: &[u8], mended: bool) -> Vec<u8> {
    let mut bytes = vec![0; control::FILE_LEN as usize];
    for (to, from) in bytes.chunks_mut(8).zip(words.chunks(8)).take(200) {
        to[..from.len()].copy_from_slice(from);
    }
    if mended {
        let fixed = control::Fixed { store: STORE, boot: BOOT, created_unix_ms: 0 };
        bytes[..control::FIXED_LEN].copy_from_slice(&fixed.encode());
        let commit = Le::read_u64(&bytes[control::COMMIT_AT as usize..]) & ((64 << 17) - 1);
        Le::write_u64(&mut bytes[control::COMMIT_AT as usize..], commit);
    }
    bytes
}

/// Lists all values; they lie within their files.
fn listed(store: &Store) {
    let index = Index::build(&store.segments, &store.history, &store.history.beyond);
    for (key, held) in index.sorted() {
        assert_eq!(unescape(escape(key).as_bytes()).as_deref(), Ok(key));
        let mut len = 0;
        for at in &held.extents {
            let segment = &store.segments[at.segment as usize];
            let entry = &segment.entries[at.entry as usize];
            assert!(matches!(entry.kind, Kind::Append | Kind::Set));
            assert!(entry.value_offset + entry.value_len <= segment.source.len());
            len += entry.value_len;
            let salt = segment.salt().expect("a segment with entries has a header");
            value_checksum(&segment.source, salt, entry).expect("memory can be read");
        }
        assert_eq!(len, held.len);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let mended = mode & 1 == 1;
    let (words, mut rest) = data.split_at(data.len().min(if mode & 2 == 2 { 640 } else { 0 }));
    let mut segments = Vec::new();
    for id in 1..=u64::from(mode >> 2 & 3) {
        let take = if id == 3 { rest.len() } else { rest.len() / 2 };
        let (bytes, more) = rest.split_at(take);
        rest = more;
        let mut bytes = bytes.to_vec();
        if mended {
            mend(&mut bytes, id);
        }
        let name = format!("{id:016x}.seg");
        segments.push(Segment::walk(Source::memory(Path::new(&name), bytes)));
    }
    let control = (mode & 2 == 2).then(|| Control::decode(&control_file(words, mended)));
    let around = Around {
        running: (mode & 16 == 16).then_some(BOOT),
        is_open: mode & 32 == 32,
        is_segment: mode & 64 == 64,
    };
    let mut store = Store::assemble(Path::new("store"), control, segments, Vec::new(), around);
    listed(&store);
    for problem in &store.history.problems {
        assert!(!problem.to_string().is_empty());
    }
    let last = store.history.last;
    assert!(store.history.batches.iter().all(|place| place.sequence <= last));
    // What salvage reads beside it.
    let lens: Vec<u64> = store.segments.iter().map(|segment| segment.source.len()).collect();
    let rescue = store.rescue();
    listed(&store);
    let longest = lens.into_iter().max().unwrap_or(0);
    assert!(rescue.lost.iter().all(|part| part.offset + part.bytes <= longest));
});
