//! A handle stays with the directory that it opened, whatever happens to the path; and the effects
//! of a process's resource limits.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use partd::{Error, ErrorKind, Options, Partd, SegmentLog};
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

/// Returns the path of a new store, to whose directory `fate` can happen.
fn place(dir: &Path, fate: Fate) -> PathBuf {
    let path = dir.join("store");
    if fate == Fate::LinkTurned {
        fs::create_dir(dir.join("first")).unwrap();
        symlink("first", &path).unwrap();
    }
    path
}

/// Opens a store, applies `fate` to its directory, and creates another store at the path. Returns
/// both handles.
fn replaced(dir: &Path, fate: Fate) -> (SegmentLog, SegmentLog) {
    let path = place(dir, fate);
    let old = options().open(&path).unwrap();
    old.append([("k", "old")]).unwrap();
    (old, replace(dir, fate))
}

/// Applies `fate` to the directory of a store, and creates another store at its path.
fn replace(dir: &Path, fate: Fate) -> SegmentLog {
    let path = dir.join("store");
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
    new
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

/// The files of a store, with their inodes and bytes.
fn files(path: &Path) -> Vec<(std::ffi::OsString, u64, Vec<u8>)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| {
            let inode = entry.metadata().unwrap().ino();
            (entry.file_name(), inode, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Replaces the directory of a store while a compaction writes its output.
fn replaced_during_a_compaction(fate: Fate) {
    let dir = tempfile::tempdir().unwrap();
    let path = place(dir.path(), fate);
    // Half a second for the output.
    let old = options().compaction_bytes_per_second(600_000).open(&path).unwrap();
    for i in 0..30_u8 {
        old.append([("k", vec![i; 10_000]), ("dead", vec![i; 5000])]).unwrap();
    }
    old.delete(["dead"]).unwrap();
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| old.compact());
        while !path.join("tmp-output").exists() {
            assert!(!compaction.is_finished(), "{fate:?}: the compaction wrote no output");
            std::thread::yield_now();
        }
        let new = replace(dir.path(), fate);
        assert!(!compaction.is_finished(), "{fate:?}: the compaction was too quick");
        // The segments of the new store have the ids of the old one's.
        for i in 0..30_u8 {
            new.append([("filler", [i; 10_000])]).unwrap();
        }
        new.sync().unwrap();
        let before = files(&path);
        let compacted = compaction.join().unwrap();
        match fate {
            Fate::Removed => {
                let error =
                    compacted.expect_err("there is no directory for the output").to_string();
                assert!(error.contains("removed while the store was open"), "{error}");
            }
            _ => assert!(compacted.unwrap().segments_replaced > 3, "{fate:?}"),
        }
        assert!(files(&path) == before, "{fate:?}: a file of the other store has changed");
        new.verify().unwrap();
        assert_eq!(
            (new.get("k").unwrap(), new.len_of("filler").unwrap()),
            (b"new".into(), 300_000)
        );
    });
    if fate != Fate::Removed {
        let value: Vec<u8> = (0..30_u8).flat_map(|i| [i; 10_000]).collect();
        assert!(old.get("k").unwrap() == value, "{fate:?}");
    }
}

#[test]
fn a_compaction_whose_directory_is_replaced_meanwhile_touches_no_other_store() {
    std::thread::scope(|scope| {
        for fate in [Fate::Removed, Fate::Renamed, Fate::LinkTurned] {
            scope.spawn(move || replaced_during_a_compaction(fate));
        }
    });
}

