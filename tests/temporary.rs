//! Temporary stores, limits of space, and what is counted.

use std::process::{Command, Stdio};

use partd::{Error, Partd, SegmentLog};

#[test]
fn a_temporary_store_is_gone_with_its_handle_also_after_a_panic() {
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

/// Run as a child: makes a temporary store and waits to be killed.
#[test]
fn child_with_a_temporary_store() {
    let Some(dir) = std::env::var_os("PARTD_TEST_TEMPORARY_IN") else { return };
    let p = SegmentLog::options().temporary_in(dir).unwrap();
    p.append([("k", "v")]).unwrap();
    println!("ready");
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_sweep_removes_what_killed_processes_left_and_nothing_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let used = SegmentLog::options().temporary_in(dir.path()).unwrap();
    used.append([("k", "v")]).unwrap();
    std::fs::create_dir(dir.path().join("partd-tmp-not-a-store")).unwrap();
    std::fs::write(dir.path().join("partd-tmp-not-a-store/precious"), "x").unwrap();
    // A store of somebody's own, under a name that no temporary store has.
    let own = dir.path().join("partd-tmp-mine");
    SegmentLog::open(&own).unwrap().append([("k", "mine")]).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_with_a_temporary_store", "--nocapture"])
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
fn an_append_beyond_the_limit_of_the_store_is_an_error_and_removing_makes_room() {
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
fn statistics_count_what_is_there() {
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
    assert_eq!((stats.sequence, stats.synced, stats.batches), (103, 103, 103));
    assert_eq!((stats.keys, stats.extents, stats.removals), (2, 101, 1));
    assert_eq!((stats.live_bytes, stats.dead_bytes), (100_005, 1_004));
    assert_eq!((stats.segments_open, stats.segments_sealed), (1, 1));
    assert_eq!(stats.segment_bytes, 2 * (64 << 10));
    assert!(stats.index_bytes > 101 * 24 && stats.index_bytes < 20_000, "{stats:?}");
    // Another handle seals nothing of the first.
    options.open(&path).unwrap().compact().unwrap();
    let stats = p.stats().unwrap();
    assert_eq!((stats.segments_open, stats.segments_sealed, stats.segments_compacted), (1, 0, 1));
    assert_eq!((stats.compactions, stats.live_bytes), (1, 100_005));
}
