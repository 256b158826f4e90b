//! Bad input is refused with an error that names the path and says what to do. Nothing is lost and
//! nothing is changed.
//!
//! Control files are in `bad_control.rs`; unusual input that works is in `odd_input.rs`; handles
//! used after `fork`, missing rights and read-only directories are in `tests/processes`; network
//! file systems are in `network.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use partd::{Batch, Durability, Error, Partd, SegmentLog};
use partd_format::batch::{KEY_LEN_MAX, Layout};
use partd_format::segment::{SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};
use partd_format::word::BATCH_LEN_MAX;
use partd_testkit::build;
use partd_testkit::children::{self, directory};

/// Every file below a directory with its bytes.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
            files.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// Returns the message of an error, which must name `path` and contain `words`.
#[track_caller]
pub(crate) fn says<T>(result: Result<T, Error>, path: &Path, words: &[&str]) {
    let error = result.err().expect("it is refused");
    let message = error.to_string();
    assert!(message.contains(&*path.to_string_lossy()), "the path is not named: {message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not said: {message}");
    }
}

/// Creates a store with a few values and closes it.
fn store(path: &Path) {
    let p = SegmentLog::options().segment_len_bytes(64 << 10).open(path).unwrap();
    p.append([("a", vec![7; 100_000]), ("b", b"1".to_vec())]).unwrap();
    p.append([("b", "2")]).unwrap();
}

fn is_whole(path: &Path) {
    let p = SegmentLog::open(path).unwrap();
    assert!(p.get_many(["a", "b"]).unwrap() == [&vec![7; 100_000][..], b"12"]);
    p.verify().unwrap();
}

