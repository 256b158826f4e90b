//! Properties of encoding and parsing for any input: what is encoded decodes to the same, and no
//! bytes make a parser panic or read outside its input.

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{ALIGNED_VALUE_MIN, HEAD_LEN, VALUE_ALIGN, WORDS_LEN};
use partd_format::segment::{HEADER_LEN, Retained, id_of_file_name};
use partd_format::word::durable_end;
use partd_format::{
    Batch, Ending, Error, Kind, Link, SEQUENCE_MAX, Salt, Scanner, SegmentHeader, State, control,
};
use partd_testkit::build::{Item, STORE, Segment, is_contradiction};
use proptest::prelude::*;

fn item() -> impl Strategy<Value = Item> {
    let bytes = |len| prop::collection::vec(any::<u8>(), 0..len);
    // A few values are long enough to be aligned.
    let value = prop_oneof![
        4 => bytes(40),
        1 => prop::collection::vec(any::<u8>(), 1020..1100),
    ];
    (0..4, bytes(12), value, 1..=SEQUENCE_MAX).prop_map(|(kind, key, value, at)| match kind {
        0 => Item::append(key, value).at(at),
        1 => Item::set(key, value).at(at),
        2 => Item::delete(key).at(at),
        _ => Item::clear().at(at),
    })
}

fn segment(output: bool, batches: &[Vec<Item>]) -> Segment {
    let len = 64 << 10;
    let mut segment = if output {
        Segment::output(STORE, 9, len, 1000, &[1, 2], &[Retained { id: 3, end: 256 }])
    } else {
        Segment::new(STORE, 9, len)
    };
    for (i, items) in batches.iter().enumerate() {
        segment.commit(i as u64 + 1, items);
    }
    segment
}

/// Returns the decoded value. An error must not contradict itself.
fn sound<T>(read: Result<T, Error>) -> Option<T> {
    read.inspect_err(|error| assert!(!is_contradiction(error), "{error}")).ok()
}

/// Decodes everything that the bytes can be, checks it against their length, and returns the number of
/// good batches.
fn read_all(bytes: &[u8]) -> usize {
    let mut batches = 0;
    if let Some(header) = sound(SegmentHeader::decode(bytes, bytes.len() as u64)) {
        if let Some((inputs, retained)) = sound(header.lists(bytes)) {
            assert!(inputs.count() * 8 + retained.count() * 16 <= bytes.len());
        }
        let _ = sound(durable_end::decode(header.salt, Le::read_u64(&bytes[128..])));
    }
    if let Some(mut scanner) = sound(Scanner::new(bytes)) {
        let salt = scanner.header().salt;
        for found in scanner.by_ref() {
            assert!(found.offset + found.len <= bytes.len() as u64);
            let _ = sound(found.state);
            if let Some(batch) = found.batch.and_then(sound) {
                batches += 1;
                let mut read = 0;
                for entry in batch.entries() {
                    assert_eq!(batch.value(&entry).len() as u64, entry.value_len);
                    read += entry.key.len() as u64 + entry.value_len;
                }
                assert!(read < found.len);
                let _ = sound(batch.check_values(salt));
            }
        }
        match scanner.ending().expect("a scan that is over has an ending") {
            Ending::Broken(error) => drop(sound::<()>(Err(error))),
            Ending::Open | Ending::Sealed => {}
        }
        assert!(scanner.next().is_none(), "a scan that is over stays over");
    }
    let _ = sound(control::Fixed::decode(bytes));
    let _ = id_of_file_name(bytes);
    batches
}

