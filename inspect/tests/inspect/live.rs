//! A store with live writers: the inspector works beside them, reports no damage, and delays none
//! of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};

use crate::support::build::{self, Control, Item, Segment};
use crate::support::{boot, on, write_store};
use partd_inspect::store::Store;

/// The store that a child process of these tests writes to; set only in children.
const STORE: &str = "PARTD_INSPECT_TEST_STORE";

#[test]
#[ignore = "the child process of the other tests here"]
fn child_that_writes() {
    let Some(store) = std::env::var_os(STORE) else { return };
    let log = SegmentLog::options().segment_len_bytes(64 << 10).open(store).unwrap();
    for i in 0_u64.. {
        let key = format!("key {}", i % 7);
        log.append([(key.as_str(), &[i as u8; 300][..]), ("all", &i.to_le_bytes())]).unwrap();
        if i % 50 == 49 {
            log.delete([key.as_str()]).unwrap();
        }
        if i % 100 == 99 {
            log.sync().unwrap();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A writer that is killed when the test ends.
struct Writer(Child);

impl Writer {
    fn start(store: &Path) -> Writer {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "live::child_that_writes", "--ignored"])
            .env(STORE, store)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Writer(child.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until at least this many batches were written to the store, and as many processes write.
fn wait_for(store: &Path, batches: u64, writers: usize) {
    let since = Instant::now();
    loop {
        let ran = on(store, &["--json"]);
        if ran.code == 0 {
            let document = ran.json();
            let holders = document["holders"].as_array().unwrap();
            let alive = holders.iter().filter(|holder| holder["state"] == "alive").count();
            let last = document["history"]["last_sequence"].as_u64().unwrap();
            if last >= batches && alive >= writers {
                return;
            }
        }
        assert!(since.elapsed() < Duration::from_secs(60), "the writers do not write: {ran:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn live_writers_are_seen_and_never_look_like_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut writers: Vec<Writer> = (0..2).map(|_| Writer::start(&store)).collect();
    wait_for(&store, 100, 2);
    let (mut last, mut active) = (0, 0);
    let commands: [&[&str]; 6] = [
        &["--json"],
        &["verify", "--json"],
        &["keys", "--json"],
        &["batches", "--json"],
        &["segments", "--json"],
        &["map", "--json"],
    ];
    for round in 0..30 {
        let ran = on(&store, commands[round % commands.len()]);
        let document = ran.json();
        assert_eq!(ran.code, 0, "{:#}", document["health"]);
        assert_eq!(document["health"]["status"], "healthy");
        if let Some(sequence) = document["history"]["last_sequence"].as_u64() {
            assert!(sequence >= last, "the history goes back: {sequence} after {last}");
            last = sequence;
            let holders = document["holders"].as_array().unwrap();
            let alive = holders.iter().filter(|holder| holder["state"] == "alive");
            let mut pids: Vec<u64> = alive.map(|h| h["pid"].as_u64().unwrap()).collect();
            let mut expected: Vec<u64> = writers.iter().map(|w| u64::from(w.0.id())).collect();
            pids.sort_unstable();
            expected.sort_unstable();
            assert_eq!(pids, expected);
            // A segment may be sealed after the inspector reads its writer and before it reads the
            // segment.
            active += document["segments"]["states"]["active"].as_u64().unwrap();
        }
    }
    wait_for(&store, last + 1, 2);
    assert!(active > 0, "no writer's segment was ever seen as active");
    // Kill one writer: the other continues, and the inspector tells them apart.
    let dead = writers.remove(0);
    let pid = dead.0.id();
    drop(dead);
    let since = Instant::now();
    loop {
        let document = on(&store, &["--json"]).json();
        assert_eq!(document["health"]["status"], "healthy");
        let holders = document["holders"].as_array().unwrap().clone();
        let held = holders.iter().find(|holder| holder["pid"] == u64::from(pid)).unwrap().clone();
        if held["state"] == "dead" {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "a killed process keeps its lock");
    }
    // Kill all: no acknowledged batch is lost, and the engine agrees.
    writers.iter_mut().for_each(Writer::kill);
    let document = on(&store, &["verify", "--json"]).json();
    assert_eq!(document["health"]["status"], "recovery", "{document:#}");
    let all = on(&store, &["get", "all"]).stdout;
    let log = SegmentLog::open(&store).unwrap();
    assert!(log.get("all").unwrap() == all);
}

#[test]
fn concurrent_compactions_never_look_like_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let log = SegmentLog::options().segment_len_bytes(64 << 10).open(&store).unwrap();
    let stop = AtomicBool::new(false);
    let running = || !stop.load(Ordering::Relaxed);
    let (mut reads, mut outputs) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in (0_u32..).take_while(|_| running()) {
                let key = i % 50;
                log.append([(key, [i as u8; 2000])]).unwrap();
                if i % 7 == 0 {
                    log.delete([(i + 25) % 50]).unwrap();
                }
            }
        });
        scope.spawn(|| {
            while running() {
                log.compact().unwrap();
            }
        });
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) || reads < 20 {
            let read = Store::read(&store).unwrap();
            let problems: Vec<String> =
                read.history.problems.iter().map(ToString::to_string).collect();
            if read.is_damaged() {
                stop.store(true, Ordering::Relaxed);
                panic!("read {reads}: {problems:#?}");
            }
            outputs += usize::from(read.history.max_seq > 0);
            reads += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(outputs > 0, "no output was seen in {reads} reads");
}

#[test]
fn the_store_of_the_shuffle_example_is_read_while_it_runs_and_as_a_damaged_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (out, kept) = (dir.path().join("out"), dir.path().join("kept"));
    let job = crate::job::Job {
        input: Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/flights.csv"),
        by: "dest".to_owned(),
        partitions: 5,
        out: out.clone(),
        memory_bytes: 64 << 10,
        threads: 2,
        repeat: 2,
    };
    let store = || {
        let entries = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
        let mut stores = entries.filter(|path| path.is_dir());
        stores.next().expect("the temporary store of the example")
    };
    let calls = AtomicU64::new(0);
    let progress = |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        if call == 20 {
            // The other thread keeps appending.
            for args in [&["--json"][..], &["verify", "--json"], &["keys", "--json"]] {
                let ran = on(&store(), args);
                assert_eq!((ran.code, &ran.json()["health"]["status"]), (0, &"healthy".into()));
            }
            let holders = on(&store(), &["--json"]).json()["holders"].clone();
            assert_eq!(holders[0]["pid"], std::process::id(), "{holders:#}");
            assert_eq!(holders[0]["state"], "alive", "{holders:#}");
        }
        // The second half of the job appends nothing.
        if out.join("part-0000.csv").exists() && !kept.exists() {
            crate::support::copy(&store(), &kept);
        }
    };
    let report = crate::job::run(&job, &progress).unwrap();
    // Opened as a copy, it would be recovered as after a power cut, and the damage would end its
    // history.
    crate::support::adopt(&kept);
    assert!(report.log_bytes > 100_000 && calls.into_inner() > 20, "{report:?}");
    let verified = on(&kept, &["verify", "--json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    // Flip one bit of a value in the copy.
    let batches = on(&kept, &["batches", "--json"]).json();
    let file =
        kept.join(format!("{:016x}.seg", batches["batches"][1]["segment"].as_u64().unwrap()));
    let mut bytes = std::fs::read(&file).unwrap();
    // Not a byte before an aligned value: it belongs to no value.
    let scanned = partd_format::Scanner::new(&bytes).unwrap();
    let mut entries =
        scanned.filter_map(|found| found.batch?.ok()).flat_map(|batch| batch.entries());
    let at = entries.find(|entry| entry.value_len > 5).unwrap().value_offset as usize + 5;
    bytes[at] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    let verified = on(&kept, &["verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.text().contains("checksum of value"), "{verified:?}");
    let rescued = dir.path().join("rescued");
    let salvaged = on(&kept, &["salvage", "--json", rescued.to_str().unwrap()]).json();
    assert_eq!(salvaged["lost_values"].as_array().unwrap().len(), 1, "{salvaged:#}");
    assert_eq!(on(&rescued, &["verify"]).code, 0);
}

#[test]
fn a_store_whose_writers_cannot_be_seen_counts_as_open_while_its_history_advances() {
    use partd_format::control::{COMMIT_AT, Commit};
    use std::os::unix::fs::FileExt;
    // No locks are held here, as it appears from another container.
    let dir = tempfile::tempdir().unwrap();
    let mut segment = Segment::new(build::STORE, 1, 4096);
    segment.commit(1, &[Item::append("a", "1")]);
    segment.commit(2, &[Item::append("a", "2")]);
    // Sequence number 3 is reserved but not yet present, and 4 is present. Judged by the numbers
    // alone, 3 is missing.
    segment.commit(4, &[Item::append("a", "4")]);
    let control = Control { next_segment: 2, ..Control::open(build::STORE, boot(), 2) };
    let store = write_store(dir.path(), &[&segment], Some(&control));
    assert_eq!(on(&store, &[]).code, 1, "at rest, 3 is lost");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(store.join("control")).unwrap();
            for slot in (0..1000).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                let word = Commit { sequence: 2, slot, done: true }.encode();
                file.write_all_at(&word.to_le_bytes(), COMMIT_AT).unwrap();
            }
        });
        // The thread may not run between two checks; to this process the store is then at rest.
        let since = Instant::now();
        let late = || since.elapsed() > Duration::from_secs(60);
        let read = loop {
            let read = Store::read(&store);
            if late() || read.as_ref().is_ok_and(|read| !read.is_damaged()) {
                break read;
            }
        };
        let ran = loop {
            let ran = on(&store, &["--json"]);
            if late() || ran.code == 0 {
                break ran;
            }
        };
        stop.store(true, Ordering::Relaxed);
        let read = read.unwrap();
        assert_eq!(
            (read.history.last, read.is_damaged()),
            (2, false),
            "{:#?}",
            read.history.problems
        );
        let document = ran.json();
        assert_eq!((ran.code, &document["unseen_writers"]), (0, &true.into()), "{document:#}");
    });
}

