//! The `expected` and `found` of an error never contradict each other. The tests try the values just
//! outside each range, 0 included.

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{ENTRY_LEN, HEAD_LEN};
use partd_format::{Error, SEQUENCE_MAX, Scanner, SegmentHeader};
use partd_testkit::build::{Item, STORE, Segment, is_contradiction};

/// Builds an output with one batch of one entry.
fn output() -> Segment {
    let mut segment = Segment::output(STORE, 2, 4096, 9, &[1], &[]);
    segment.commit(9, &[Item::append("key", "value").at(9)]);
    segment
}

/// Changes the header of the only batch, corrects its checksum, and returns the error.
fn batch_error(change: impl Fn(&mut [u8])) -> Error {
    let mut segment = output();
    let (salt, offset) = (segment.salt(), segment.header.data_start);
    let head = &mut segment.bytes[offset as usize..segment.offset as usize];
    change(head);
    let values = (HEAD_LEN + ENTRY_LEN) as usize + 8 + "key".len();
    let mut hasher = salt.value_hasher();
    hasher.update(&offset.to_le_bytes());
    hasher.update(&head[20..values]);
    Le::write_u32(&mut head[16..], hasher.finalize());
    let found = Scanner::new(&segment.bytes).unwrap().next().unwrap();
    found.batch.unwrap().unwrap_err()
}

#[test]
fn an_error_about_the_kind_of_entry_names_the_valid_range() {
    for (kind, shown) in [(0, "0"), (6, "6"), (255, "255")] {
        let error = batch_error(|head| head[HEAD_LEN as usize] = kind);
        assert!(!is_contradiction(&error), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("kind of entry at offset "), "{text}");
        assert!(text.ends_with(&format!(": expected 1 to 5, found {shown}")), "{text}");
    }
}

#[test]
fn an_error_about_the_sequence_number_of_an_entry_names_the_valid_range() {
    for number in [0, SEQUENCE_MAX + 1, u64::MAX] {
        let at = (HEAD_LEN + ENTRY_LEN) as usize;
        let error = batch_error(|head| Le::write_u64(&mut head[at..], number));
        assert!(!is_contradiction(&error), "{error}");
        let expected =
            format!("sequence number of entry at offset {}: expected 1 to ", error.offset);
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn an_error_about_the_kind_of_segment_names_the_valid_range() {
    for kind in [0, 3, u32::MAX] {
        let mut segment = output();
        Le::write_u32(&mut segment.bytes[12..], kind);
        let checksum = crc32fast::hash(&segment.bytes[..124]);
        Le::write_u32(&mut segment.bytes[124..], checksum);
        let error = SegmentHeader::decode(&segment.bytes, 4096).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("kind of segment at offset 12: expected 1 to 2, found {kind}")
        );
    }
}
