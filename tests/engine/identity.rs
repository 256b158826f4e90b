//! A handle stays with the directory that it opened, whatever happens to the path; and the effects
//! of a process's resource limits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use partd::{Error, Options, Partd, SegmentLog};
use rustix::process::{Resource, Rlimit, setrlimit};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// What happens to the directory of an open store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Removed,
    Renamed,
    LinkTurned,
}

/// Opens a store, applies `fate` to its directory, and creates another store at the path. Returns
/// both handles.
fn replaced(dir: &Path, fate: Fate) -> (SegmentLog, SegmentLog) {
    let path = dir.join("store");
    if fate == Fate::LinkTurned {
        fs::create_dir(dir.join("first")).unwrap();
        symlink("first", &path).unwrap();
    }
    let old = options().open(&path).unwrap();
    old.append([("k", "old")]).unwrap();
    match fate {
        Fate::Removed => fs::remove_dir_all(&path).unwrap(),
        Fate::Renamed => fs::rename(&path, dir.join("elsewhere")).unwrap(),
        Fate::LinkTurned => {
            fs::create_dir(dir.join("second")).unwrap();
            fs::remove_file(&path).unwrap();
            symlink("second", &path).unwrap();
        }
    }
    let new = options().open(&path).unwrap();
    new.append_durable([("k", "new")]).unwrap();
    (old, new)
}

#[test]
fn a_handle_never_touches_another_store_at_its_path() {
    for fate in [Fate::Removed, Fate::Renamed, Fate::LinkTurned] {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = replaced(dir.path(), fate);
        let mut errors = Vec::new();
        // Appends that fill segments, a compaction, a sync, a pop.
        for i in 0..40_u8 {
            errors.extend(old.append([("filler", [i; 9000])]).err());
        }
        errors.extend(old.delete(["filler"]).err());
        errors.extend(old.compact().err());
        errors.extend(old.sync().err());
        errors.extend(old.pop(["k"]).err());
        match fate {
            Fate::Removed => {
                let error = errors.first().expect("a removed store rejects appends");
                let text = errors.iter().map(Error::to_string).collect::<Vec<_>>().join("\n");
                assert!(text.contains("removed while the store was open"), "{error}");
            }
            _ => assert!(errors.is_empty(), "{fate:?}: {errors:?}"),
        }
        drop(old);
        assert_eq!(new.get("k").unwrap(), b"new", "{fate:?}");
        new.verify().unwrap();
        drop(new);
        let p = options().open(dir.path().join("store")).unwrap();
        assert_eq!(p.get("k").unwrap(), b"new", "{fate:?}");
        if fate == Fate::Renamed {
            let old = options().open(dir.path().join("elsewhere")).unwrap();
            assert!(!old.contains("k").unwrap() && !old.contains("filler").unwrap());
        }
    }
}

#[test]
fn a_temporary_store_whose_directory_was_replaced_leaves_the_replacement_alone() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = options().temporary_in(dir.path()).unwrap();
    temporary.append([("k", "v")]).unwrap();
    let path = temporary.path().to_owned();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    let other = options().open(&path).unwrap();
    other.append([("k", "precious")]).unwrap();
    drop(temporary);
    assert_eq!(other.get("k").unwrap(), b"precious");
    drop(other);
    assert_eq!(options().open(&path).unwrap().get("k").unwrap(), b"precious");
}

#[test]
fn a_temporary_store_refuses_every_other_opener_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = options().temporary_in(dir.path()).unwrap();
    temporary.append([("k", "v")]).unwrap();
    let path = temporary.path();
    for opened in [options().open(path), options().open_read_only(path)] {
        let error = opened.expect_err("it belongs to another handle").to_string();
        assert!(error.contains("temporary store"), "{error}");
    }
    assert_eq!(temporary.get("k").unwrap(), b"v");
}

#[test]
fn a_copy_of_a_store_in_use_is_not_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    for i in 0..30_u8 {
        p.append([("k", [i; 9000])]).unwrap();
    }
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let q = options().open(&copy).unwrap();
    assert_eq!(q.get("k").unwrap(), p.get("k").unwrap());
    // The two diverge.
    q.append([("q", "x")]).unwrap();
    p.append([("p", "y")]).unwrap();
    assert!(!p.contains("q").unwrap() && !q.contains("p").unwrap());
}

