//! Salvage: creates a store that the engine opens, with everything that verified, and an account of
//! the rest.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use partd::{Partd, SegmentLog};
use partd_format::State;
use partd_format::segment::Retained;
use serde_json::json;

use crate::support::build::{Control, Item, STORE, Segment};
use crate::support::{boot, on, sample, sample_store, sample_values, write_store};

#[test]
fn a_healthy_store_is_salvaged_whole_and_the_engine_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let new = dir.path().join("new");
    let ran = on(&store, &["salvage", new.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.text().contains("lost      nothing"), "{}", ran.text());
    assert_eq!(on(&new, &["verify"]).code, 0);
    let log = SegmentLog::open(&new).unwrap();
    let keys: Vec<Vec<u8>> = log.keys().unwrap().iter().map(|k| k.as_bytes().to_vec()).collect();
    let values = sample_values();
    assert_eq!(keys, values.keys().cloned().collect::<Vec<_>>());
    for (key, value) in &values {
        assert_eq!(&log.get(&key[..]).unwrap(), value);
    }
    log.iset("pear", "not again").unwrap();
    assert_eq!(log.get("pear").unwrap(), b"yellow", "what was set stays set");
    log.iset("apple", "first set").unwrap();
    assert_eq!(log.get("apple").unwrap(), b"first set", "what was appended can be set");
    log.append([("more", "x")]).unwrap();
    log.verify().unwrap();
}

#[test]
fn the_report_names_every_batch_and_value_that_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    segments[1].flip(345, 0); // a value of batch 3
    let table = 256 + 96 + 48;
    segments[2].bytes[table..table + 8].fill(0xFF); // the table of batch 6
    let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
    let new = dir.path().join("new");
    let ran = on(&store, &["salvage", "--json", new.to_str().unwrap()]);
    let document = ran.json();
    assert_eq!(ran.code, 1, "{document:#}");
    assert_eq!(document["lost_batches"], serde_json::json!([[6, 6]]), "{document:#}");
    let lost = document["lost_values"].as_array().unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0]["key"].as_str(), lost[0]["bytes"].as_u64()), (Some("apple"), Some(6)));
    assert!(lost[0]["why"].as_str().unwrap().contains("checksum of value at offset 343"));
    assert_eq!(document["keys_entirely_lost"], 0);
    let log = SegmentLog::open(&new).unwrap();
    assert_eq!(log.get("apple").unwrap(), b"red brown ");
    assert_eq!(log.get("pear").unwrap(), b"yellow");
    assert!(!log.contains("empty value").unwrap(), "it was in the lost batch");
    let text = on(&store, &["salvage", dir.path().join("again").to_str().unwrap()]);
    for words in ["batch 6:", "6 bytes of key apple", "1 batch; 1 value, 6 B"] {
        assert!(text.text().contains(words), "{words}:\n{}", text.text());
    }
}

#[test]
fn batches_after_a_gap_are_salvaged_unless_only_the_prefix_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(STORE, 1, 4096);
    segment.commit(1, &[Item::append("a", "1")]);
    segment.commit(3, &[Item::append("a", "3")]);
    let store = write_store(dir.path(), &[&segment], None);
    let salvage = |name: &str, args: &[&str]| {
        let new = dir.path().join(name);
        let ran = on(&store, &[&["salvage", new.to_str().unwrap()], args].concat());
        assert_eq!(ran.code, 0, "above the mark nothing was promised: {ran:?}");
        SegmentLog::open(&new).unwrap().get("a").unwrap()
    };
    assert_eq!(salvage("all", &[]), b"13");
    assert_eq!(salvage("prefix", &["--prefix-only"]), b"1");
}