/// `tests/mutants.sh` looks for the message.
#[test]
fn a_handle_takes_no_lock_on_a_control_file_that_replaced_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (writer, idle) = (options().open(&path).unwrap(), options().open(&path).unwrap());
    writer.append([("k", "1")]).unwrap();
    let segment = path.join("0000000000000001.seg");
    let before = fs::read(&segment).unwrap();
    fs::copy(path.join("control"), dir.path().join("copy")).unwrap();
    fs::rename(dir.path().join("copy"), path.join("control")).unwrap();
    // In the copy, the writer's slot looks free, and its segment like that of a dead writer.
    type Call = fn(&SegmentLog) -> partd::Result<()>;
    let calls: [(&str, Call); 3] = [
        ("append", |p| p.append([("k", "2")])),
        ("sync", |p| p.sync()),
        ("compact", |p| p.compact().map(drop)),
    ];
    for (what, call) in calls {
        let error = call(&idle).expect_err("live is violated: a lock on another file was taken");
        assert_eq!(error.kind(), ErrorKind::Removed, "live is violated: {what}: {error}");
        let is_same = fs::read(&segment).unwrap() == before;
        assert!(is_same, "live is violated: {what}: the segment of another writer was sealed");
    }
    drop((writer, idle));
    assert_eq!(options().open(&path).unwrap().get("k").unwrap(), b"1");
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
    // An empty directory could be removed.
    let temporary = options().temporary_in(dir.path()).unwrap();
    let path = temporary.path().to_owned();
    fs::rename(&path, dir.path().join("moved again")).unwrap();
    fs::create_dir(&path).unwrap();
    drop(temporary);
    assert!(path.exists(), "a directory that somebody else has made was removed");
}

#[test]
fn a_segment_of_another_store_under_the_name_of_an_unfinished_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("store"), dir.path().join("other"));
    for path in [&path, &other] {
        options().open(path).unwrap().append([("k", vec![1; 5000])]).unwrap();
    }
    let theirs = fs::read(other.join("0000000000000001.seg")).unwrap();
    for name in ["tmp-output", "tmp-writer-0000", "tmp-control"] {
        let moved = path.join(name);
        fs::rename(other.join("0000000000000001.seg"), &moved).unwrap();
        for is_recovered in [false, true] {
            if is_recovered {
                fs::remove_file(path.join("control")).unwrap();
            }
            // Each of these calls may fail because the name is taken.
            if let Ok(p) = options().open(&path) {
                let _ = p.append([("k", vec![2; 5000])]);
                let _ = p.compact();
            }
            assert!(fs::read(&moved).unwrap() == theirs, "{name}: their segment is gone");
        }
        fs::rename(&moved, other.join("0000000000000001.seg")).unwrap();
        let p = options().open(&path).unwrap();
        assert!(p.get("k").unwrap().starts_with(&[1; 5000]), "{name}");
    }
    assert_eq!(options().open(&other).unwrap().get("k").unwrap(), vec![1; 5000]);
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

/// Runs as a child, with few descriptors, a small address space or a small file size limit.
#[test]
fn child_with_limits() {
    let Some(path) = std::env::var_os("PARTD_TEST_LIMITS") else { return };
    let path = Path::new(&path);
    let few = |count| Rlimit { current: Some(count), maximum: Some(count) };
    if path.ends_with("many") {
        setrlimit(Resource::Nofile, few(64)).unwrap();
        // Recovery, in memory and on disk, then an open of the closed store.
        fs::remove_file(path.join("control")).unwrap();
        assert_eq!(options().open_read_only(path).unwrap().len_of("k").unwrap(), 2000 * 8);
        drop(options().open(path).unwrap());
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
    } else if path.ends_with("narrow") {
        let p = options().open(path).unwrap();
        p.append([("k", "v")]).unwrap();
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        // Enough for all but a map of a long segment.
        setrlimit(Resource::As, few(pages * 4096 + (64 << 20))).unwrap();
        let wide = SegmentLog::options().segment_len_bytes(256 << 20);
        let error = wide.open(path).unwrap().append([("k", "w")]).unwrap_err().to_string();
        assert!(error.contains("`ulimit -v`") && !error.contains("longer segments"), "{error}");
        p.append([("k", "w")]).unwrap();
        assert_eq!(p.get("k").unwrap(), b"vw");
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

#[test]
fn a_limit_of_the_address_space_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    with_limits(&dir.path().join("narrow"));
}
