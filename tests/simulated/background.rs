//! When a handle compacts by itself, and when it does not.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sim::STORE;
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use partd::{Batch, Durability, Key, Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10)
}

fn never() -> Options {
    options().compaction_dead_share(None)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed().as_secs() < 60, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The tests of this file share a process and count its threads, so they run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of threads of this process that compact for a handle.
fn compacting_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    // The kernel keeps 15 bytes of a thread name.
    names.filter(|name| "partd-compaction".starts_with(name.trim_end()) && name.len() > 10).count()
}

#[test]
fn a_delete_starts_the_background_thread_and_appends_and_sets_do_not() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::open(dir.path().join("store")).unwrap();
    for i in 0..100_u32 {
        let mut batch = Batch::new();
        let (set, append) = (Key::from(format!("set {i}")), Key::from(i % 3));
        batch.set(&set, b"once");
        batch.append(&append, &[7; 1000]);
        p.write(&batch, Durability::Plain).unwrap();
    }
    assert_eq!(p.stats().unwrap().removals, 0);
    assert_eq!(compacting_threads(), 0);
    p.delete([1_u32]).unwrap();
    wait_until("a thread", || compacting_threads() == 1);
    drop(p);
    wait_until("it ends with its handle", || compacting_threads() == 0);
}

#[test]
fn dead_bytes_in_open_segments_start_no_compaction_and_errors_make_compactions_rare() {
    let _alone = alone();
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let open = |options: &Options| options.open_on(disk.new_process(), STORE).unwrap();
    let counts = disk.counts();
    // Dead bytes that cannot be freed, since their segment is open.
    let q = open(&never().segment_len_bytes(4 << 20));
    for i in 0..1000_u64 {
        q.append([(i, [7; 1000])]).unwrap();
    }
    let p = open(&options().compaction_dead_share(0.1));
    let nudge = |lasts: Duration| {
        let since = Instant::now();
        while since.elapsed() < lasts {
            p.delete([1_u64, 2]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let syncs = counts.syncs.load(Relaxed);
    nudge(Duration::from_millis(900));
    assert_eq!(compacting_threads(), 1);
    assert_eq!(counts.syncs.load(Relaxed), syncs, "a compaction would have begun with a sync");
    // Dead bytes that a full disk has no room to free: attempts become rarer.
    for i in 0..1000_u64 {
        q.append([(1000 + i, [7; 1000])]).unwrap();
    }
    q.delete((1000..2000_u64).filter(|i| i % 2 == 0)).unwrap();
    drop(q);
    disk.limit(0);
    let creates = counts.creates.load(Relaxed);
    nudge(Duration::from_secs(2));
    let tries = counts.creates.load(Relaxed) - creates;
    assert!((1..=8).contains(&tries), "{tries} files were tried on the full disk");
    disk.limit(64 << 20);
    drop(p);
}

#[test]
fn a_handle_that_only_appends_joins_small_segments() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(256 << 10);
    for i in 0..80_u8 {
        let short = options.clone().compaction_dead_share(None).open(&path).unwrap();
        short.append([("k", [i])]).unwrap();
    }
    let files = || {
        let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).count()
    };
    assert_eq!(files(), 80);
    let p = options.open(&path).unwrap();
    // The handle considers a compaction when it starts its second segment.
    wait_until("they are joined", || {
        p.append([("long", vec![7; 20_000])]).unwrap();
        files() < 40
    });
    assert_eq!(p.get("k").unwrap(), (0..80).collect::<Vec<u8>>());
}
