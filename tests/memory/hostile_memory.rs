//! The memory that a maliciously crafted store can make the engine allocate: no more than recovery
//! and the index need for the smallest possible batches and entries, times the growth of a vector.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use partd::SegmentLog;
use partd_testkit::build::{Item, STORE, Segment};

use crate::{HELD, PEAK, alone};

const FILE_LEN: u64 = 1 << 20;

/// A segment that is full of batches of these items.
fn full_of(items: impl Fn(u64) -> Vec<Item>) -> Segment {
    let mut segment = Segment::new(STORE, 1, FILE_LEN);
    for sequence in 1.. {
        let items = items(sequence);
        let bytes: usize = items.iter().map(|item| 16 + item.key.len() + item.value.len()).sum();
        if segment.offset + 48 + bytes as u64 + 16 > FILE_LEN {
            break;
        }
        segment.commit(sequence, &items);
    }
    segment
}

/// The peak memory of `work` beyond the memory in use before, as a multiple of the file's length.
fn times(what: &str, work: impl FnOnce()) -> f64 {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    let times = (PEAK.load(Ordering::Relaxed) - before) as f64 / FILE_LEN as f64;
    println!("{what}: {times:.1} times the length of the file");
    times
}

/// Opens a store for writing and for reading, and reads its index.
fn measure(what: &str, segment: &Segment, limit: f64) {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("store");
    fs::create_dir(path).unwrap();
    fs::write(path.join("0000000000000001.seg"), &segment.bytes).unwrap();
    let read_only = times(&format!("{what}, read-only"), || {
        assert!(SegmentLog::open_read_only(path).unwrap().stats().unwrap().sequence > 0);
    });
    let recovered = times(&format!("{what}, recovered"), || drop(SegmentLog::open(path).unwrap()));
    let index = times(&format!("{what}, index"), || {
        assert!(SegmentLog::open(path).unwrap().stats().unwrap().sequence > 0);
    });
    for found in [read_only, recovered, index] {
        assert!(found < limit, "{what}: {found:.1} times the length of the file");
    }
}

#[test]
fn opening_a_file_of_empty_batches_takes_memory_of_a_few_times_its_length() {
    let _alone = alone();
    measure("empty batches", &full_of(|_| Vec::new()), 10.0);
}

#[test]
fn opening_a_file_of_empty_entries_of_one_key_takes_memory_of_a_few_times_its_length() {
    let _alone = alone();
    let items = |_| vec![Item::append("", ""); 4096];
    measure("empty entries", &full_of(items), 5.0);
}

#[test]
fn opening_a_file_of_short_keys_takes_memory_of_a_few_times_its_length() {
    let _alone = alone();
    let key = |number: u64| Item::append(&number.to_be_bytes()[5..], "");
    let items = |sequence| (0..4096).map(|i| key(sequence * 4096 + i)).collect();
    measure("short keys", &full_of(items), 8.0);
}