/// Corrects the checks of the header and of the batch headers after a mutation, as a hostile writer
/// would.
fn fix_checksums(bytes: &mut [u8], offsets: &[u64]) {
    let checksum = crc32fast::hash(&bytes[..124]);
    Le::write_u32(&mut bytes[124..], checksum);
    let salt = Salt(Le::read_u64(&bytes[48..]));
    for &offset in offsets {
        let at = offset as usize;
        let link = Link::Batch((Le::read_u64(&bytes[at..]) >> 24) * 8 % (1 << 43));
        Le::write_u64(&mut bytes[at..], link.encode(salt, offset));
        Le::write_u64(&mut bytes[at + 8..], State::Committed(1).encode(salt, offset));
        let Ok(Link::Batch(len)) =
            Link::decode(salt, offset, Le::read_u64(&bytes[at..]), bytes.len() as u64)
        else {
            continue;
        };
        let Ok(values) = Batch::values_start(offset, len, &bytes[at + 16..]) else { continue };
        let mut hasher = salt.value_hasher();
        hasher.update(&offset.to_le_bytes());
        hasher.update(&bytes[at + 20..at + values as usize]);
        Le::write_u32(&mut bytes[at + 16..], hasher.finalize());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encoded_values_decode_to_the_same(
        output in any::<bool>(),
        batches in prop::collection::vec(prop::collection::vec(item(), 0..6), 0..6),
    ) {
        let segment = segment(output, &batches);
        let mut scanner = Scanner::new(&segment.bytes).unwrap();
        prop_assert_eq!(*scanner.header(), segment.header);
        for (i, items) in batches.iter().enumerate() {
            let found = scanner.next().unwrap();
            prop_assert_eq!(found.state, Ok(State::Committed(i as u64 + 1)));
            let batch = found.batch.unwrap().unwrap();
            prop_assert_eq!(batch.len(), items.len());
            prop_assert_eq!(batch.has_sequences(), output);
            prop_assert_eq!(batch.check_values(segment.salt()), Ok(()));
            for (entry, item) in batch.entries().zip(items) {
                prop_assert_eq!(entry.kind, item.kind);
                prop_assert_eq!(entry.key, &item.key[..]);
                prop_assert_eq!(batch.value(&entry), &item.value[..]);
                let is_aligned = entry.value_offset.is_multiple_of(VALUE_ALIGN);
                prop_assert!(is_aligned || entry.value_len < ALIGNED_VALUE_MIN);
                prop_assert_eq!(entry.sequence, output.then_some(item.sequence));
            }
        }
        prop_assert!(scanner.next().is_none());
        prop_assert_eq!(scanner.ending(), Some(Ending::Open));
    }

    #[test]
    fn a_head_alone_parses_as_the_whole_batch_does(items in prop::collection::vec(item(), 0..6)) {
        let mut segment = Segment::new(STORE, 1, 64 << 10);
        let offset = segment.commit(1, &items);
        let body = &segment.bytes[(offset + WORDS_LEN) as usize..segment.offset as usize];
        let len = segment.offset - offset;
        let values = Batch::values_start(offset, len, &body[..32]).unwrap();
        let head = &body[..(values - WORDS_LEN) as usize];
        let (short, whole) = (
            Batch::parse_head(segment.salt(), offset, len, head).unwrap(),
            Batch::parse(segment.salt(), offset, body).unwrap(),
        );
        prop_assert!(short.entries().eq(whole.entries()));
        prop_assert_eq!(short.batch_len(), whole.batch_len());
        prop_assert!(short.entries().all(|entry| short.value(&entry).is_empty()));
        if !head.is_empty() {
            let cut = &head[..head.len() - 1];
            prop_assert!(Batch::parse_head(segment.salt(), offset, len, cut).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        read_all(&bytes);
    }

    #[test]
    fn a_bit_flip_never_causes_a_panic_and_is_detected_in_every_batch_header(
        output in any::<bool>(),
        batches in prop::collection::vec(prop::collection::vec(item(), 1..6), 1..4),
        flip in any::<prop::sample::Index>(),
    ) {
        let mut segment = segment(output, &batches);
        let used = segment.header.data_start as usize..segment.offset as usize;
        let at = used.start as u64 + flip.index(used.len()) as u64;
        let before = read_all(&segment.bytes);
        prop_assert_eq!(before, batches.len());
        let (salt, mut in_head) = (segment.salt(), false);
        for found in Scanner::new(&segment.bytes).unwrap() {
            let head_len = found.batch.unwrap().unwrap().head_len();
            in_head |= (found.offset..found.offset + head_len).contains(&at);
        }
        segment.flip(at, (at % 8) as u32);
        let after = read_all(&segment.bytes);
        if in_head {
            prop_assert!(after < before, "a flip at {at} was not detected");
        } else {
            let good = Scanner::new(&segment.bytes).unwrap().all(|found| {
                found.batch.unwrap().unwrap().check_values(salt).is_ok()
            });
            let padding = Scanner::new(&segment.bytes).unwrap().all(|found| {
                let mut entries = found.batch.unwrap().unwrap().entries();
                !entries.any(|e| (e.value_offset..e.value_offset + e.value_len).contains(&at))
            });
            prop_assert_eq!(good, padding, "the byte at {}", at);
        }
    }

    #[test]
    fn hostile_segments_with_good_checksums_are_read_without_a_panic(
        output in any::<bool>(),
        batches in prop::collection::vec(prop::collection::vec(item(), 0..6), 1..4),
        mutations in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![
                any::<u8>(), Just(0), Just(0xFF), Just(1), Just(0x80),
            ]),
            1..12,
        ),
    ) {
        let mut segment = segment(output, &batches);
        let offsets: Vec<u64> =
            Scanner::new(&segment.bytes).unwrap().map(|found| found.offset).collect();
        let used = segment.offset as usize;
        for (index, byte) in mutations {
            segment.bytes[8 + index.index(used - 8)] = byte;
        }
        fix_checksums(&mut segment.bytes, &offsets);
        read_all(&segment.bytes);
    }

    #[test]
    fn lengths_that_no_memory_holds_are_errors(
        entries in any::<u32>(), keys_len in any::<u64>(), flags in any::<u32>(), len in any::<u64>(),
    ) {
        let mut head = [0; (HEAD_LEN - WORDS_LEN) as usize];
        Le::write_u32(&mut head[4..], flags);
        Le::write_u32(&mut head[16..], entries);
        Le::write_u64(&mut head[24..], keys_len);
        if let Ok(values) = Batch::values_start(4096, len, &head) {
            prop_assert!(values <= len && values >= HEAD_LEN);
        }
        let good = Batch::parse_head(Salt(1), 4096, len, &head).is_ok();
        prop_assert!(!good, "its checksum is 0");
    }
}

/// The batch claims to be far larger than 16 GiB, and the value lengths of its rows add up to more
/// than 2^64. The parser must refuse the sum before it overflows.
#[test]
fn value_lengths_that_overflow_together_are_refused() {
    let entries = 4096_u32;
    let mut body = vec![0; 32 + entries as usize * 16];
    Le::write_u32(&mut body[16..], entries);
    for row in body[32..].chunks_exact_mut(16) {
        Le::write_u64(row, u64::MAX << 8 | 1);
    }
    let (salt, len) = (Salt(7), 1 << 60);
    let mut hasher = salt.value_hasher();
    hasher.update(&4096_u64.to_le_bytes());
    hasher.update(&body[4..]);
    Le::write_u32(&mut body, hasher.finalize());
    let error = Batch::parse_head(salt, 4096, len, &body).unwrap_err();
    assert_eq!(error.what, "length of value");
    assert!(error.offset > 4096 + HEAD_LEN, "{error}: the sixteenth row exceeds the batch");
}

/// A file that is too short for its lists is refused, whatever its length.
#[test]
fn a_header_truncated_at_any_byte_is_an_error_and_not_a_panic() {
    let segment = Segment::output(STORE, 9, 1024, 5, &[1, 2, 3], &[Retained { id: 4, end: 300 }]);
    for cut in 0..segment.bytes.len() {
        assert!(Scanner::new(&segment.bytes[..cut]).is_err(), "cut at {cut}");
        assert_eq!(
            segment.header.lists(&segment.bytes[..cut]).is_ok(),
            cut as u64 >= HEADER_LEN + 40,
            "cut at {cut}"
        );
    }
    assert!(segment.header.lists(&segment.bytes).is_ok());
}

/// The number after it would be one that no batch can have.
#[test]
fn an_output_with_a_max_seq_above_the_last_sequence_number_is_refused() {
    for (max_seq, is_good) in [(SEQUENCE_MAX, true), (SEQUENCE_MAX + 1, false), (u64::MAX, false)] {
        let header = Segment::output(STORE, 9, 1024, max_seq, &[1], &[]).header;
        assert_eq!(SegmentHeader::decode(&header.encode(), 1024).is_ok(), is_good, "{max_seq}");
    }
}

#[test]
fn encode_refuses_what_parse_would_refuse() {
    use partd_format::batch::{Layout, NewEntry};
    let good =
        NewEntry { kind: Kind::Append, key: b"k", value_len: 3, value_checksum: 1, sequence: 1 };
    let encode = |layout: &Layout, entry: NewEntry<'_>| {
        let mut out = vec![0; (layout.values_start() - WORDS_LEN) as usize];
        layout.encode(Salt(1), 256, 0, [entry], &mut out)
    };
    let mut layout = Layout::new();
    layout.add(1, 3).unwrap();
    assert!(encode(&layout, good).is_ok());
    for bad in [
        NewEntry { value_len: 2, ..good },
        NewEntry { value_len: 4, ..good },
        NewEntry { key: b"", ..good },
        NewEntry { key: b"kk", ..good },
        NewEntry { kind: Kind::Delete, ..good },
        NewEntry { kind: Kind::Clear, value_len: 0, value_checksum: 0, ..good },
    ] {
        assert!(encode(&layout, bad).is_err(), "{bad:?}");
    }
    let mut layout = Layout::with_sequences();
    layout.add(1, 3).unwrap();
    assert!(encode(&layout, good).is_ok());
    assert!(encode(&layout, NewEntry { sequence: 0, ..good }).is_err());
}
