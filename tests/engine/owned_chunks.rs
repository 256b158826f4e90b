//! The chunks of a view as `Bytes`: valid as long as they live, and each keeps only its own segment
//! alive.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use partd::{Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// Appends three pieces that are each longer than half of a segment, so that each is in a segment
/// of its own. Returns the pieces.
fn fill(log: &SegmentLog) -> Vec<Vec<u8>> {
    let pieces: Vec<Vec<u8>> = (1..=3).map(|byte| vec![byte; 40_000]).collect();
    for piece in &pieces {
        log.append([("k", piece)]).unwrap();
        log.append([("beside", piece)]).unwrap();
    }
    pieces
}

/// The number of mapped segments of a store that have no name any more.
fn unlinked(store: &Path) -> usize {
    let store = store.to_string_lossy();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_unlinked = |line: &&str| line.contains(&*store) && line.ends_with(".seg (deleted)");
    maps.lines().filter(is_unlinked).count()
}

#[test]
fn owned_chunks_outlive_delete_compaction_and_the_handle_and_pin_only_their_own_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let log = options().open(&path).unwrap();
    let pieces = fill(&log);
    let view = log.view("k").unwrap();
    let borrowed: Vec<*const u8> = view.chunks().map(<[u8]>::as_ptr).collect();
    let mut chunks: Vec<Bytes> = view.owned_chunks().collect();
    assert!(chunks.iter().map(|chunk| chunk.as_ptr()).eq(borrowed), "a chunk was copied");
    drop(view);
    log.delete(["k"]).unwrap();
    assert!(log.compact().unwrap().segments_replaced > 3);
    assert_eq!(log.get("k").unwrap(), b"");
    assert_eq!(unlinked(&path), 3, "the chunks keep the wrong number of segments alive");
    drop(log);
    fs::remove_dir_all(&path).unwrap();
    assert!(chunks == pieces, "the chunks have changed");
    // A slice keeps its own segment alive, and that one only.
    let slice = chunks[1].slice(100..200);
    chunks.truncate(1);
    assert_eq!(unlinked(&path), 2);
    drop(chunks);
    assert_eq!(unlinked(&path), 1);
    assert!(slice[..] == [2; 100]);
    drop(slice);
    assert_eq!(unlinked(&path), 0);
}

#[test]
fn owned_chunks_of_a_temporary_store_are_never_overwritten() {
    let log = options().temporary().unwrap();
    let pieces = fill(&log);
    let chunks: Vec<Bytes> = log.view("k").unwrap().owned_chunks().collect();
    let mut recycled = 0;
    for byte in 4..10_u8 {
        log.clear().unwrap();
        log.compact().unwrap();
        recycled += log.stats().unwrap().segments_recycled;
        for _ in 0..6 {
            log.append([("k", vec![byte; 40_000])]).unwrap();
        }
        assert!(chunks == pieces, "I4 is violated: a chunk has changed");
    }
    assert!(recycled > 0, "nothing else was recycled");
    drop(log);
    assert!(chunks == pieces);
}

#[test]
fn owned_chunks_are_the_chunks_of_the_view_empty_ones_included() {
    let log = options().temporary().unwrap();
    log.append([("k", "Hello "), ("k", ""), ("k", "world!")]).unwrap();
    let view = log.view("k").unwrap();
    assert_eq!(view.owned_chunks().len(), 3);
    assert!(view.owned_chunks().eq(view.chunks()));
    assert_eq!(log.view("missing").unwrap().owned_chunks().len(), 0);
    // They can be sent to another thread and freed there.
    let chunks: Vec<Bytes> = view.owned_chunks().collect();
    let text = std::thread::spawn(move || chunks.concat()).join().unwrap();
    assert_eq!(text, b"Hello world!");
}