#[test]
fn a_segment_recycled_during_a_read_is_read_again_or_refused() {
    use rustix::fs::{FlockOperation, flock};
    let dir = tempfile::tempdir().unwrap();
    let store = crate::support::sample_store(dir.path());
    crate::support::make_temporary(&store);
    let at_rest = on(&store, &[]).text();
    assert!(at_rest.contains("temporary: it belonged to one process"), "{at_rest}");
    let held = std::fs::File::open(&store).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let text = on(&store, &[]).text();
    assert!(text.contains("temporary: it belongs to one process"), "{text}");
    let read = Store::read(&store).unwrap();
    assert!(read.recycles() && !read.has_gone() && !read.is_damaged());
    // A compaction recycles the replaced input of an output.
    let recycled = store.join("tmp-recycled-0000000000000001");
    std::fs::rename(store.join("0000000000000001.seg"), &recycled).unwrap();
    assert!(read.has_gone(), "what is read of it from now on is another segment's");
    let read = Store::read(&store).unwrap();
    assert_eq!((read.recycled, read.has_gone(), read.is_damaged()), (1, false, false));
    let document = on(&store, &["--json"]).json();
    assert_eq!(document["recycled_segments"], 1, "{document:#}");
    assert_eq!(document["control"]["temporary"], true, "{document:#}");
    assert_eq!(document["other_files"], serde_json::json!([]), "{document:#}");
    // A store that is not open, or that several processes may open, recycles no segments.
    drop(held);
    assert!(!Store::read(&store).unwrap().recycles());
}

