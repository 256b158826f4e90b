//! The golden files hold every case of the format as bytes, each with its decoding as text.
//!
//! The tests build the bytes with fixed salts and compare them with the files, then decode the files
//! and compare the result with the texts. `PARTD_GOLDEN=write cargo test -p partd-format --test
//! golden` rewrites both; do so only for a new case or a new format version.

use std::fmt::Write as _;
use std::path::PathBuf;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::segment::{DURABLE_END_AT, Retained};
use partd_format::word::durable_end;
use partd_format::{Ending, Scanner, State, control};
use partd_testkit::build::{Control, Item, STORE, Segment};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(name)
}

/// Compares `bytes` with the golden file, and the decoding of the file with its text.
fn check(name: &str, bytes: &[u8], decode: impl Fn(&[u8]) -> String) {
    let (file, text) = (golden(name), golden(name).with_extension("txt"));
    if std::env::var_os("PARTD_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&file, bytes).expect("the golden file can be written");
        std::fs::write(&text, decode(bytes)).expect("its text can be written");
    }
    let stored = std::fs::read(&file).expect("the golden file is there");
    let first = stored.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!((first, stored.len()), (None, bytes.len()), "{name}: first byte that differs");
    let expected = std::fs::read_to_string(&text).expect("its text is there");
    let decoded = decode(&stored);
    assert_eq!(decoded, expected, "{name}");
}

/// Decodes a whole segment to text.
fn decode_segment(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut scanner = Scanner::new(bytes).expect("the header is good");
    let header = *scanner.header();
    let store: String = header.store.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "segment {} of store {store}", header.id).unwrap();
    writeln!(out, "length {}, salt {:#018x}", header.len, header.salt.0).unwrap();
    let (created, pid, slot) = (header.created_unix_ms, header.pid, header.slot);
    writeln!(out, "created {created} by pid {pid} in slot {slot}").unwrap();
    if let Some(output) = header.output {
        let (inputs, retained) = header.lists(bytes).expect("the lists are good");
        writeln!(out, "max_seq {}", output.max_seq).unwrap();
        writeln!(out, "inputs {:?}", inputs.collect::<Vec<_>>()).unwrap();
        for Retained { id, end } in retained {
            writeln!(out, "retained segment {id} to {end}").unwrap();
        }
    }
    let end = durable_end::decode(header.salt, Le::read_u64(&bytes[DURABLE_END_AT as usize..]));
    writeln!(out, "durable_end {}", end.expect("the word durable_end is good")).unwrap();
    writeln!(out, "data from {}", header.data_start).unwrap();
    for found in scanner.by_ref() {
        write!(out, "{} +{} ", found.offset, found.len).unwrap();
        match found.state {
            Ok(State::Pending) => writeln!(out, "pending").unwrap(),
            Ok(State::Void) => writeln!(out, "void").unwrap(),
            Ok(State::Committed(sequence)) => writeln!(out, "committed {sequence}").unwrap(),
            Err(error) => writeln!(out, "{error}").unwrap(),
        }
        match found.batch {
            None => continue,
            Some(Err(error)) => writeln!(out, "  {error}").unwrap(),
            Some(Ok(batch)) => {
                let count = batch.entries().count();
                assert_eq!((count, count == 0), (batch.len(), batch.is_empty()));
                writeln!(out, "  durable_seq {}, entries {count}", batch.durable_seq()).unwrap();
                for entry in batch.entries() {
                    write!(out, "  {:?} \"{}\"", entry.kind, entry.key.escape_ascii()).unwrap();
                    if let Some(sequence) = entry.sequence {
                        write!(out, " at {sequence}").unwrap();
                    }
                    if entry.kind.has_value() {
                        let value = batch.value(&entry);
                        let (offset, len) = (entry.value_offset, entry.value_len);
                        assert_eq!(value.len() as u64, len);
                        write!(out, " {offset} +{len} \"{}\"", value.escape_ascii()).unwrap();
                    }
                    if let Err(error) = entry.check(header.salt, batch.value(&entry)) {
                        write!(out, " {error}").unwrap();
                    }
                    writeln!(out).unwrap();
                }
            }
        }
    }
    match scanner.ending().expect("the scan is over") {
        Ending::Open => writeln!(out, "{} open", scanner.offset()).unwrap(),
        Ending::Sealed => writeln!(out, "{} sealed", scanner.offset()).unwrap(),
        Ending::Broken(error) => writeln!(out, "{} broken: {error}", scanner.offset()).unwrap(),
    }
    out
}