#[test]
fn a_large_store_of_large_values_and_an_empty_one_are_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let large: Vec<u8> = (0..70_u32 << 20).map(|i| (i >> 7) as u8).collect();
    {
        let log = SegmentLog::open(&store).unwrap();
        log.append([("large", &large[..])]).unwrap();
        log.append((0..20_000).map(|i| (i, [i as u8; 10]))).unwrap();
    }
    let new = dir.path().join("new");
    let ran = on(&store, &["salvage", "--json", new.to_str().unwrap()]);
    let document = ran.json();
    assert_eq!((ran.code, document["keys"].as_u64()), (0, Some(20_001)), "{document:#}");
    assert!(document["segments"].as_u64().unwrap() >= 2, "{document:#}");
    let log = SegmentLog::open(&new).unwrap();
    assert!(log.get("large").unwrap() == large);
    assert_eq!(log.get(19_999).unwrap(), [19_999_u32 as u8; 10]);
    assert_eq!(log.keys().unwrap().len(), 20_001);

    let control = Control { next_segment: 1, clean: true, ..Control::open(STORE, boot(), 0) };
    let empty = write_store(&dir.path().join("empty"), &[], Some(&control));
    assert_eq!(on(&empty, &[]).code, 0);
    let new = dir.path().join("new empty");
    assert_eq!(on(&empty, &["salvage", new.to_str().unwrap()]).code, 0);
    assert!(SegmentLog::open(&new).unwrap().keys().unwrap().is_empty());
}

/// Salvages `segments` as a store. Returns the exit code, the account, and the values in the new
/// store.
fn salvaged(
    dir: &Path,
    segments: &[Segment],
    control: Option<&Control>,
) -> (i32, serde_json::Value, BTreeMap<Vec<u8>, Vec<u8>>) {
    let store = write_store(dir, &segments.iter().collect::<Vec<_>>(), control);
    salvaged_path(dir, &store)
}

fn salvaged_path(dir: &Path, path: &Path) -> (i32, serde_json::Value, BTreeMap<Vec<u8>, Vec<u8>>) {
    let new = dir.join("new");
    let ran = on(path, &["salvage", "--json", new.to_str().unwrap()]);
    let log = SegmentLog::open(&new).unwrap();
    let keys = log.keys().unwrap();
    let values = keys.iter().map(|key| (key.as_bytes().to_vec(), log.get(key).unwrap())).collect();
    (ran.code, ran.json(), values)
}

/// The offset of the first batch in the sample's second segment, which holds batches 3 and 5, a
/// void one, and 7.
const FIRST: u64 = 256;

#[test]
fn one_flipped_bit_of_a_link_header_state_or_table_costs_nothing() {
    // In segment 2, some fields of the header; in batch 3, the link word, the state word, the
    // checksum, the lengths, the table and the keys.
    let header = [3, 9, 13, 20, 33, 41, 50, 74, 100, 126].map(|at| (at, 2));
    let batch = [0, 6, 8, 15, 16, 21, 24, 32, 34, 37, 40, 49, 57, 61, 82].map(|at| (FIRST + at, 5));
    for (at, bit) in header.into_iter().chain(batch) {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, control) = sample();
        segments[1].flip(at, bit);
        let (code, account, values) = salvaged(dir.path(), &segments, Some(&control));
        assert!(values == sample_values(), "byte {at}, bit {bit}: {account:#} {values:?}");
        assert_eq!(account["lost_batches"], json!([]), "byte {at}: {account:#}");
        assert_eq!(account["lost_values"], json!([]), "byte {at}: {account:#}");
        assert_eq!(code, 1, "byte {at}: the old store is damaged: {account:#}");
        assert_ne!(account["repaired"].as_array().unwrap().len(), 0, "byte {at}: {account:#}");
    }
}

#[test]
fn batches_after_a_link_word_beyond_repair_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    // Batch 3 is lost with its link word; 5 and 7 follow it.
    segments[1].bytes[256..304].fill(0xAB);
    let (code, account, values) = salvaged(dir.path(), &segments, Some(&control));
    assert_eq!(code, 1);
    assert_eq!(account["lost_batches"], json!([[3, 3]]), "{account:#}");
    assert_eq!(account["batches_found"], 2, "{account:#}");
    let mut expected = sample_values();
    expected.remove(&b"\x00\xff"[..]);
    expected.insert(b"apple".to_vec(), [&b"red brown "[..], &[b'.'; 700]].concat());
    assert_eq!(values, expected);
}

