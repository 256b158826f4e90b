//! Many short-lived processes: each opens the store, appends a little and exits.
//!
//! `PARTD_SHORT_LIVED=1000 cargo test --test processes short_lived:: -- --nocapture` runs a
//! thousand.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};

/// The number of concurrent processes.
const AT_ONCE: usize = 4;

/// Runs as a child: appends 1 KiB to one of ten keys.
#[test]
fn child_that_appends_once() {
    let Some(path) = std::env::var_os("PARTD_TEST_APPENDS") else { return };
    let number: u64 = std::env::var("PARTD_TEST_NUMBER").unwrap().parse().unwrap();
    let p = SegmentLog::open(path).unwrap();
    p.append([(number % 10, [number as u8; 1024])]).unwrap();
}

/// Runs as a child: removes everything and exits.
#[test]
fn child_that_clears() {
    let Some(path) = std::env::var_os("PARTD_TEST_CLEARS") else { return };
    SegmentLog::options().segment_len_bytes(64 << 10).open(path).unwrap().clear().unwrap();
}

fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("short_lived::{name}")]).stdout(Stdio::null());
    command
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

fn disk_bytes(path: &Path) -> u64 {
    let of = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    segments(path).into_iter().map(of).sum()
}

#[test]
fn processes_that_append_a_little_leave_few_small_files() {
    let count: u64 = std::env::var("PARTD_SHORT_LIVED").map_or(200, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut running: Vec<Child> = Vec::new();
    let mut most = 0;
    let since = Instant::now();
    for number in 0..count {
        if running.len() == AT_ONCE {
            assert!(running.remove(0).wait().unwrap().success());
        }
        let mut command = child("child_that_appends_once");
        command.env("PARTD_TEST_APPENDS", &path).env("PARTD_TEST_NUMBER", number.to_string());
        running.push(command.spawn().unwrap());
        most = most.max(if path.exists() { segments(&path).len() } else { 0 });
    }
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let (took, files, used) = (since.elapsed(), segments(&path).len(), disk_bytes(&path));
    let since = Instant::now();
    let p = SegmentLog::open(&path).unwrap();
    let lens: u64 = (0..10_u64).map(|key| p.len_of(key).unwrap()).sum();
    let opened = since.elapsed();
    p.compact().unwrap();
    let stats = p.stats().unwrap();
    println!(
        "{count} processes in {took:?}: {files} files at the end, {most} at most, {used} bytes on \
         disk for {lens}; open and index in {opened:?}; then {} files, {} bytes",
        stats.segments(),
        stats.disk_bytes
    );
    assert_eq!(lens, count * 1024);
    // A page or two for each file that was not joined yet.
    assert!(used <= lens * 2 + files as u64 * 12 * 1024, "{used} bytes on disk");
    assert!(most <= 64 * 3, "{most} files");
    assert!(opened < Duration::from_secs(10), "{opened:?}");
    assert!(stats.segments() <= 2 && stats.disk_bytes < lens * 2 + (16 << 10), "{stats:?}");
    for key in 0..10_u64 {
        let mut value = p.get(key).unwrap();
        let mut expected: Vec<u8> =
            (0..count).filter(|n| n % 10 == key).flat_map(|n| [n as u8; 1024]).collect();
        // They ran concurrently, so their order is arbitrary.
        value.sort_unstable();
        expected.sort_unstable();
        assert!(value == expected, "key {key}");
    }
}

#[test]
fn a_process_that_clears_and_exits_frees_the_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = SegmentLog::options()
        .segment_len_bytes(64 << 10)
        .compaction_dead_share(None)
        .open(&path)
        .unwrap();
    for i in 0..2000_u64 {
        p.append([(i, [7; 1000])]).unwrap();
    }
    drop(p);
    assert!(disk_bytes(&path) > 2_000_000);
    let mut command = child("child_that_clears");
    assert!(command.env("PARTD_TEST_CLEARS", &path).status().unwrap().success());
    let used = disk_bytes(&path);
    assert!(used <= 64 << 10, "{used} bytes on disk in {} files", segments(&path).len());
}

#[test]
fn a_segment_takes_one_descriptor_even_while_it_is_synced_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    for i in 0..400_u64 {
        options.open(&path).unwrap().append([(i % 10, [7; 10])]).unwrap();
    }
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    let p = options.open(&path).unwrap();
    assert_eq!(p.len_of(3_u64).unwrap(), 400);
    assert_eq!(p.stats().unwrap().segments(), 400);
    p.append_durable([(3_u64, [7; 10])]).unwrap();
    assert_eq!(p.get(3_u64).unwrap(), [7; 410]);
    // The other tests of this file open some files, too.
    assert!(files() < before + 500, "{before} files, then {}", files());
    assert!(p.compact().unwrap().segments_replaced == 400);
    assert_eq!(p.stats().unwrap().segments(), 2);
    assert!(files() < before + 100, "{before} files, then {}", files());
}
