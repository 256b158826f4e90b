//! A temporary store recycles its dead segments, but never while a view can see their old contents.
//! Other stores remove them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use partd::{Options, Partd, SegmentLog};

const SEGMENT_BYTES: u64 = 64 << 10;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(SEGMENT_BYTES).compaction_dead_share(None)
}

/// Appends to a key until the store has `segments` more segments than before.
fn fill(log: &SegmentLog, byte: u8, segments: usize) -> Vec<u8> {
    let mut value = Vec::new();
    let begin = inodes(log.path(), ".seg").len();
    while inodes(log.path(), ".seg").len() < begin + segments {
        let piece = [byte; 5000];
        log.append([("k", piece)]).expect("there is space");
        value.extend_from_slice(&piece);
    }
    value
}

/// The inodes of the files whose names contain `what`.
fn inodes(dir: &Path, what: &str) -> BTreeSet<u64> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(what))
        .map(|entry| entry.metadata().expect("metadata").ino())
        .collect()
}

fn recycled(log: &SegmentLog) -> u64 {
    log.stats().expect("stats").segments_recycled
}

#[test]
fn a_temporary_store_reuses_its_files_after_a_clear_and_a_compaction() {
    let log = options().temporary().expect("a new store");
    let mut files = BTreeSet::new();
    for round in 0..6_u8 {
        let value = fill(&log, round, 5);
        assert_eq!(log.get("k").expect("readable"), value);
        let now = inodes(log.path(), ".seg");
        if round > 1 {
            let again = now.intersection(&files).count();
            assert!(again >= 4, "only {again} of {} files were recycled", now.len());
        }
        files.extend(now);
        log.clear().expect("cleared");
        log.compact().expect("compacted");
        assert!(recycled(&log) >= 4);
        assert_eq!(log.get("k").expect("readable"), b"");
    }
    log.verify().expect("whole");
}

#[test]
fn a_segment_is_not_recycled_while_a_view_shows_its_bytes() {
    let log = options().temporary().expect("a new store");
    let value = fill(&log, 1, 4);
    let view = log.view("k").expect("readable");
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert_eq!(recycled(&log), 0);
    fill(&log, 2, 4);
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert!(recycled(&log) >= 3, "segments that no view shows are recycled");
    fill(&log, 3, 4);
    let seen: Vec<u8> = view.chunks().flat_map(|chunk| chunk.iter().copied()).collect();
    assert!(seen == value, "the view has changed");
}

#[test]
fn a_shared_store_removes_dead_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = options().open(dir.path()).expect("a new store");
    fill(&log, 1, 6);
    let before = inodes(dir.path(), ".seg");
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert_eq!((recycled(&log), inodes(dir.path(), "recycled").len()), (0, 0));
    let after = inodes(dir.path(), ".seg");
    assert!(after.len() < before.len(), "{} files are left of {}", after.len(), before.len());
}

#[test]
fn hard_links_to_segments_keep_their_bytes_whatever_the_store_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, backup) = (dir.path().join("store"), dir.path().join("backup"));
    fs::create_dir(&backup).expect("a directory");
    let log = options().open(&store).expect("a new store");
    let value = fill(&log, 1, 5);
    drop(log);
    for entry in fs::read_dir(&store).expect("a directory").map(|entry| entry.expect("an entry")) {
        if entry.file_name().to_string_lossy().ends_with(".seg") {
            fs::hard_link(entry.path(), backup.join(entry.file_name())).expect("a link");
        }
    }
    let log = options().open(&store).expect("the store");
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    fill(&log, 2, 8);
    drop(log);
    let backup =
        options().open(&backup).expect("the backup is a store even without its control file");
    assert_eq!(backup.get("k").expect("readable"), value);
}

#[test]
fn the_number_of_recycled_segments_obeys_the_option() {
    for limit in [0, 2] {
        let log = options().recycled_segments(limit).temporary().expect("a new store");
        fill(&log, 1, 6);
        log.clear().expect("cleared");
        log.compact().expect("compacted");
        assert_eq!(recycled(&log), limit as u64);
        assert_eq!(inodes(log.path(), "tmp-recycled-").len(), limit);
    }
}

#[test]
fn recycled_segments_count_towards_the_size_limit_and_give_way_to_data() {
    let limit = 10 * SEGMENT_BYTES;
    let log = options().max_store_bytes(limit).temporary().expect("a new store");
    fill(&log, 1, 8);
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert!(recycled(&log) >= 6);
    // The value does not fit beside the recycled segments, and is longer than each of them.
    let long = vec![3; 5 * SEGMENT_BYTES as usize];
    log.append([("long", &long)]).expect("recycled segments made room");
    assert_eq!(log.get("long").expect("readable"), long);
    assert_eq!(recycled(&log), 0);
}