#[test]
fn reading_takes_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::support::sample_store(dir.path());
    let read = Store::read(&store).unwrap();
    let files = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
    for path in files.chain([store.clone()]) {
        use rustix::fs::{FlockOperation, flock};
        let file = std::fs::File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
    assert_eq!(read.segments.len(), 4);
}

/// Compactions of a temporary store recycle its dead segments. A concurrent read returns the right
/// bytes, or the inspector says that a segment was recycled.
#[test]
fn a_live_temporary_store_is_read_right_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::options().segment_len_bytes(64 << 10).temporary_in(dir.path()).unwrap();
    let kept = vec![7; 30_000];
    log.append([("kept", &kept)]).unwrap();
    let stop = AtomicBool::new(false);
    let (mut right, mut again) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in (0_u32..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                log.append([(format!("key {}", i % 20), [i as u8; 5000])]).unwrap();
                log.delete([format!("key {}", (i + 10) % 20)]).unwrap();
                if i % 20 == 19 {
                    log.compact().unwrap();
                }
            }
        });
        let since = Instant::now();
        let mut wrong = None;
        while since.elapsed() < Duration::from_secs(3) || right < 5 {
            if since.elapsed() > Duration::from_secs(60) {
                wrong = Some(format!("only {right} were right, {again} to be run again"));
                break;
            }
            let ran = on(log.path(), &["get", "kept"]);
            match ran.code {
                0 if ran.stdout == kept => right += 1,
                2 => again += 1,
                code => {
                    wrong = Some(format!("exit code {code}: {}", ran.stderr));
                    break;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(wrong, None);
    });
    println!("{right} right, {again} to be run again");
}
