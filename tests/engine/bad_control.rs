//! A control file that is foreign, damaged, outdated or used up is refused, replaced or repaired;
//! no acknowledged batch is lost by it.

use std::fs;

use partd::{Partd, SegmentLog};
use partd_testkit::children::arena::{Arena, Manner};
use partd_testkit::children::judge::judge;
use partd_testkit::children::{Random, directory, seed};

use crate::bad_input::{contents, says};

#[test]
fn opening_a_directory_with_a_foreign_control_file_is_an_error() {
    let (_store_dir, path) = directory();
    // A store without batches, because a foreign control file could otherwise claim batches that
    // are missing here.
    drop(SegmentLog::open(&path).unwrap());
    let good = fs::read(path.join("control")).unwrap();
    for bytes in [&b"precious"[..], &good[..100], &[0; 100]] {
        let (dir, _) = directory();
        fs::write(dir.path().join("control"), bytes).unwrap();
        let before = contents(dir.path());
        says(SegmentLog::open(dir.path()), dir.path(), &["other files", "control"]);
        says(SegmentLog::open_read_only(dir.path()), dir.path(), &["not a partd store"]);
        assert!(contents(dir.path()) == before, "something was changed");
    }
    // A directory that a power cut may have left of a new store counts as one.
    let random = vec![0x5A; good.len()];
    for bytes in [&b""[..], &vec![0; good.len()], &random, &good] {
        let (dir, _) = directory();
        fs::write(dir.path().join("control"), bytes).unwrap();
        let p = SegmentLog::open(dir.path()).unwrap();
        p.append([("k", "v")]).unwrap();
        assert_eq!(p.get("k").unwrap(), b"v");
    }
}

/// Bad control files: missing, empty, short, zeroed, random, and random words after valid fields.
fn bad_controls(good: &[u8], random: &mut Random) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let mut noise = |from: usize| {
        let mut bytes = good.to_vec();
        bytes[from..].iter_mut().for_each(|byte| *byte = random.next() as u8);
        Some(bytes)
    };
    vec![
        ("random", noise(0)),
        ("random words", noise(64)),
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("short", Some(good[..100].to_vec())),
        ("zeroed", Some(vec![0; good.len()])),
    ]
}

#[test]
fn a_bad_control_file_after_every_process_was_killed() {
    let (dir, path) = directory();
    let seed = seed();
    let manner = Manner { pause_us: 300, long_bytes: 8 << 10, fork_every: 0 };
    let mut arena = Arena::start(&path, 3, 0, manner, seed);
    // Valid, of this store, and long outdated.
    let stale = fs::read(path.join("control")).unwrap();
    for writer in 0..3 {
        arena.wait_for("appends", |arena| arena.log.acked(writer) > 100);
    }
    let log = arena.kill_all();
    let good = fs::read(path.join("control")).unwrap();
    let mut bad = bad_controls(&good, &mut Random(seed));
    bad.extend([("stale", Some(stale)), ("as it was left", Some(good))]);
    let mut passed = None;
    for (i, (what, control)) in bad.into_iter().enumerate() {
        // Copy the store, so that every bad file meets the state that the kills left.
        let copy = dir.path().join(format!("copy {i}"));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let file = copy.join("control");
        match control {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        println!("the control file is {what}");
        let read = judge(&SegmentLog::open_read_only(&copy).unwrap(), &log);
        let opened = judge(&SegmentLog::open(&copy).unwrap(), &log);
        assert_eq!(*passed.get_or_insert(read), read);
        assert_eq!(opened, read);
    }
}

/// A control file of a closed store whose segment ids are all used up.
#[test]
fn a_control_file_without_a_next_segment_id_is_refused_and_recreated_after_removal() {
    use partd_format::control::{
        CLEAN_AT, COMMIT_AT, DURABLE_SEQ_AT, Fixed, NEXT_SEGMENT_AT, clean_stamp,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    SegmentLog::open(&path).unwrap().append([("k", "kept")]).unwrap();
    let control = path.join("control");
    let mut bytes = fs::read(&control).unwrap();
    let word = |bytes: &[u8], at: u64| {
        u64::from_le_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
    };
    let store = Fixed::decode(&bytes).unwrap().store;
    let (commit, durable_seq) = (word(&bytes, COMMIT_AT), word(&bytes, DURABLE_SEQ_AT));
    let clean = clean_stamp(&store, commit, u64::MAX, durable_seq);
    for (at, value) in [(NEXT_SEGMENT_AT, u64::MAX), (CLEAN_AT, clean)] {
        bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    }
    fs::write(&control, bytes).unwrap();
    let p = SegmentLog::open(&path).unwrap();
    assert_eq!(p.get("k").unwrap(), b"kept");
    let error = p.append([("k", "lost")]).unwrap_err().to_string();
    assert!(error.contains("control: every segment id has been used"), "{error}");
    assert_eq!(p.get("k").unwrap(), b"kept");
    drop(p);
    fs::remove_file(&control).unwrap();
    let p = SegmentLog::open(&path).unwrap();
    p.append([("k", " and more")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"kept and more");
}
