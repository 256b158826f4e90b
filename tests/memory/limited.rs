//! Processes in a memory cgroup that holds a part of their data: one is killed while it appends,
//! then the data is read, popped and compacted, and the system kills none of them for lack of
//! memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use partd::{Error, Partd, SegmentLog};
use partd_testkit::cgroup::{self, Cgroup};
use partd_testkit::children;

const LIMIT: u64 = 48 << 20;
const KEYS: u64 = 16;
const VALUE: usize = 40_000;
/// The number of batches before the appending process is killed: three times the limit.
const BATCHES: u64 = 3 * LIMIT / (KEYS * VALUE as u64);

fn options() -> partd::Options {
    SegmentLog::options().segment_len_bytes(8 << 20).compaction_dead_share(None)
}

fn value(batch: u64, key: u64) -> Vec<u8> {
    vec![(batch * 3 + key * 5) as u8; VALUE]
}

/// The bytes of a cgroup's pages that are not on disk yet.
fn dirty_bytes(cgroup: &Path) -> u64 {
    let stat = std::fs::read_to_string(cgroup.join("memory.stat")).unwrap();
    // Version 1 of cgroups counts them as `dirty`, version 2 as `file_dirty`.
    let field = |line: &str| {
        line.strip_prefix("file_").unwrap_or(line).strip_prefix("dirty ")?.parse().ok()
    };
    stat.lines().find_map(field).expect("the number of dirty bytes")
}

#[test]
fn early_writeback_halves_the_dirty_pages() {
    let cgroup = match Cgroup::new(8 * LIMIT) {
        Ok(cgroup) => cgroup,
        Err(why) => return children::skip(&why),
    };
    let dir = tempfile::tempdir().unwrap();
    let dirty_after = |role: &str| {
        let store = dir.path().join(role);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "limited::child_under_a_limit", "--nocapture"])
            .env("PARTD_TEST_CGROUP", cgroup.path())
            .env("PARTD_TEST_STORE", &store)
            .env("PARTD_TEST_ROLE", role)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let bytes = text.lines().find_map(|line| line.strip_prefix("dirty bytes: "));
        let bytes = bytes.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap();
        std::fs::remove_dir_all(store).unwrap();
        bytes
    };
    let (late, early) = (dirty_after("append late"), dirty_after("append early"));
    assert!(late > 2 * LIMIT, "{late} bytes: is this a file system in memory?");
    assert!(early < late / 2, "{early} bytes, and {late} without an early start");
}

fn append_and_measure(path: &Path, cgroup: &Path, after_bytes: Option<u64>) {
    let p = options().write_back_after_bytes(after_bytes).open(path).unwrap();
    for batch in 0..BATCHES {
        let values: Vec<_> = (0..KEYS).map(|key| (key, value(batch, key))).collect();
        p.append(values.iter().map(|(key, value)| (*key, value))).unwrap();
    }
    println!("dirty bytes: {}", dirty_bytes(cgroup));
}

/// Runs as a child in a cgroup: appends until it is killed, or works on what a killed one has left.
#[test]
fn child_under_a_limit() {
    let Some(cgroup) = std::env::var_os("PARTD_TEST_CGROUP") else { return };
    let path = std::env::var_os("PARTD_TEST_STORE").expect("a store");
    cgroup::join(Path::new(&cgroup));
    match std::env::var("PARTD_TEST_ROLE").as_deref() {
        Ok("append") => append(Path::new(&path)),
        Ok("append late") => append_and_measure(Path::new(&path), Path::new(&cgroup), None),
        Ok("append early") => append_and_measure(Path::new(&path), Path::new(&cgroup), Some(0)),
        Ok("use up") => use_up(Path::new(&path)),
        role => panic!("{role:?}"),
    }
}

fn append(path: &Path) {
    let p = options().open(path).unwrap();
    // A few more than the parent waits for, in case the signal is late.
    for batch in 0..BATCHES + 20 {
        let values: Vec<_> = (0..KEYS).map(|key| (key, value(batch, key))).collect();
        p.append(values.iter().map(|(key, value)| (*key, value))).unwrap();
        println!("acknowledged {}", batch + 1);
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn use_up(path: &Path) {
    let acknowledged: u64 = std::env::var("PARTD_TEST_ACKNOWLEDGED").unwrap().parse().unwrap();
    let p = options().max_read_bytes(LIMIT / 2).open(path).unwrap();
    let all = p.get_many(0..KEYS);
    assert!(matches!(all, Err(Error::ReadTooLarge { .. })), "{LIMIT} bytes cannot hold it");
    let too_many = p.pop(0..KEYS);
    assert!(matches!(too_many, Err(Error::ReadTooLarge { .. })));
    p.verify().unwrap();
    // Half of the keys are deleted, and the rest is compacted.
    for key in 0..KEYS / 2 {
        check(&p.pop([key]).unwrap()[0], key, acknowledged);
    }
    let report = p.compact().unwrap();
    assert!(report.segments_replaced > 0 && report.skipped.is_none(), "{report:?}");
    for key in KEYS / 2..KEYS {
        check(&p.get(key).unwrap(), key, acknowledged);
        let view = p.view(key).unwrap();
        assert!(view.pieces(1 << 20).all(|piece| piece.len() <= 1 << 20));
    }
    println!("all is there");
}

/// Checks that a value is every acknowledged append, and perhaps one more.
fn check(found: &[u8], key: u64, acknowledged: u64) {
    let batches = (found.len() / VALUE) as u64;
    assert!((acknowledged..=acknowledged + 1).contains(&batches), "{batches} of {acknowledged}");
    let mut values = found.chunks(VALUE);
    assert!((0..batches).all(|batch| values.next() == Some(&value(batch, key))), "key {key}");
}

fn start(cgroup: &Cgroup, store: &Path, role: &str, acknowledged: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "limited::child_under_a_limit", "--nocapture"])
        .env("PARTD_TEST_CGROUP", cgroup.path())
        .env("PARTD_TEST_STORE", store)
        .env("PARTD_TEST_ROLE", role)
        .env("PARTD_TEST_ACKNOWLEDGED", acknowledged.to_string())
        // Symbolizing a backtrace takes more memory than the limit.
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_writer_a_popper_and_a_compaction_need_memory_for_only_a_third_of_the_data() {
    let cgroup = match Cgroup::new(LIMIT) {
        Ok(cgroup) => cgroup,
        Err(why) => return children::skip(&why),
    };
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut writer = start(&cgroup, &store, "append", 0);
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    while acknowledged < BATCHES {
        let line = lines.next().expect("the system has ended the writer").unwrap();
        if let Some(number) = line.strip_prefix("acknowledged ") {
            acknowledged = number.parse().unwrap();
        }
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    // Reports from before the kill.
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("acknowledged ") {
            acknowledged = number.parse().unwrap_or(acknowledged);
        }
    }
    let user = start(&cgroup, &store, "use up", acknowledged).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&user.stdout);
    assert!(user.status.success() && said.contains("all is there"), "{}: {said}", user.status);
}
