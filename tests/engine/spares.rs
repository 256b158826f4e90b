//! Dead segments are written anew: by whoever compacted, never while anybody can still see their
//! earlier life, and gone when their handle is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use partd::{Options, Partd, SegmentLog};

const SEGMENT_BYTES: u64 = 64 << 10;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(SEGMENT_BYTES).compaction_dead_share(None)
}

/// Appends to a key until the store has this many segments more than it began with.
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

/// The files of a kind, whatever their names are.
fn inodes(dir: &Path, what: &str) -> BTreeSet<u64> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(what))
        .map(|entry| entry.metadata().expect("metadata").ino())
        .collect()
}

#[test]
fn what_is_filled_after_a_clear_and_a_compaction_are_the_same_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = options().open(dir.path()).expect("a new store");
    let mut files = BTreeSet::new();
    for round in 0..6_u8 {
        let value = fill(&log, round, 5);
        assert_eq!(log.get("k").expect("readable"), value);
        let now = inodes(dir.path(), ".seg");
        if round > 1 {
            let again = now.intersection(&files).count();
            assert!(again >= 4, "only {again} of {} files were written anew", now.len());
        }
        files.extend(now);
        log.clear().expect("cleared");
        log.compact().expect("compacted");
        assert!(log.stats().expect("stats").segments_spare >= 4);
        assert_eq!(log.get("k").expect("readable"), b"");
    }
    log.verify().expect("whole");
}

#[test]
fn a_file_is_not_written_anew_while_a_view_shows_its_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = options().open(dir.path()).expect("a new store");
    let value = fill(&log, 1, 4);
    let view = log.view("k").expect("readable");
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert_eq!(log.stats().expect("stats").segments_spare, 0);
    fill(&log, 2, 4);
    let seen: Vec<u8> = view.chunks().flat_map(|chunk| chunk.iter().copied()).collect();
    assert!(seen == value, "the view has changed");
    // Once it is gone, the next compaction finds the files.
    drop(view);
    log.compact().expect("compacted");
    assert!(log.stats().expect("stats").segments_spare >= 3);
}

#[test]
fn a_file_is_not_written_anew_while_another_handle_has_it_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = options().open(dir.path()).expect("a new store");
    let value = fill(&log, 1, 4);
    for reader in [
        options().open(dir.path()).expect("a second handle"),
        options().open_read_only(dir.path()).expect("a reader"),
    ] {
        assert_eq!(reader.get("k").expect("readable"), value);
        let view = reader.view("k").expect("readable");
        log.compact().expect("compacted");
        let kept = log.stats().expect("stats").segments_spare;
        fill(&log, 1, 2);
        log.delete(["k"]).expect("deleted");
        log.compact().expect("compacted");
        fill(&log, 9, 4);
        let seen: Vec<u8> = view.chunks().flat_map(|chunk| chunk.iter().copied()).collect();
        assert!(seen == value, "a reader's bytes have changed; {kept} files were taken");
        log.clear().expect("cleared");
        log.append([("k", &value)]).expect("appended");
    }
}

#[test]
fn spares_are_removed_with_their_handle() {
    let dir = tempfile::tempdir().expect("a directory");
    let other = options().open(dir.path()).expect("a new store");
    let log = options().open(dir.path()).expect("a second handle");
    fill(&log, 1, 4);
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert!(!inodes(dir.path(), "tmp-spare-").is_empty());
    drop(log);
    assert!(inodes(dir.path(), "tmp-spare-").is_empty());
    drop(other);
    // Those of a handle that was killed go with the last one.
    fs::write(dir.path().join("tmp-spare-00000000000000aa"), vec![7; SEGMENT_BYTES as usize])
        .expect("written");
    drop(options().open(dir.path()).expect("the store"));
    assert!(inodes(dir.path(), "tmp-spare-").is_empty());
}

#[test]
fn there_are_no_more_spares_than_the_option_says() {
    for limit in [0, 2] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = options().spare_segments(limit).open(dir.path()).expect("a new store");
        fill(&log, 1, 6);
        log.clear().expect("cleared");
        log.compact().expect("compacted");
        assert_eq!(log.stats().expect("stats").segments_spare, limit as u64);
        assert_eq!(inodes(dir.path(), "tmp-spare-").len(), limit);
    }
}

#[test]
fn spares_count_against_the_limit_of_the_store_and_give_way_to_what_needs_the_space() {
    let dir = tempfile::tempdir().expect("a directory");
    let limit = 10 * SEGMENT_BYTES;
    let log = options().max_store_bytes(limit).open(dir.path()).expect("a new store");
    fill(&log, 1, 8);
    log.clear().expect("cleared");
    log.compact().expect("compacted");
    assert!(log.stats().expect("stats").segments_spare >= 6);
    // It does not fit beside the spares, and none of them is long enough.
    let long = vec![3; 5 * SEGMENT_BYTES as usize];
    log.append([("long", &long)]).expect("the spares have made room");
    assert_eq!(log.get("long").expect("readable"), long);
    assert_eq!(log.stats().expect("stats").segments_spare, 0);
}
