//! A store with live writers: the inspector works beside them, sees no damage, and delays nobody.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};

use crate::support::on;

/// Where a child process of these tests writes; set in children alone.
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

fn wait_for_batches(store: &Path, number: u64) {
    let since = Instant::now();
    loop {
        let ran = on(store, &["--json"]);
        if ran.code == 0 && ran.json()["batches"].as_u64().unwrap() >= number {
            return;
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
    wait_for_batches(&store, 100);
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
            assert!(sequence > last, "the history grows: {sequence} after {last}");
            last = sequence;
            let holders = document["holders"].as_array().unwrap();
            let alive = holders.iter().filter(|holder| holder["state"] == "alive");
            let mut pids: Vec<u64> = alive.map(|h| h["pid"].as_u64().unwrap()).collect();
            let mut expected: Vec<u64> = writers.iter().map(|w| u64::from(w.0.id())).collect();
            pids.sort_unstable();
            expected.sort_unstable();
            assert_eq!(pids, expected);
            // A segment may be sealed between the look at its writer and the look at it.
            active += document["segments"]["states"]["active"].as_u64().unwrap();
        }
    }
    assert!(active > 0, "no writer's segment was ever seen as active");
    // One dies: the other goes on, and the inspector knows who is who.
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
    // All die: nothing that was acknowledged is lost, and the engine agrees.
    writers.iter_mut().for_each(Writer::kill);
    let document = on(&store, &["verify", "--json"]).json();
    assert_eq!(document["health"]["status"], "recovery", "{document:#}");
    let all = on(&store, &["get", "all"]).stdout;
    let log = SegmentLog::open(&store).unwrap();
    assert!(log.get("all").unwrap() == all);
}