#[test]
fn kinds_three_committed_batches_with_every_kind() {
    let mut segment = Segment::new(STORE, 1, 1024);
    segment.commit(1, &[Item::append("x", "Hello "), Item::append("y", "123")]);
    segment
        .commit(2, &[Item::append("x", "world!"), Item::set("z", "first"), Item::set("z", "void")]);
    let last = [Item::delete("y"), Item::clear(), Item::append(b"\x00\xff\"", "after")];
    segment.batch(State::Committed(3), 2, &last);
    segment.set_durable_end(segment.offset);
    segment.seal();
    check("kinds.seg", &segment.bytes, decode_segment);
}

#[test]
fn prefix_deletes_in_a_batch_between_other_entries() {
    let mut segment = Segment::new(STORE, 1, 768);
    segment.commit(1, &[Item::append("ab", "gone"), Item::append("b", "stays")]);
    let batch = [Item::append("ac", "gone"), Item::delete_prefix("a"), Item::append("ab", "new")];
    segment.commit(2, &batch);
    segment.commit(3, &[Item::delete_prefix("")]);
    check("prefix.seg", &segment.bytes, decode_segment);
}

#[test]
fn chain_pending_void_damaged_and_torn() {
    let mut segment = Segment::new(STORE, 2, 1536);
    segment.commit(1, &[Item::append("a", "one")]);
    segment.claim(64);
    segment.batch(State::Pending, 0, &[Item::append("a", "copied, not yet committed")]);
    segment.batch(State::Void, 0, &[Item::append("a", "given up")]);
    let word = segment.commit(4, &[Item::append("a", "its state word is damaged")]);
    segment.flip(word + 9, 3);
    let head = segment.commit(5, &[Item::append("a", "its header is damaged")]);
    segment.flip(head + 24, 0);
    let value = segment.commit(6, &[Item::append("a", "its value is damaged")]);
    segment.flip(value + 65, 7);
    segment.commit(7, &[Item::append("a", "whole")]);
    let torn = segment.commit(8, &[Item::append("a", "behind a torn link word")]);
    segment.bytes[torn as usize..][..2].fill(0);
    check("chain.seg", &segment.bytes, decode_segment);
}

#[test]
fn output_with_lists_and_a_column_of_sequence_numbers() {
    let retained = [Retained { id: 3, end: 320 }, Retained { id: 9, end: 4096 }];
    let mut segment = Segment::output(STORE, 0xabc, 1024, 17, &[1, 2, 5], &retained);
    segment.commit(17, &[Item::append("a", "12").at(4), Item::delete("b").at(9)]);
    segment.commit(17, &[Item::set("c", "set").at(2), Item::append("c", "more").at(17)]);
    segment.seal();
    check("output.seg", &segment.bytes, decode_segment);
}

#[test]
fn empty_segment_and_one_that_is_full_to_its_last_byte() {
    check("empty.seg", &Segment::new(STORE, 1, 512).bytes, decode_segment);
    let mut full = Segment::new(STORE, u64::MAX, 512);
    full.commit(1, &[Item::append("fills it", [b'-'; 512 - 256 - 48 - 16 - 8])]);
    assert_eq!(full.offset, 512);
    check("full.seg", &full.bytes, decode_segment);
}

#[test]
fn aligned_long_values_between_short_ones() {
    let value = |byte: char, len| byte.to_string().repeat(len);
    let mut segment = Segment::new(STORE, 1, 8192);
    let short_and_long = [Item::append("s", value('s', 1023)), Item::append("l", value('l', 1024))];
    segment.commit(1, &short_and_long);
    let around = [
        Item::append("l", value('l', 1025)),
        Item::delete("s"),
        Item::append("s", value('s', 5)),
        Item::append("l", value('l', 1030)),
    ];
    segment.commit(2, &around);
    segment.seal();
    check("aligned.seg", &segment.bytes, decode_segment);
}

