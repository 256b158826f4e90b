//! How fast `partd-inspect` is, against limits that are measured in the same run, turn by turn; medians.
//! It fails where the inspector is slower than promised:
//! `cargo bench -p partd-inspect --bench inspect`, on a machine that does nothing else.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use partd::{Partd, SegmentLog};

/// The number of measurements of each.
const ROUNDS: usize = 11;
/// The share of the limit's rate that `verify` reaches at least.
const SHARE_MIN: f64 = 0.85;
/// How many seconds a summary takes at most.
const SUMMARY_MAX: f64 = 0.15;

/// 1 GiB in batches of 256 values of 4 KiB, in the page cache.
fn gibibyte(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let log = SegmentLog::open(&store).expect("a store that can be read");
    let value: Vec<u8> = (0..4096_u32).map(|i| (i >> 3) as u8).collect();
    for _ in 0..1024 {
        log.append((0..256).map(|key| (key, &value[..]))).expect("a store that can be read");
    }
    store
}

/// The limit: two threads that read the segment files with `pread` into aligned buffers of 256 KiB
/// and run crc32fast over them.
fn limit_seconds(store: &Path) -> f64 {
    const BUFFER: usize = 256 << 10;
    let files = std::fs::read_dir(store)
        .expect("a store that can be read")
        .map(|entry| entry.expect("a store that can be read").path());
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
                    let file = File::open(path).expect("a store that can be read");
                    let (mut at, mut hasher) = (0, crc32fast::Hasher::new());
                    loop {
                        let read = file.read_at(buffer, at).expect("a store that can be read");
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

/// How long the inspector takes.
fn inspect_seconds(args: &[&str], store: &Path) -> f64 {
    let begin = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_partd-inspect"));
    let output = command.args(args).arg(store).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    begin.elapsed().as_secs_f64()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = gibibyte(dir.path());
    let (mut limit, mut verify, mut summary) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let times = [
            limit_seconds(&store),
            inspect_seconds(&["verify", "--threads", "2"], &store),
            inspect_seconds(&[], &store),
        ];
        // The first round brings everything into the caches.
        if round > 0 {
            limit.push(times[0]);
            verify.push(times[1]);
            summary.push(times[2]);
        }
    }
    let [limit, verify, summary] = [&mut limit, &mut verify, &mut summary].map(|t| median(t));
    let share = limit / verify;
    println!("two threads, pread and crc32fast: {limit:.3} s");
    println!("verify: {verify:.3} s, {share:.2} of that rate (at least {SHARE_MIN})");
    println!("summary: {summary:.3} s (at most {SUMMARY_MAX} s)");
    let is_fast = share >= SHARE_MIN && summary <= SUMMARY_MAX;
    std::process::exit(i32::from(!is_fast));
}