#[test]
fn a_header_beyond_repair_is_trusted_as_far_as_batches_verify_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    // Everything but the salt.
    segments[1].bytes[..48].fill(0x5A);
    segments[1].bytes[56..128].fill(0xA5);
    let (code, account, values) = salvaged(dir.path(), &segments, Some(&control));
    assert_eq!((code, &account["lost_batches"]), (1, &json!([])), "{account:#}");
    assert_eq!(values, sample_values());
    // The same segment as a single file: only its own batches are read.
    let path = dir.path().join("store/0000000000000002.seg");
    let alone = tempfile::tempdir().unwrap();
    let (code, account, values) = salvaged_path(alone.path(), &path);
    assert_eq!(code, 1, "{account:#}");
    let keys: Vec<&[u8]> = values.keys().map(|key| &key[..]).collect();
    assert_eq!(keys, [&b"\x00\xff"[..], b"apple", b"pear"]);
    assert_eq!(values[&b"apple"[..]], b"green ");
    let dumped = on(&path, &["dump"]);
    assert_eq!(dumped.code, 1, "{dumped:?}");
    assert!(dumped.text().contains("5a 5a 5a 5a") && dumped.text().contains("magic"), "{dumped:?}");
}

#[test]
fn a_batch_whose_state_word_is_gone_gets_the_one_number_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    segments[1].bytes[264..272].fill(0x77);
    let (code, account, values) = salvaged(dir.path(), &segments, Some(&control));
    assert_eq!((code, &account["lost_batches"]), (1, &json!([])), "{account:#}");
    assert_eq!(values, sample_values());
}

#[test]
fn a_batch_that_was_given_up_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    // A power cut tore batch 3 and cut off all after it; later appends wrote 3 and 4 to another
    // segment.
    let mut old = Segment::new(STORE, 1, 4096);
    old.commit(1, &[Item::append("a", "1")]);
    old.commit(2, &[Item::append("a", "2")]);
    let torn = old.commit(3, &[Item::append("a", "torn")]);
    old.commit(4, &[Item::append("a", "given up")]);
    old.commit(5, &[Item::append("a", "given up")]);
    old.bytes[torn as usize..torn as usize + 8].fill(0xEE);
    let mut new = Segment::new(STORE, 2, 4096);
    new.commit(3, &[Item::append("a", "3")]);
    new.commit(4, &[Item::append("a", "4")]);
    let control = Control { next_segment: 3, clean: true, ..Control::open(STORE, boot(), 4) };
    let (code, account, values) = salvaged(dir.path(), &[old, new], Some(&control));
    assert_eq!((code, &account["batches_found"]), (0, &json!(0)), "{account:#}");
    assert_eq!(values[&b"a"[..]], b"1234");
}

/// An input, its output, and a segment that the output retains, with the sequence numbers 1 to 5.
fn compacted() -> Vec<Segment> {
    let mut one = Segment::new(STORE, 1, 4096);
    one.commit(1, &[Item::append("a", "one ")]);
    one.commit(3, &[Item::append("a", "three ")]);
    one.seal();
    let mut kept = Segment::new(STORE, 2, 4096);
    kept.commit(2, &[Item::append("b", "two ")]);
    let end = kept.offset;
    kept.commit(4, &[Item::append("a", "four")]);
    kept.commit(5, &[Item::append("b", "five")]);
    let retained = [Retained { id: 2, end }];
    let mut output = Segment::output(STORE, 3, 4096, 3, &[1], &retained);
    // Batches 1 and 3 hold adjacent extents of the key, so they become one entry under the higher
    // number.
    let state = State::Committed(3);
    output.batch(state, 3, &[Item::append("a", "one three ").at(3)]);
    output.seal();
    vec![one, kept, output]
}

