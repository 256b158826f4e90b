//! How fast the inspector is, against limits measured in the same run. Not part of the ordinary
//! run, since other work on the machine disturbs it:
//! `cargo test --release --features cli --test inspect speed -- --ignored --nocapture`.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use partd::{Partd, SegmentLog};

use crate::support::on;

/// 1 GiB in batches of 256 values of 4 KiB, in the page cache.
fn gibibyte(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let log = SegmentLog::open(&store).unwrap();
    let value: Vec<u8> = (0..4096_u32).map(|i| (i >> 3) as u8).collect();
    for _ in 0..1024 {
        log.append((0..256).map(|key| (key, &value[..]))).unwrap();
    }
    store
}

/// The limit: two threads that read the segment files with `pread` into aligned buffers of 256 KiB
/// and run crc32fast over them.
fn limit_seconds(store: &Path) -> f64 {
    const BUFFER: usize = 256 << 10;
    let files = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "seg")).collect();
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut memory = vec![0; BUFFER + 4096];
                let aligned = memory.as_ptr().align_offset(4096);
                let buffer = &mut memory[aligned..aligned + BUFFER];
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = File::open(path).unwrap();
                    let (mut at, mut hasher) = (0, crc32fast::Hasher::new());
                    loop {
                        let read = file.read_at(buffer, at).unwrap();
                        if read == 0 {
                            break;
                        }
                        hasher.update(&buffer[..read]);
                        at += read as u64;
                    }
                    black_box(hasher.finalize());
                }
            });
        }
    });
    begin.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement; run it in release mode on a quiet machine"]
fn verify_runs_near_the_limit_and_a_summary_takes_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = gibibyte(dir.path());
    let (mut limit, mut verify, mut summary) = (f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..10 {
        limit = limit.min(limit_seconds(&store));
        let begin = Instant::now();
        assert_eq!(on(&store, &["verify", "--threads", "2"]).code, 0);
        verify = verify.min(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        assert_eq!(on(&store, &[]).code, 0);
        summary = summary.min(begin.elapsed().as_secs_f64());
    }
    let share = limit / verify;
    println!(
        "limit {limit:.3} s, verify {verify:.3} s ({share:.2} of the rate), summary {summary:.3} s"
    );
    assert!(share >= 0.85, "verify runs at {share:.2} of the limit");
    assert!(summary <= 0.15, "a summary takes {summary:.3} s");
}
