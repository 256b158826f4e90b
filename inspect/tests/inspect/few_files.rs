//! More segments than a process may have open files: the inspector still reads everything, both at
//! rest and beside a writer.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};

use crate::support::build::{Control, Item, STORE, Segment};
use crate::support::{Ran, boot, write_store};

/// The number of segments of the store at rest.
const SEGMENTS: u64 = 2000;
/// How many files the inspector may have open.
const FILES: &str = "64";

/// Runs the binary with a low limit on open files, and with enough threads to use them all up.
fn with_few_files(path: &Path, args: &[&str]) -> Ran {
    let script = format!("ulimit -n {FILES} && exec \"$@\"");
    let (first, rest) = args.split_at(args.len().min(1));
    let output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_partd-inspect")])
        .args(first)
        .arg(path)
        .args(rest)
        .env("COLUMNS", "80")
        .env("RAYON_NUM_THREADS", "200")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ran { code: output.status.code().unwrap(), stdout: output.stdout, stderr }
}

#[test]
fn a_store_of_two_thousand_segments_is_read_with_sixty_four_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = Vec::new();
    for id in 1..=SEGMENTS {
        let mut segment = Segment::new(STORE, id, 1024);
        let items = [Item::append("all", "v"), Item::append(format!("key {}", id % 100), "value")];
        segment.commit(id, &items);
        segments.push(segment);
    }
    let mut control = Control::open(STORE, boot(), SEGMENTS);
    control.next_segment = SEGMENTS + 1;
    control.clean = true;
    let store = write_store(dir.path(), &segments.iter().collect::<Vec<_>>(), Some(&control));
    for args in [&[][..], &["segments"], &["keys"], &["batches"], &["map"], &["verify"]] {
        let ran = with_few_files(&store, args);
        assert_eq!((ran.code, &ran.stderr[..]), (0, ""), "{args:?}: {}", ran.text());
    }
    let ran = with_few_files(&store, &["get", "all"]);
    assert_eq!((ran.code, ran.stdout.len() as u64), (0, SEGMENTS), "{}", ran.stderr);
    let ran = with_few_files(&store, &["verify", "--threads", "100", "--json"]);
    let document = ran.json();
    assert_eq!((ran.code, document["values"].as_u64()), (0, Some(2 * SEGMENTS)));
    assert_eq!(document["health"]["status"], "healthy");
    for command in ["export", "salvage"] {
        let new = dir.path().join(command);
        let ran = with_few_files(&store, &[command, new.to_str().unwrap()]);
        assert_eq!((ran.code, &ran.stderr[..]), (0, ""), "{command}: {}", ran.text());
    }
    let salvaged = with_few_files(&dir.path().join("salvage"), &["get", "all"]);
    assert_eq!(salvaged.stdout.len() as u64, SEGMENTS);
    let ran = with_few_files(&store, &["watch", "--count", "1", "--interval", "0.01"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// Stops a thread when dropped, even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn beside_a_writer_and_its_compactions_it_finds_no_damage_with_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(0.3);
    let log = options.open(&path).unwrap();
    // 150 segments that stay; others come and go below.
    for i in 0..150 {
        log.append([(format!("kept {i}"), vec![i as u8; 50 << 10])]).unwrap();
    }
    let (done, runs) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(|| {
            for i in 0_u64.. {
                let key = format!("key {}", i % 20);
                log.append([(key.as_str(), vec![i as u8; 10_000])]).unwrap();
                if i.is_multiple_of(3) {
                    log.delete([format!("key {}", i / 3 % 20)]).unwrap();
                }
                if i % 50 == 49 {
                    log.compact().unwrap();
                }
                runs.store(true, Ordering::Relaxed);
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let since = Instant::now();
        let mut read = 0;
        while since.elapsed() < Duration::from_secs(4) || read < 5 {
            assert!(since.elapsed() < Duration::from_secs(120), "only {read} of them were read");
            for args in [&["verify"][..], &["get", "kept 77"], &["keys"]] {
                let ran = with_few_files(&path, args);
                match ran.code {
                    0 => read += 1,
                    // The segments were removed before the inspector could read them, and it says
                    // only that.
                    2 => {
                        let said = format!("{}{}", ran.text(), ran.stderr);
                        assert!(said.contains("run the command again"), "{args:?}: {said}");
                    }
                    _ => panic!("{args:?}: {}{}", ran.text(), ran.stderr),
                }
            }
        }
        println!("{read} times it was read");
    });
    assert!(runs.into_inner());
}
