//! Temporary stores, size limits, and statistics.

use std::process::{Command, Stdio};

use partd::{Error, Partd, SegmentLog};

#[test]
fn a_temporary_store_is_removed_with_its_handle_even_after_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
    p.append([("k", "v")]).unwrap();
    let path = p.path().to_owned();
    assert!(path.starts_with(dir.path()) && path.join("control").exists());
    drop(p);
    assert!(!path.exists());
    let panicked = std::panic::catch_unwind(|| {
        let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
        p.append([("k", "v")]).unwrap();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panicked.is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Runs as a child: creates a temporary store and waits to be killed.
#[test]
fn child_with_a_temporary_store() {
    let Some(dir) = std::env::var_os("PARTD_TEST_TEMPORARY_IN") else { return };
    let p = SegmentLog::options().temporary_in(dir).unwrap();
    p.append([("k", "v")]).unwrap();
    println!("ready");
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_sweep_removes_stores_of_killed_processes_and_no_store_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let used = SegmentLog::options().temporary_in(dir.path()).unwrap();
    used.append([("k", "v")]).unwrap();
    std::fs::create_dir(dir.path().join("partd-tmp-not-a-store")).unwrap();
    std::fs::write(dir.path().join("partd-tmp-not-a-store/precious"), "x").unwrap();
    // A user's store under a name that is not that of a temporary store.
    let own = dir.path().join("partd-tmp-mine");
    SegmentLog::open(&own).unwrap().append([("k", "mine")]).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "temporary::child_with_a_temporary_store", "--nocapture"])
        .env("PARTD_TEST_TEMPORARY_IN", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().ends_with("ready")));
    assert_eq!(SegmentLog::sweep(dir.path()).unwrap(), [""; 0].map(std::path::PathBuf::from));
    child.kill().unwrap();
    child.wait().unwrap();
    let swept = SegmentLog::sweep(dir.path()).unwrap();
    assert_eq!(swept.len(), 1, "{swept:?}");
    assert!(!swept[0].exists());
    assert_eq!(used.get("k").unwrap(), b"v");
    assert!(dir.path().join("partd-tmp-not-a-store/precious").exists());
    assert_eq!(SegmentLog::open(&own).unwrap().get("k").unwrap(), b"mine");
}

#[test]
fn a_sweep_leaves_a_directory_alone_that_no_control_file_calls_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let at = |digit: &str| dir.path().join(format!("partd-tmp-{}", digit.repeat(16)));
    // A user's store under the name of a temporary store, whose control file is lost.
    let own = at("1");
    SegmentLog::open(&own).unwrap().append([("k", "mine")]).unwrap();
    std::fs::remove_file(own.join("control")).unwrap();
    // Files that have only the names of a store's files.
    let named = at("2");
    std::fs::create_dir(&named).unwrap();
    std::fs::write(named.join("control"), "not a control file").unwrap();
    std::fs::write(named.join("reserve"), "x").unwrap();
    // The remains of a removal, and of a creation.
    std::fs::create_dir(at("3")).unwrap();
    std::fs::create_dir(at("4")).unwrap();
    std::fs::write(at("4").join("tmp-control"), "half").unwrap();
    // A temporary store, left by a process that was killed, with a file that is not a segment.
    let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
    p.append([("k", "v")]).unwrap();
    std::fs::create_dir(at("5")).unwrap();
    for entry in std::fs::read_dir(p.path()).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(entry.path(), at("5").join(entry.file_name())).unwrap();
    }
    let precious = at("5").join("00000000000000ff.seg");
    std::fs::write(&precious, "precious".repeat(1000)).unwrap();
    let mut swept = SegmentLog::sweep(dir.path()).unwrap();
    swept.sort();
    assert_eq!(swept, [at("3"), at("4")]);
    assert_eq!(SegmentLog::open(&own).unwrap().get("k").unwrap(), b"mine");
    assert!(named.join("reserve").exists() && precious.exists());
    std::fs::remove_file(precious).unwrap();
    assert_eq!(SegmentLog::sweep(dir.path()).unwrap(), [at("5")]);
    // A handle removes its own store even without a control file.
    let path = p.path().to_owned();
    std::fs::remove_file(path.join("control")).unwrap();
    drop(p);
    assert!(!path.exists());
}

#[test]
fn an_append_beyond_the_size_limit_is_an_error_and_removing_keys_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::options()
        .segment_len_bytes(64 << 10)
        .max_store_bytes(512 << 10)
        .compaction_dead_share(None)
        .open(dir.path().join("store"))
        .unwrap();
    let mut appended = 0;
    let error = loop {
        match p.append([("k", vec![7; 1000])]) {
            Ok(()) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 1000, "no limit");
    };
    assert!(matches!(error, Error::StoreFull { max: 524_288, .. }), "{error}");
    assert!(appended > 300, "{appended}");
    assert_eq!(p.len_of("k").unwrap(), appended * 1000);
    p.append([("huge", vec![7; 1 << 20])]).unwrap_err();
    p.delete(["k"]).unwrap();
    p.compact().unwrap();
    p.append([("k", vec![7; 1000])]).unwrap();
    assert_eq!(p.len_of("k").unwrap(), 1000);
}