fn compacted_values() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pairs = [(&b"a"[..], &b"one three four"[..]), (b"b", b"two five")];
    pairs.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn an_output_and_its_inputs_never_both_count() {
    // The output is intact; has one flipped bit in its lists; has lists beyond repair; and the
    // cases without its input.
    type Corrupt = fn(&mut Vec<Segment>);
    let cases: [(&str, Corrupt); 5] = [
        ("whole", |_| {}),
        ("lists, one bit", |s| s[2].flip(257, 1)),
        ("lists", |s| s[2].bytes[256..264].fill(0x99)),
        ("lists, no sources", |s| {
            s[2].bytes[256..264].fill(0x99);
            s.remove(0);
        }),
        ("no sources", |s| drop(s.remove(0))),
    ];
    for (name, corrupt) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = compacted();
        corrupt(&mut segments);
        let (_, account, values) = salvaged(dir.path(), &segments, None);
        assert_eq!(values, compacted_values(), "{name}: {account:#}");
        let read = on(&dir.path().join("store"), &["get", "a"]);
        assert_eq!(read.stdout, b"one three four", "{name}: get counts them once, too");
    }
}

#[test]
fn a_damaged_output_is_set_aside_for_its_inputs_or_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = compacted();
    let at = segments[2].header.data_start as usize + 48;
    // The table of the output's only batch.
    segments[2].bytes[at..at + 16].fill(0xFF);
    let (code, account, values) = salvaged(dir.path(), &segments, None);
    assert_eq!((code, values), (1, compacted_values()), "{account:#}");
    assert_eq!(account["outputs_set_aside"].as_array().unwrap().len(), 1, "{account:#}");
    assert_eq!(account["lost_parts"], json!([]), "{account:#}");
    // Without the input the bytes are lost, and the account gives the sequence numbers they may
    // have had.
    segments.remove(0);
    let dir = tempfile::tempdir().unwrap();
    let (code, account, values) = salvaged(dir.path(), &segments, None);
    assert_eq!((code, &values[&b"a"[..]][..]), (1, &b"four"[..]), "{account:#}");
    let part = &account["lost_parts"][0];
    assert_eq!(part["max_seq"], 3, "{account:#}");
    assert!(part["file"].as_str().unwrap().ends_with("0000000000000003.seg"), "{account:#}");
    assert_eq!(account["lost_parts"].as_array().unwrap().len(), 1, "{account:#}");
    let text = on(&dir.path().join("store"), &["salvage", dir.path().join("x").to_str().unwrap()]);
    assert!(text.text().contains("1 part of a segment"), "{}", text.text());
}

/// A power cut may come before the inputs are unlinked, and their data may never have reached the
/// disk.
#[test]
fn an_output_is_not_set_aside_for_a_torn_input() {
    for what in ["from its second batch on", "its last value"] {
        let mut source = Segment::new(STORE, 1, 4096);
        source.commit(1, &[Item::append("a", "one")]);
        let second = source.commit(2, &[Item::append("b", "two")]) as usize;
        source.seal();
        let mut output = Segment::output(STORE, 2, 4096, 2, &[1], &[]);
        let first = output.batch(State::Committed(2), 2, &[Item::append("a", "one").at(1)]);
        output.batch(State::Committed(2), 2, &[Item::append("b", "two").at(2)]);
        output.seal();
        // Damage the table of the output's first batch, and a part of the input.
        output.bytes[first as usize + 48..][..16].fill(0xFF);
        match what {
            "its last value" => source.bytes[second + 48 + 16 + 1..][..3].fill(0),
            _ => source.bytes[second..].fill(0),
        }
        let dir = tempfile::tempdir().unwrap();
        let (code, account, values) = salvaged(dir.path(), &[source, output], None);
        assert_eq!(code, 1, "{what}: {account:#}");
        assert_eq!(values.get(&b"b"[..]), Some(&b"two".to_vec()), "{what}: {account:#}");
        assert_eq!(account["outputs_set_aside"], json!([]), "{what}: {account:#}");
    }
}

#[test]
fn a_salvaged_store_is_private_and_on_stable_storage() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let new = dir.path().join("new");
    assert_eq!(on(&store, &["salvage", new.to_str().unwrap()]).code, 0);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&new), mode(&new.join("0000000000000001.seg"))), (0o700, 0o600));
    let summary = on(&new, &[]).text();
    assert!(!summary.contains("not yet on stable storage"), "{summary}");
    let document = on(&new, &["segments", "--json"]).json();
    let segment = &document["segments"][0];
    assert_eq!(segment["durable_end"], segment["used_bytes"], "{document:#}");
}