#[test]
fn a_store_in_use_rejects_a_control_file_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append([("k", "1")]).unwrap();
    let old = fs::read(path.join("control")).unwrap();
    p.append([("k", "2")]).unwrap();
    // Restored from a backup beneath a live handle.
    fs::write(path.join("restored"), old).unwrap();
    fs::rename(path.join("restored"), path.join("control")).unwrap();
    let error = options().open(&path).expect_err("it is not the one in use").to_string();
    assert!(error.contains("control file") && error.contains("removed or replaced"), "{error}");
    std::thread::sleep(std::time::Duration::from_millis(150));
    let error = p.append([("k", "3")]).expect_err("the handle gets an error too").to_string();
    assert!(error.contains("removed or replaced"), "{error}");
    drop(p);
    assert_eq!(options().open(&path).unwrap().get("k").unwrap(), b"12");
}

/// Runs as a child, with few descriptors or a small file size limit.
#[test]
fn child_with_limits() {
    let Some(path) = std::env::var_os("PARTD_TEST_LIMITS") else { return };
    let path = Path::new(&path);
    let few = |count| Rlimit { current: Some(count), maximum: Some(count) };
    if path.ends_with("many") {
        setrlimit(Resource::Nofile, few(64)).unwrap();
        let p = options().open(path).unwrap();
        assert_eq!(p.len_of("k").unwrap(), 2000 * 8);
        assert_eq!(p.get("k").unwrap().len(), 2000 * 8);
        assert_eq!(p.verify().unwrap().extents, 4000);
        p.append_durable([("k", "12345678")]).unwrap();
        assert_eq!(p.pop(["other"]).unwrap()[0].len(), 2000 * 8);
        assert!(p.compact().unwrap().segments_replaced > 1900);
        assert_eq!(p.get("k").unwrap().len(), 2001 * 8);
        drop(p);
        assert_eq!(options().open_read_only(path).unwrap().len_of("k").unwrap(), 2001 * 8);
    } else {
        setrlimit(Resource::Fsize, few(100 << 10)).unwrap();
        let p = SegmentLog::options().segment_len_bytes(1 << 20).open(path).unwrap();
        let error = p.append([("k", "v")]).expect_err("it needs a longer file").to_string();
        assert!(error.contains("ulimit -f") && error.contains("102400"), "{error}");
        let left: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("tmp-")), "{left:?}");
        // Recovery would write into a file that already exceeds the limit.
        let unclosed = path.with_file_name("unclosed");
        let error = options().open(&unclosed).expect_err("it cannot be sealed").to_string();
        assert!(error.contains("ulimit -f"), "{error}");
        let p = options().open_read_only(&unclosed).unwrap();
        assert_eq!(p.len_of("k").unwrap(), 200 << 10);
    }
    println!("all is well");
}

fn with_limits(path: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "identity::child_with_limits", "--nocapture"])
        .env("PARTD_TEST_LIMITS", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("all is well"), "{:?}\n{said}\n{errors}", output.status);
}

#[test]
fn two_thousand_segments_work_with_64_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many");
    // An opener that is alone reads the header of every segment, so let the others join one.
    let first = options().open(&path).unwrap();
    for i in 0..2000_u64 {
        // Each handle has its own segment.
        let p = options().open(&path).unwrap();
        p.append([("k", i.to_le_bytes()), ("other", i.to_le_bytes())]).unwrap();
    }
    drop(first);
    with_limits(&path);
}

#[test]
fn a_file_size_limit_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::options().segment_len_bytes(1 << 20).open(dir.path().join("live")).unwrap();
    p.append([("k", vec![1; 200 << 10])]).unwrap();
    // The copy of a store in use needs recovery.
    fs::create_dir(dir.path().join("unclosed")).unwrap();
    for entry in fs::read_dir(p.path()).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), dir.path().join("unclosed").join(entry.file_name())).unwrap();
    }
    with_limits(&dir.path().join("short"));
}