#[test]
fn stats_count_what_the_store_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    let p = options.open(&path).unwrap();
    for i in 0..100 {
        p.append([("a", vec![i; 1000]), ("b", vec![i; 10])]).unwrap();
    }
    p.iset("s", "12345").unwrap();
    p.iset("s", "void").unwrap();
    p.delete(["b"]).unwrap();
    p.sync().unwrap();
    let stats = p.stats().unwrap();
    assert_eq!((stats.sequence, stats.durable_seq, stats.batches), (103, 103, 103));
    assert_eq!((stats.keys, stats.extents, stats.removals), (2, 101, 1));
    assert_eq!((stats.live_bytes, stats.dead_bytes), (100_005, 1_004));
    assert_eq!((stats.segments_open, stats.segments_sealed), (1, 1));
    assert_eq!(stats.segment_bytes, 2 * (64 << 10));
    assert!(stats.index_bytes > 101 * 24 && stats.index_bytes < 20_000, "{stats:?}");
    assert_eq!(stats.disk_bytes, disk_bytes(&path));
    // Another handle seals none of the first handle's segments.
    options.open(&path).unwrap().compact().unwrap();
    let stats = p.stats().unwrap();
    assert_eq!((stats.segments_open, stats.segments_sealed, stats.segments_compacted), (1, 0, 1));
    assert_eq!((stats.compactions, stats.live_bytes), (1, 100_005));
    assert_eq!((stats.sequence, stats.keys), (103, 2));
    // All segments are sealed, and one batch holds the live data: two keys, one of them set.
    drop(p);
    let p = options.open(&path).unwrap();
    let report = p.compact().unwrap();
    assert_eq!((report.runs, report.deletes_kept), (1, 0));
    let stats = p.stats().unwrap();
    assert_eq!((stats.batches, stats.extents, stats.removals), (1, 2, 0));
    assert_eq!((stats.live_bytes, stats.dead_bytes), (100_005, 0));
    assert_eq!((stats.segments_open, stats.segments_sealed, stats.segments_compacted), (0, 0, 1));
    assert_eq!(stats.disk_bytes, disk_bytes(&path));
    assert!(stats.disk_bytes >= 100_005 && stats.segment_bytes < 110_000, "{stats:?}");
    // A closed handle frees its unused space; a page and the file's length remain.
    options.open(&path).unwrap().append([("t", "x")]).unwrap();
    let now = p.stats().unwrap();
    assert_eq!((now.batches, now.segments_open, now.segments_sealed), (2, 0, 1));
    assert_eq!(now.segment_bytes, stats.segment_bytes + (64 << 10));
    assert!(now.disk_bytes - stats.disk_bytes <= 8192, "{now:?}");
}

/// The disk usage of the segments in a directory.
fn disk_bytes(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|e| e == "seg"));
    segments.map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
}

#[test]
fn deletes_beyond_the_size_limit_take_only_what_they_need_and_make_no_room_for_appends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options()
        .segment_len_bytes(256 << 10)
        .max_store_bytes(1 << 20)
        .compaction_dead_share(None);
    let p = options.open(&path).unwrap();
    while p.append([("k", vec![7; 5000])]).is_ok() {}
    let full = disk_bytes(&path);
    // Another handle has no segment yet, and has no room for one.
    let q = options.open(&path).unwrap();
    for i in 0..10_u32 {
        q.delete([i]).unwrap();
        assert!(matches!(q.append([("k", vec![7; 5000])]), Err(Error::StoreFull { .. })));
    }
    assert!(disk_bytes(&path) <= full + 10 * 8192, "{full}, then {}", disk_bytes(&path));
}

#[test]
fn an_append_that_meets_the_size_limit_compacts_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(64 << 10).max_store_bytes(512 << 10);
    let p = options.clone().compaction_dead_share(None).open(&path).unwrap();
    while p.append([("k", vec![7; 1000])]).is_ok() {}
    p.delete(["k"]).unwrap();
    drop(p);
    let p = options.open(&path).unwrap();
    let since = std::time::Instant::now();
    while let Err(error) = p.append([("k", vec![7; 1000])]) {
        assert!(matches!(error, Error::StoreFull { .. }), "{error}");
        assert!(since.elapsed().as_secs() < 60, "no compaction");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn temporary_stores_created_during_sweeps_are_not_swept() {
    let dir = tempfile::tempdir().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while std::time::Instant::now() < end {
                    SegmentLog::sweep(dir.path()).unwrap();
                }
            });
            scope.spawn(|| {
                let options = SegmentLog::options().segment_len_bytes(64 << 10);
                while std::time::Instant::now() < end {
                    let p = options.temporary_in(dir.path()).unwrap();
                    p.append([("k", "v")]).unwrap();
                    assert_eq!(p.get("k").unwrap(), b"v");
                    assert!(p.path().join("control").exists());
                }
            });
        }
    });
    // If a sweep and the owner removed a store at the same time, the next sweep removes the rest.
    SegmentLog::sweep(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
