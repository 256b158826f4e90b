//! Files of a newer format are refused before anything is written beside them. An unfinished file
//! that a power cut left without a version is harmless.

use std::fs;
use std::path::Path;
use std::time::Duration;

use partd::{Error, Options, Partd, SegmentLog};
use partd_format::control::FILE_LEN;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// Changes a segment to the next version of the format and corrects its checksum.
fn make_newer(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[8..12].copy_from_slice(&(partd_format::VERSION + 1).to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    let aside = path.with_extension("newer");
    fs::write(&aside, bytes).unwrap();
    fs::rename(aside, path).unwrap();
}

#[track_caller]
fn is_refused<T>(result: Result<T, Error>, path: &Path) {
    let error = result.err().expect("a newer format is refused").to_string();
    for words in [&*path.to_string_lossy(), "format version 2", "newer release"] {
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
}

/// Every file of a directory with its bytes.
fn contents(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn a_newer_segment_under_a_clean_control_file_is_refused_at_open_and_before_the_first_append() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let segment = path.join("0000000000000001.seg");
    options().open(&path).unwrap().append_durable([("k", "v")]).unwrap();
    // One open handle has not written yet; the other has.
    let (idle, busy) = (options().open(&path).unwrap(), options().open(&path).unwrap());
    busy.append([("k", "w")]).unwrap();
    make_newer(&segment);
    is_refused(options().open(&path), &segment);
    // Long enough for the handle to check for changes again.
    std::thread::sleep(Duration::from_millis(150));
    is_refused(idle.append([("k", "x")]), &segment);
    is_refused(idle.append_durable([("k", "x")]), &segment);
    is_refused(idle.delete(["k"]), &segment);
    is_refused(idle.pop(["k"]), &segment);
    is_refused(idle.clear(), &segment);
    drop((idle, busy));
    // All handles are closed, and the control file says so.
    let before = contents(&path);
    is_refused(options().open(&path), &segment);
    is_refused(options().open_read_only(&path).and_then(|p| p.get("k")), &segment);
    assert!(contents(&path) == before, "something was changed");
}

#[test]
fn an_unfinished_file_reduced_to_its_magic_by_a_power_cut_is_harmless() {
    for name in ["tmp-control", "tmp-output", "tmp-writer-0000", "tmp-writer-0001"] {
        for made_from in ["control", "0000000000000001.seg"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            options().open(&path).unwrap().append_durable([("k", "v")]).unwrap();
            // The first eight bytes reached the disk; the version after them did not.
            let mut torn = vec![0; FILE_LEN as usize];
            torn[..8].copy_from_slice(&fs::read(path.join(made_from)).unwrap()[..8]);
            fs::write(path.join(name), &torn).unwrap();
            fs::remove_file(path.join("control")).unwrap();
            let reader = options().open_read_only(&path).unwrap();
            assert_eq!(reader.get("k").unwrap(), b"v", "{name} made from {made_from}");
            drop(reader);
            let p = options().open(&path).unwrap();
            p.append_durable([("k", "w")]).unwrap();
            p.compact().unwrap();
            assert_eq!(p.get("k").unwrap(), b"vw", "{name} made from {made_from}");
            drop(p);
            assert!(!path.join(name).exists(), "{name} made from {made_from} stays");
            // A cleanly closed store does not need to remove the file; it replaces it when it next
            // uses the name.
            fs::write(path.join(name), &torn).unwrap();
            let p = options().open(&path).unwrap();
            p.append_durable([("k", "x")]).unwrap();
            p.compact().unwrap();
            assert_eq!(p.get("k").unwrap(), b"vwx", "{name} made from {made_from}");
        }
    }
}
