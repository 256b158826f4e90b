//! Several processes on one directory: concurrent writers and readers, killed, stopped and forked.
//!
//! Afterwards every acknowledged append is present once, whole, in its writer's order, and no
//! reader has seen a value shrink or change. `PARTD_SECONDS=60 cargo test --test processes writers`
//! makes each run longer; the seed of a run is printed and can be given as `PARTD_SEED`.
//! `kill_loop.rs` makes hundreds of random kills.

use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};
use partd_testkit::children::arena::{Arena, Manner};
use partd_testkit::children::judge::{Watch, judge};
use partd_testkit::children::roles::slot_is_locked;
use partd_testkit::children::{
    self, Child, Random, Start, directory, from_env, seed, start_with_channel, state_of,
    wait_for_state,
};

fn run_time() -> Duration {
    Duration::from_secs(from_env("PARTD_SECONDS", 3))
}

#[test]
fn appends_of_four_writers_beside_two_readers_arrive_once_whole_and_in_order() {
    let (_dir, store) = directory();
    let manner = Manner { pause_us: 500, long_bytes: 64 << 10, fork_every: 0 };
    let mut arena = Arena::start(&store, 4, 2, manner, seed());
    let p = SegmentLog::open_read_only(&store).unwrap();
    let mut watch = Watch::default();
    let since = Instant::now();
    while since.elapsed() < run_time() {
        watch.look(&p, &arena.log);
        std::thread::sleep(Duration::from_millis(50));
    }
    // However slow the machine is, every process has done something.
    for writer in 0..4 {
        arena.wait_for("its append", |arena| arena.log.acked(writer) >= 32);
    }
    for reader in 0..2 {
        arena.wait_for("its read", |arena| arena.reads(reader) >= 8);
    }
    let log = arena.finish();
    let passed = judge(&SegmentLog::open(&store).unwrap(), &log);
    assert_eq!(passed.unacknowledged, 0, "no writer died");
    println!("{passed:?}");
}

#[test]
fn writers_killed_stopped_and_outlived_by_forked_children_lose_and_delay_nothing() {
    let (_dir, store) = directory();
    let seed = seed();
    let manner = Manner { pause_us: 1000, long_bytes: 128 << 10, fork_every: 3 };
    let mut arena = Arena::start(&store, 4, 2, manner, seed);
    let p = SegmentLog::open_read_only(&store).unwrap();
    let mut watch = Watch::default();
    let mut random = Random(seed ^ 1);
    let since = Instant::now();
    let mut kills = 0;
    while since.elapsed() < run_time() || kills < 8 {
        let writer = random.below(4) as u32;
        match random.below(6) {
            0 | 1 => arena.kill_writer(writer, random.below(2) == 0),
            2 | 3 => arena.stop_writer(writer, false),
            4 => arena.stop_writer(writer, true),
            _ => {
                arena.kill_reader(random.below(2) as u32);
                0
            }
        };
        kills += 1;
        watch.look(&p, &arena.log);
        std::thread::sleep(Duration::from_millis(random.below(50)));
    }
    assert!(arena.left_behind() > 0, "a forked child has outlived its parent");
    let log = arena.finish();
    watch.look(&p, &log);
    println!("{kills} deaths and stops, {:?}", judge(&SegmentLog::open(&store).unwrap(), &log));
}

#[test]
fn a_forked_child_that_outlives_its_parent_delays_no_one_and_its_handle_returns_errors() {
    let (_dir, store) = directory();
    let arguments = [store.display().to_string()];
    let (forker, reports) = start_with_channel(&Start::default(), "forker", &arguments);
    let next = || reports.recv_timeout(children::PATIENCE).expect("the children report");
    let (mut pid, mut acknowledged, mut operations, mut done) = (None, false, 0, false);
    while pid.is_none() || !acknowledged || !done {
        let report = next();
        if let Some(found) = report.strip_prefix("f ") {
            pid = Some(found.parse::<u32>().unwrap());
        } else if report == "a" {
            acknowledged = true;
        } else if report == "forked done" {
            done = true;
        } else {
            let said = report.strip_prefix("forked ").expect("the child reports nothing else");
            let mut words = said.splitn(3, ' ');
            let (operation, forked, message) = (words.next(), words.next(), words.next());
            assert_eq!(forked, Some("true"), "{operation:?} gave {message:?}");
            let message = message.unwrap();
            assert!(message.contains(&*store.to_string_lossy()), "{message}");
            assert!(message.contains("open the store again in the child"), "{message}");
            operations += 1;
        }
    }
    assert_eq!(operations, 16);
    let pid = pid.unwrap();
    let input = forker.kill();
    // The child waits for input that never comes.
    wait_for_state(pid, &[Some('S')]);
    // The premise: the dead parent's slot is still locked, through what its child has inherited.
    assert!(slot_is_locked(&store, 0), "the lock is not held");
    // No one waits for it: not the next handle, nor its writes, syncs and reads.
    for i in 0..3_u64 {
        let p = SegmentLog::open(&store).unwrap();
        p.append([("later", "x")]).unwrap();
        p.append_durable([("later", "y")]).unwrap();
        assert_eq!(p.len_of("later").unwrap(), (i + 1) * 2);
        let keys = ["before the fork", "after the fork", "by the child", "k"];
        assert!(p.get_many(keys).unwrap() == [&b"x"[..], b"x", b"x", b""]);
        p.verify().unwrap();
    }
    assert!(state_of(pid).is_some(), "the forked child lived throughout");
    drop(input);
    wait_for_state(pid, &[None, Some('Z')]);
}

#[test]
fn a_failed_check_in_a_child_fails_the_test_that_started_it() {
    let (_dir, store) = directory();
    let p = SegmentLog::open(&store).unwrap();
    // No writer creates this piece, so the reader must object.
    p.append([("all", "rubbish")]).unwrap();
    let arguments = [store.display().to_string(), "1".to_owned(), "0".to_owned()];
    let mut reader = Child::start("reader", &arguments, |_| {});
    assert!(!reader.wait().success());
}