#[test]
fn opening_a_path_that_is_a_file_is_an_error() {
    let (_dir, path) = directory();
    fs::write(&path, "precious").unwrap();
    says(SegmentLog::open(&path), &path, &["this is a file", "give the path"]);
    says(SegmentLog::open_read_only(&path), &path, &["this is a file"]);
    let below = path.join("store");
    says(SegmentLog::open(&below), &below, &["this is a file"]);
    says(SegmentLog::options().temporary_in(&path), &path, &[]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn opening_an_impossible_path_is_an_error() {
    for path in ["", "/proc/self/nothing here", "a\0b"] {
        says(SegmentLog::open(path), Path::new(path), &["cannot"]);
    }
    let long = "x".repeat(5000);
    says(SegmentLog::open(&long), Path::new(&long), &["cannot"]);
}

#[test]
fn opening_a_directory_with_foreign_files_is_an_error() {
    let (dir, _) = directory();
    fs::write(dir.path().join("precious"), "x").unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    let before = contents(dir.path());
    says(SegmentLog::open(dir.path()), dir.path(), &["other files", "empty or a new directory"]);
    says(SegmentLog::open_read_only(dir.path()), dir.path(), &["not a partd store"]);
    assert!(contents(dir.path()) == before, "something was changed");
}

/// Names similar to those of a store's files.
const STRANGERS: [&str; 10] = [
    "tmp-x",
    "tmp-writer-12",
    "tmp-control-of-mine",
    "1.seg",
    "holiday.seg",
    "00000000000000AB.seg",
    "notes.lock",
    "writer-12345.lock",
    "a.torn",
    "control.txt",
];

#[test]
fn foreign_files_are_neither_taken_for_a_store_nor_removed_from_one() {
    for name in STRANGERS {
        let (dir, path) = directory();
        fs::write(dir.path().join(name), "precious").unwrap();
        let before = contents(dir.path());
        says(SegmentLog::open(dir.path()), dir.path(), &["other files", name]);
        says(SegmentLog::open_read_only(dir.path()), dir.path(), &["not a partd store", name]);
        assert!(contents(dir.path()) == before, "something was changed");
        // In a store they are left alone, even by recovery.
        store(&path);
        fs::write(path.join(name), "precious").unwrap();
        fs::remove_file(path.join("control")).unwrap();
        is_whole(&path);
        assert_eq!(fs::read(path.join(name)).unwrap(), b"precious", "{name}");
    }
}

#[test]
fn opening_a_directory_without_a_store_for_reading_is_an_error() {
    let (dir, missing) = directory();
    for path in [dir.path(), &missing] {
        says(SegmentLog::open_read_only(path), path, &["no store", "`SegmentLog::open`"]);
    }
    assert!(contents(dir.path()).is_empty());
}

/// Modifies the bytes of a file in place.
fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes a header to the next version of the format and corrects its checksum.
fn make_newer(bytes: &mut [u8], checksum_at: usize) {
    bytes[8..12].copy_from_slice(&(partd_format::VERSION + 1).to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..checksum_at]);
    bytes[checksum_at..checksum_at + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn opening_a_store_of_a_newer_format_is_an_error() {
    let (_dir, path) = directory();
    store(&path);
    let segment = path.join("0000000000000001.seg");
    let control = path.join("control");
    let whole = [fs::read(&control).unwrap(), fs::read(&segment).unwrap()];
    let words = &["format version 2", "reads version 1", "newer release"];
    patch(&control, |bytes| make_newer(bytes, 56));
    says(SegmentLog::open(&path), &control, words);
    says(SegmentLog::open_read_only(&path), &control, words);
    // A segment alone is rejected when it is read, with and without the control file.
    fs::write(&control, &whole[0]).unwrap();
    patch(&segment, |bytes| make_newer(bytes, 124));
    says(SegmentLog::open(&path).and_then(|p| p.get("a")), &segment, words);
    says(SegmentLog::open_read_only(&path).and_then(|p| p.get("a")), &segment, words);
    fs::remove_file(&control).unwrap();
    says(SegmentLog::open(&path), &segment, words);
    says(SegmentLog::open_read_only(&path), &segment, words);
    // Nothing was changed: with the original segment, everything is readable.
    fs::write(&segment, &whole[1]).unwrap();
    is_whole(&path);
}

#[test]
fn opening_a_store_with_a_segment_of_another_store_is_an_error() {
    let (dir, path) = directory();
    let other = dir.path().join("other");
    store(&path);
    store(&other);
    let foreign = other.join("0000000000000001.seg");
    let words = &["belongs to another store", "not touched"];
    // Beside the store's own segments, with a higher id.
    let stray = path.join("00000000000000ff.seg");
    fs::copy(&foreign, &stray).unwrap();
    says(SegmentLog::open(&path), &stray, words);
    says(SegmentLog::open_read_only(&path), &stray, words);
    fs::remove_file(&stray).unwrap();
    is_whole(&path);
    // In place of one of its segments.
    let own = path.join("0000000000000001.seg");
    let bytes = fs::read(&own).unwrap();
    fs::copy(&foreign, &own).unwrap();
    says(SegmentLog::open(&path).and_then(|p| p.get("a")), &own, words);
    says(SegmentLog::open_read_only(&path).and_then(|p| p.get("a")), &own, words);
    fs::write(&own, bytes).unwrap();
    is_whole(&path);
    // One of its own segments under another name.
    fs::copy(&own, &stray).unwrap();
    says(SegmentLog::open(&path), &stray, &["segment 0x1", "under another name"]);
    fs::remove_file(&stray).unwrap();
    is_whole(&path);
}

#[test]
fn a_segment_size_out_of_range_is_an_error() {
    let (_dir, path) = directory();
    for len in [0, 1, SEGMENT_LEN_MIN - 1, SEGMENT_LEN_MAX + 1, u64::MAX] {
        let options = SegmentLog::options().segment_len_bytes(len);
        let parent = path.parent().unwrap();
        for (path, result) in
            [(&*path, options.open(&path)), (parent, options.temporary_in(parent))]
        {
            let message = result.unwrap_err().to_string();
            assert!(message.starts_with(&*path.to_string_lossy()), "{message}");
            assert!(message.contains(&format!("segment_len_bytes is {len}")), "{message}");
            assert!(message.contains("64 KiB") && message.contains("4 GiB"), "{message}");
        }
        assert!(!path.exists(), "it was made");
    }
    for len in [SEGMENT_LEN_MIN, SEGMENT_LEN_MIN + 1, SEGMENT_LEN_MAX] {
        SegmentLog::options().segment_len_bytes(len).open(&path).unwrap();
    }
}

#[test]
fn values_keys_and_batches_beyond_the_limits_of_the_format_are_errors() {
    let mut layout = Layout::new();
    for (key, value) in [
        (KEY_LEN_MAX + 1, 0),
        (u64::MAX, 0),
        (0, BATCH_LEN_MAX + 1),
        (0, BATCH_LEN_MAX),
        (0, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        assert!(layout.add(key, value).is_err(), "{key} {value}");
        assert_eq!(layout, Layout::new(), "a failed entry leaves the layout as it was");
    }
    // The longest possible one: 48 bytes before the table, 16 in it, 63 to align the value.
    assert!(layout.add(0, BATCH_LEN_MAX - 64 - 55).is_err());
    layout.add(0, BATCH_LEN_MAX - 64 - 63).unwrap();
    assert_eq!(layout.batch_len(8), BATCH_LEN_MAX);
    assert!(layout.add(0, 0).is_err());
    let mut many = Layout::new();
    for _ in 0..(BATCH_LEN_MAX >> 40) {
        many.add(8, 1 << 40).unwrap();
    }
    assert!(many.add(8, 1 << 40).is_err(), "8 TiB in sum");
}

#[test]
fn a_batch_beyond_the_limit_of_the_format_is_refused_before_anything_is_read_or_written() {
    let (_dir, path) = directory();
    store(&path);
    let p = SegmentLog::open(&path).unwrap();
    let before = contents(&path);
    // Zeroed memory that is never touched, used in so many entries that they add up to 8 TiB.
    let gibibyte = vec![0; 1 << 30];
    let mut batch = Batch::new();
    for _ in 0..(8 << 10) {
        batch.append("too long", &gibibyte);
    }
    let since = Instant::now();
    for durability in [Durability::Plain, Durability::Durable] {
        let error = p.write(&batch, durability).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Invalid(_)), "{message}");
        assert!(message.starts_with(&*path.to_string_lossy()), "{message}");
        assert!(
            message.contains("\"too long\"") && message.contains("may be at most"),
            "{message}"
        );
    }
    assert!(since.elapsed() < Duration::from_secs(20), "the values were read");
    assert!(contents(&path) == before, "something was written");
    p.append([("b", "3")]).unwrap();
    assert_eq!(p.get("b").unwrap(), b"123");
}

#[test]
fn more_writers_than_slots_are_an_error() {
    let (_dir, path) = directory();
    // Each handle opens seven files: its directory, the control file, a segment, and locks.
    const FILES: u64 = 1100 * 7;
    let nofile = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(nofile);
    if limit.current.is_some_and(|current| current < FILES) {
        limit.current = limit.maximum;
        rustix::process::setrlimit(nofile, limit).unwrap();
        if limit.maximum.is_some_and(|maximum| maximum < FILES) {
            children::skip(&format!("a process can open only {:?} files", limit.maximum));
            return;
        }
    }
    let options = SegmentLog::options().segment_len_bytes(64 << 10);
    let since = Instant::now();
    let mut handles = Vec::new();
    for i in 0..1024_u32 {
        let p = options.open(&path).unwrap();
        p.append([("k", i.to_le_bytes())]).unwrap();
        handles.push(p);
    }
    let taken = since.elapsed();
    println!("1,024 writers in {taken:.1?}");
    assert!(taken < Duration::from_secs(60), "{taken:?}");
    // One more writer gets an error, on a second attempt too, and can still read.
    let p = options.open(&path).unwrap();
    let right: Vec<u8> = (0..1024_u32).flat_map(u32::to_le_bytes).collect();
    for _ in 0..2 {
        says(p.append([("k", "x")]), &path, &["all of its 1024 writer slots", "close some"]);
        assert!(p.get("k").unwrap() == right);
    }
    says(p.pop(["k"]), &path, &["close some"]);
    // Closing a handle makes room.
    drop(handles.swap_remove(512));
    p.append([("k", "x")]).unwrap();
    for p in [&handles[0], &handles[1000], &p] {
        assert_eq!(p.len_of("k").unwrap(), 4097);
    }
    drop(handles);
    drop(p);
    assert_eq!(SegmentLog::open(&path).unwrap().len_of("k").unwrap(), 4097);
}

#[test]
fn a_segment_name_that_is_a_dangling_link_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for value in ["1", "2"] {
        SegmentLog::open(&path).unwrap().append([("k", value)]).unwrap();
    }
    // A dangling link, as if the segment had been moved to a disk that is not mounted.
    let segment = path.join("0000000000000001.seg");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&segment, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &segment).unwrap();
    assert_eq!(SegmentLog::open_read_only(&path).unwrap().get("k").unwrap(), b"12");
    fs::rename(&elsewhere, dir.path().join("gone")).unwrap();
    let error = SegmentLog::open_read_only(&path).and_then(|p| p.get("k")).unwrap_err();
    assert!(error.to_string().contains("0000000000000001.seg"), "{error}");
}

#[test]
fn opening_an_output_whose_entries_have_no_sequence_numbers_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::create_dir(&path).unwrap();
    let mut output = build::Segment::output(build::STORE, 2, 64 << 10, 1, &[1], &[]);
    // An output whose batch is that of a writer.
    output.header.output = None;
    let batch = output.commit(1, &[build::Item::append("k", "v")]);
    let file = path.join("0000000000000002.seg");
    fs::write(&file, &output.bytes).unwrap();
    for opened in [SegmentLog::open(&path), SegmentLog::open_read_only(&path)] {
        match opened.map(drop) {
            Err(Error::Damage { path, damage, .. }) => {
                assert_eq!((path, damage.offset), (file.clone(), batch + 20));
            }
            opened => panic!("{opened:?}"),
        }
    }
}
