//! A value as byte ranges of files: plain reads of the files give the value, whatever the store
//! does meanwhile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use partd::{ErrorKind, FileExtents, Options, Partd, SegmentLog};

const SEGMENT_BYTES: u64 = 64 << 10;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(SEGMENT_BYTES).compaction_dead_share(None)
}

/// Reads the value through its files, and compares the checksums.
fn read(extents: &FileExtents) -> Vec<u8> {
    let mut value = Vec::new();
    for extent in extents.iter() {
        let mut bytes = vec![0; extent.len() as usize];
        extent.file().read_exact_at(&mut bytes, extent.offset()).unwrap();
        assert_eq!(crc32fast::hash(&bytes), extent.crc32(), "I4 is violated: other bytes");
        value.extend_from_slice(&bytes);
    }
    assert_eq!(extents.len(), value.len() as u64);
    value
}

/// Appends to a key in several segments, and returns its value.
fn fill(log: &SegmentLog, key: &str, byte: u8) -> Vec<u8> {
    let pieces = (0..40).map(|i| vec![byte.wrapping_add(i); 5120 + 64 * usize::from(i)]);
    for piece in pieces.clone() {
        log.append([(key, piece)]).unwrap();
    }
    pieces.flatten().collect()
}

/// The numbers of descriptors and of mappings that this process has for files below a directory.
fn in_use(dir: &Path) -> (usize, usize) {
    let dir = dir.to_string_lossy();
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    let is_segment = |path: &str| path.contains(&*dir) && path.contains(".seg");
    let descriptors = targets.filter(|path| is_segment(&path.to_string_lossy())).count();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors, maps.lines().filter(|line| is_segment(line)).count())
}

#[test]
fn extents_give_the_value_before_during_and_after_a_compaction_and_after_the_handle() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path().join("store")).unwrap();
    let other = options().open(dir.path().join("store")).unwrap();
    let value = fill(&log, "k", 1);
    let before = log.extents("k").unwrap();
    assert_eq!(before.iter().len(), 40);
    assert!(read(&before) == value);
    thread::scope(|scope| {
        let compaction = scope.spawn(|| {
            for round in 2..6 {
                fill(&other, "beside", round);
                other.delete(["beside"]).unwrap();
                assert!(other.compact().unwrap().runs > 0);
            }
        });
        while !compaction.is_finished() {
            assert!(read(&log.extents("k").unwrap()) == value);
            assert!(read(&before) == value);
        }
    });
    let after = log.extents("k").unwrap();
    assert!(after.iter().len() < 40 && read(&after) == value);
    log.clear().unwrap();
    assert!(log.compact().unwrap().runs > 0);
    drop((log, other));
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(read(&before) == value && read(&after) == value);
}

#[test]
fn lent_values_keep_their_bytes_while_a_temporary_store_recycles_its_segments() {
    let log = options().temporary().unwrap();
    let value = fill(&log, "k", 1);
    let views = log.view_many(["k"]).unwrap();
    let extents = log.extents("k").unwrap();
    let is_whole = || {
        let viewed = views[0].chunks().collect::<Vec<_>>().concat();
        assert!(viewed == value, "I4 is violated: a view shows other bytes");
        assert!(read(&extents) == value, "I4 is violated: a file has other bytes");
    };
    let mut recycled = 0;
    for round in 2..8 {
        log.clear().unwrap();
        log.compact().unwrap();
        recycled += log.stats().unwrap().segments_recycled;
        fill(&log, "k", round);
        is_whole();
    }
    assert!(recycled > 0, "nothing else was recycled");
    drop(log);
    is_whole();
}

#[test]
fn extents_hold_one_descriptor_and_one_mapping_for_each_of_their_own_segments() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path().join("store")).unwrap();
    let mut large = Vec::new();
    for round in 0..3 {
        // Longer than half of a segment, so each is in a segment of its own.
        log.append([("one", [round; 40_000])]).unwrap();
        large.extend([round; 40_000]);
        log.append([("other", [round; 40_000])]).unwrap();
    }
    let extents = log.extents("one").unwrap();
    log.clear().unwrap();
    log.compact().unwrap();
    drop(log);
    assert_eq!(in_use(dir.path()), (3, 3));
    assert!(read(&extents) == large);
    drop(extents);
    assert_eq!(in_use(dir.path()), (0, 0));
}

#[test]
fn the_files_of_extents_are_open_for_reading_only() {
    let log = options().temporary().unwrap();
    log.append([("k", "v"), ("k", ""), ("empty", "")]).unwrap();
    let extents = log.extents("k").unwrap();
    let mut lens = extents.iter().map(|extent| (extent.len(), extent.crc32()));
    assert_eq!(lens.next(), Some((1, crc32fast::hash(b"v"))));
    assert_eq!(lens.next(), Some((0, 0)));
    for extent in extents.iter() {
        assert!(extent.file().set_len(0).is_err());
        let mut file = extent.file();
        assert!(file.write_all(b"x").is_err());
    }
    let empty = log.extents("empty").unwrap();
    assert!(empty.is_empty() && empty.iter().len() == 1 && read(&empty).is_empty());
    let missing = log.extents("missing").unwrap();
    assert!(missing.is_empty() && missing.iter().len() == 0);
}

#[test]
fn a_segment_that_was_replaced_by_hand_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = options().open(dir.path().join("store")).unwrap();
    log.append([("k", "v")]).unwrap();
    assert_eq!(log.get("k").unwrap(), b"v");
    let segment = log.path().join("0000000000000001.seg");
    let copy = dir.path().join("copy");
    fs::copy(&segment, &copy).unwrap();
    fs::rename(&copy, &segment).unwrap();
    let error = log.extents("k").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Removed, "{error}");
    assert!(error.to_string().contains("0000000000000001.seg"), "{error}");
}

#[test]
fn a_get_of_long_values_of_short_extents_allocates_no_more_than_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::open(dir.path().join("store")).unwrap();
    let mut batch = partd::Batch::new();
    for _ in 0..15_000 {
        batch.append("a", &[1; 100]).append("b", &[2; 100]);
    }
    p.write(&batch, partd::Durability::Plain).unwrap();
    for (value, byte) in p.get_many(["a", "b"]).unwrap().into_iter().zip([1, 2]) {
        assert!(value.len() == 1_500_000 && value.iter().all(|&b| b == byte));
        assert_eq!(value.capacity(), value.len());
    }
}