#[test]
fn nothing_empty_batch_empty_key_empty_value() {
    let mut segment = Segment::new(STORE, 1, 768);
    segment.commit(1, &[]);
    segment.commit(2, &[Item::append("", "the empty key")]);
    segment.commit(3, &[Item::append("empty value", ""), Item::set("", "")]);
    segment.commit(4, &[Item::append("twice", "1"), Item::append("twice", "2")]);
    check("nothing.seg", &segment.bytes, decode_segment);
}

/// Decodes the words of a control file to text; the rest is zeros.
fn decode_control(bytes: &[u8]) -> String {
    let fixed = control::Fixed::decode(bytes).expect("the fixed fields are good");
    let word = |at: u64| Le::read_u64(&bytes[at as usize..]);
    let mut out = String::new();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    writeln!(out, "control of store {}, boot {}", hex(&fixed.store), hex(&fixed.boot)).unwrap();
    writeln!(out, "created {}", fixed.created_unix_ms).unwrap();
    let commit = control::Commit::decode(word(control::COMMIT_AT));
    writeln!(out, "commit word {commit:?}, visible {}", commit.visible()).unwrap();
    let (next, durable_seq) = (word(control::NEXT_SEGMENT_AT), word(control::DURABLE_SEQ_AT));
    let stamp = control::clean_stamp(&fixed.store, commit.encode(), next, durable_seq);
    writeln!(out, "clean {}", word(control::CLEAN_AT) == stamp).unwrap();
    let decoded = control::decode_durable_seq(&fixed.store, durable_seq);
    writeln!(out, "next_segment {next}, durable_seq {}", decoded.expect("a good word")).unwrap();
    writeln!(out, "directory_epoch {}", word(control::DIRECTORY_EPOCH_AT)).unwrap();
    writeln!(out, "durable_directory_epoch {}", word(control::DURABLE_DIRECTORY_EPOCH_AT)).unwrap();
    let failed = word(control::SYNC_FAILED_AT) == control::SYNC_FAILED;
    writeln!(out, "sync failed {failed}").unwrap();
    writeln!(out, "output {}", word(control::OUTPUT_AT)).unwrap();
    writeln!(out, "compactions {}", word(control::COMPACTIONS_AT)).unwrap();
    for slot in 0..control::SLOTS {
        let at = control::slot_at(slot);
        let pid = Le::read_u32(&bytes[(at + control::SLOT_PID_AT) as usize..]);
        if pid != 0 {
            let active = word(at + control::SLOT_ACTIVE_AT);
            let first = word(at + control::SLOT_FIRST_AT);
            writeln!(out, "slot {slot}: first segment {first}").unwrap();
            let (segment, offset) =
                (word(at + control::SLOT_SEGMENT_AT), word(at + control::SLOT_OFFSET_AT));
            writeln!(out, "slot {slot}: pid {pid}, active {active}, at {segment}:{offset}")
                .unwrap();
        }
    }
    out
}

#[test]
fn control_every_word_and_the_last_slot() {
    let mut control = Control::open(STORE, [0xB0; 16], 1_000_000);
    control.commit = control::Commit { sequence: 1_000_000, slot: 1023, done: false };
    control.next_segment = 18;
    control.directory_epoch = 21;
    control.durable_seq = 999_000;
    control.sync_failed = true;
    control.clean = true;
    control.holder = Some((1023, 77, 17));
    let mut bytes = control.encode();
    let last = control::slot_at(1023);
    Le::write_u64(&mut bytes[(last + control::SLOT_SEGMENT_AT) as usize..], 17);
    Le::write_u64(&mut bytes[(last + control::SLOT_OFFSET_AT) as usize..], 4096);
    Le::write_u64(&mut bytes[control::DURABLE_DIRECTORY_EPOCH_AT as usize..], 20);
    Le::write_u64(&mut bytes[(last + control::SLOT_FIRST_AT) as usize..], 16);
    Le::write_u64(&mut bytes[control::OUTPUT_AT as usize..], 19);
    Le::write_u64(&mut bytes[control::COMPACTIONS_AT as usize..], 3);
    check("control", &bytes, decode_control);
}
