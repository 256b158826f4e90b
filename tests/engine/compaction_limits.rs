//! The limits of a compaction: its rate, the extra space of one run, one compactor at a time on the
//! whole machine, and no delay for a handle that closes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use partd::{Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// A closed store with `values` values of 1,000 bytes, each under its own key.
fn store_of(path: &Path, values: u64) {
    let p = options().open(path).unwrap();
    for i in 0..values {
        p.append([(i, vec![i as u8; 1000])]).unwrap();
    }
}

fn check(p: &SegmentLog, values: u64) {
    for i in 0..values {
        assert!(p.get(i).unwrap() == vec![i as u8; 1000], "key {i}");
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed().as_secs() < 60, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_compaction_obeys_its_rate_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    store_of(&path, 2000);
    let p = options().compaction_bytes_per_second(2_000_000).open(&path).unwrap();
    let since = Instant::now();
    assert_eq!(p.compact().unwrap().bytes_rewritten, 2_000_000);
    assert!(since.elapsed() >= Duration::from_millis(990), "{:?}", since.elapsed());
    check(&p, 2000);
}

#[test]
fn a_handle_closes_at_once_in_the_middle_of_a_long_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    store_of(&path, 2000);
    let slow = options().compaction_dead_share(0.1).compaction_bytes_per_second(1000);
    let p = slow.open(&path).unwrap();
    // Half of each segment, so that all are worth compacting and each has something to copy.
    p.delete((0..2000_u64).filter(|key| key % 2 == 1)).unwrap();
    wait_until("a compaction begins", || path.join("tmp-output").exists());
    // The compaction sleeps after writing its first piece.
    std::thread::sleep(Duration::from_millis(300));
    let since = Instant::now();
    drop(p);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert!(!path.join("tmp-output").exists(), "the unfinished output is removed");
    let p = options().open(&path).unwrap();
    assert_eq!(p.keys().unwrap().len(), 1000);
    for key in (0..2000_u64).filter(|key| key % 2 == 0) {
        assert!(p.get(key).unwrap() == vec![key as u8; 1000], "key {key}");
    }
}

#[test]
fn a_compaction_needs_extra_space_for_one_run_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    store_of(&path, 3000);
    let run_bytes = 300_000;
    let p = options().compaction_run_bytes(run_bytes);
    let p = p.open(&path).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let size = || -> u64 {
        let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata());
        files.map(|metadata| metadata.map_or(0, |metadata| metadata.len())).sum()
    };
    let before = size();
    let largest = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut largest = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                largest = largest.max(size());
            }
            largest
        });
        let report = p.compact().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!((10..=14).contains(&report.runs), "{report:?}");
        watch.join().unwrap()
    });
    assert!(largest < before + run_bytes + 100_000, "{before} bytes, then {largest}");
    for entry in std::fs::read_dir(&path).unwrap() {
        let len = entry.unwrap().metadata().unwrap().len();
        assert!(len < run_bytes + 100_000, "an output of {len} bytes");
    }
    check(&p, 3000);
}

/// Runs as a child: compacts so slowly that it never ends.
#[test]
fn child_that_compacts() {
    let Some(path) = std::env::var_os("PARTD_TEST_COMPACTS") else { return };
    let p = options().compaction_bytes_per_second(1000).open(path).unwrap();
    p.compact().unwrap();
}

#[test]
fn one_process_compacts_at_a_time_and_the_next_takes_over_from_a_killed_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    store_of(&path, 1000);
    let p = options().open(&path).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "compaction_limits::child_that_compacts"])
        .env("PARTD_TEST_COMPACTS", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the child compacts", || path.join("tmp-output").exists());
    let report = p.compact().unwrap();
    assert_eq!(report.runs, 0, "another is at work: {report:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let report = p.compact().unwrap();
    assert_eq!((report.runs, report.bytes_rewritten), (1, 1_000_000), "{report:?}");
    assert!(!path.join("tmp-output").exists(), "the dead process's output is removed");
    check(&p, 1000);
}
