//! Salvage: a new store that the engine opens, with all that verified and an account of the rest.

use partd::{Partd, SegmentLog};

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
fn the_account_names_every_batch_and_value_that_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut segments, control) = sample();
    segments[1].flip(345, 0); // a value of batch 3
    let offset = 256 + 96;
    segments[2].flip(offset + 50, 0); // the table of batch 6
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
    assert_eq!(document["keys_wholly_lost"], 0);
    let log = SegmentLog::open(&new).unwrap();
    assert_eq!(log.get("apple").unwrap(), b"red brown ");
    assert_eq!(log.get("pear").unwrap(), b"yellow");
    assert!(!log.contains("empty value").unwrap(), "it was in the lost batch");
    let text = on(&store, &["salvage", dir.path().join("again").to_str().unwrap()]);
    for words in ["batch 6: what was appended", "6 bytes of key apple", "1 batch; 1 value, 6 B"] {
        assert!(text.text().contains(words), "{words}:\n{}", text.text());
    }
}

#[test]
fn what_lies_behind_a_gap_is_salvaged_unless_only_the_prefix_is_wanted() {
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
