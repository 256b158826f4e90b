//! Unusual input that works: nothing, empty values, repetition, a million keys, any bytes, and
//! values larger than a segment. Each is checked through the handle that wrote it, through a
//! read-only one, after reopening, and without a control file.
//!
//! Refused input is in `bad_input.rs`.

use std::fs;
use std::path::Path;

use partd::{Batch, Durability, Key, Partd, SegmentLog};

/// The smallest segment size.
const SEGMENT_LEN_BYTES: u64 = 64 << 10;

/// Writes to a new store, and checks it in every way in which it can be opened.
fn in_every_way(write: impl Fn(&SegmentLog), look: impl Fn(&SegmentLog)) {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(SEGMENT_LEN_BYTES);
    let p = options.open(path).unwrap();
    write(&p);
    look(&p);
    look(&options.open_read_only(path).unwrap());
    drop(p);
    look(&options.open_read_only(path).unwrap());
    look(&options.open(path).unwrap());
    fs::remove_file(path.join("control")).unwrap();
    look(&options.open(path).unwrap());
    let p = options.open(path).unwrap();
    p.compact().unwrap();
    look(&p);
    p.verify().unwrap();
    drop(p);
    look(&options.open(path).unwrap());
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

#[test]
fn an_empty_batch_changes_nothing() {
    let write = |p: &SegmentLog| {
        p.append([("", ""); 0]).unwrap();
        p.append_durable([("", ""); 0]).unwrap();
        p.delete([""; 0]).unwrap();
        assert!(p.pop([""; 0]).unwrap().is_empty());
        assert!(p.get_many([""; 0]).unwrap().is_empty());
    };
    in_every_way(write, |p| {
        assert!(p.keys().unwrap().is_empty());
        assert_eq!(p.stats().unwrap().sequence, 0);
    });
}

#[test]
fn an_empty_value_makes_its_key_exist() {
    let write = |p: &SegmentLog| {
        p.append([("appended", "")]).unwrap();
        p.iset("set", "").unwrap();
        p.iset("set", "too late").unwrap();
        p.append([("both", ""), ("both", "x"), ("both", "")]).unwrap();
        p.append([("deleted", "")]).unwrap();
        p.delete(["deleted"]).unwrap();
    };
    in_every_way(write, |p| {
        assert_eq!(p.keys().unwrap(), ["appended", "both", "set"].map(Key::from));
        assert!(p.contains("appended").unwrap() && p.contains("set").unwrap());
        assert!(!p.contains("deleted").unwrap());
        assert!(
            p.get_many(["appended", "both", "set", "?"]).unwrap() == [&b""[..], b"x", b"", b""]
        );
        assert_eq!(p.view("appended").unwrap().len(), 0);
    });
}

#[test]
fn the_empty_key_is_a_key() {
    let write = |p: &SegmentLog| {
        p.append([("", "a"), ("x", "b"), ("", "c")]).unwrap();
    };
    in_every_way(write, |p| {
        assert!(p.get_many(["", "x"]).unwrap() == [&b"ac"[..], b"b"]);
        assert_eq!(p.len_of("").unwrap(), 2);
        assert_eq!(p.keys().unwrap(), ["", "x"].map(Key::from));
    });
}

#[test]
fn a_key_can_occur_in_a_batch_any_number_of_times_and_order_counts() {
    let write = |p: &SegmentLog| {
        p.append([("a", "1"), ("a", "2"), ("b", "x"), ("a", "3")]).unwrap();
        let mut batch = Batch::new();
        batch.append("c", b"gone").set("c", b"s").append("c", b"t").set("c", b"late");
        batch.append("d", b"gone").delete("d").append("d", b"new").delete("e").append("e", b"");
        batch.append("f", b"gone").delete("f");
        p.write(&batch, Durability::Plain).unwrap();
        let mut many = Batch::new();
        for _ in 0..10_000 {
            many.append("g", b"0123456789");
        }
        p.write(&many, Durability::Plain).unwrap();
    };
    in_every_way(write, |p| {
        let right = [&b"123"[..], b"x", b"st", b"new", b"", b""];
        assert!(p.get_many(["a", "b", "c", "d", "e", "f"]).unwrap() == right);
        assert!(p.contains("e").unwrap() && !p.contains("f").unwrap());
        assert!(p.get("g").unwrap() == b"0123456789".repeat(10_000));
    });
    // A pop returns the value of a key once, however often the key is given.
    let p = SegmentLog::temporary().unwrap();
    p.append([("a", "1")]).unwrap();
    assert!(p.pop(["a", "b", "a"]).unwrap() == [&b"1"[..], b"", b""]);
}

#[test]
fn a_store_holds_a_million_keys() {
    const KEYS: u32 = 1_000_000;
    let value = |i: u32| i.wrapping_mul(2_654_435_761).to_le_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = SegmentLog::open(&path).unwrap();
    for first in (0..KEYS).step_by(100_000) {
        p.append((first..first + 100_000).map(|i| (i.to_be_bytes(), value(i)))).unwrap();
    }
    drop(p);
    let p = SegmentLog::open(&path).unwrap();
    assert_eq!(p.stats().unwrap().keys, u64::from(KEYS));
    let values = p.get_many((0..KEYS).map(u32::to_be_bytes)).unwrap();
    assert!((0..KEYS).zip(&values).all(|(i, found)| found[..] == value(i)));
    let keys = p.keys().unwrap();
    assert!((0..KEYS).zip(&keys).all(|(i, key)| key.as_bytes() == i.to_be_bytes()));
    p.clear().unwrap();
    assert!(p.keys().unwrap().is_empty());
}

#[test]
fn a_key_can_be_any_bytes() {
    let keys: Vec<Vec<u8>> = (0..=255_u8)
        .flat_map(|a| [vec![a], vec![a, 0], vec![0, a], vec![a, 255], vec![b'.', b'/', a]])
        .chain([b"..".to_vec(), b"/etc/passwd".to_vec(), vec![0; 1000], vec![255; 1000]])
        .chain([bytes(300_000, 7)])
        .collect();
    let mut distinct = keys.clone();
    distinct.sort();
    distinct.dedup();
    let write = |p: &SegmentLog| {
        for key in &distinct {
            p.append([(key, key)]).unwrap();
        }
    };
    in_every_way(write, |p| {
        let found = p.keys().unwrap();
        assert!(found.iter().map(Key::as_bytes).eq(distinct.iter().map(|key| &key[..])));
        assert!(p.get_many(&distinct).unwrap() == distinct);
    });
}

#[test]
fn a_value_or_a_batch_can_be_larger_than_a_segment() {
    let segment = SEGMENT_LEN_BYTES as usize;
    // Around the length of a segment, and far above it.
    let lens = [segment - 400, segment - 8, segment, segment + 1, 2 * segment, 5_000_013];
    let many: Vec<(String, Vec<u8>)> =
        (0..100).map(|i| (format!("many {i}"), bytes(3000 + i, i as u8))).collect();
    let write = |p: &SegmentLog| {
        for (i, len) in lens.iter().enumerate() {
            p.append([("small", "x")]).unwrap();
            p.append([(format!("long {i}"), bytes(*len, 1))]).unwrap();
            p.append([(format!("long {i}"), bytes(*len, 2))]).unwrap();
        }
        p.iset("set", bytes(3 * segment, 3)).unwrap();
        p.append(many.clone()).unwrap();
        p.append_durable(many.clone()).unwrap();
    };
    in_every_way(write, |p| {
        for (i, len) in lens.iter().enumerate() {
            let right = [bytes(*len, 1), bytes(*len, 2)].concat();
            assert!(p.get(format!("long {i}")).unwrap() == right, "a value of {len} bytes");
        }
        assert!(p.get("set").unwrap() == bytes(3 * segment, 3));
        assert!(p.get("small").unwrap() == b"x".repeat(lens.len()));
        let found = p.get_many(many.iter().map(|(key, _)| key)).unwrap();
        assert!(found.iter().zip(&many).all(|(found, (_, value))| *found == value.repeat(2)));
    });
}
