//! Backups beside processes that append, compact and are killed: each holds everything that was there
//! when it began, nothing that came after it ended, and only whole appends.

use std::time::Duration;

use partd::{Partd, SegmentLog};
use partd_testkit::children::arena::{Arena, Manner};
use partd_testkit::children::judge::judge;
use partd_testkit::children::pieces::parse;
use partd_testkit::children::roles::ALL;
use partd_testkit::children::{Random, directory, from_env, seed};

#[test]
fn backups_beside_processes_that_append_and_die_hold_a_prefix_with_every_earlier_append() {
    let (dir, store) = directory();
    let seed = seed();
    let manner = Manner { pause_us: 500, long_bytes: 64 << 10, fork_every: 0 };
    let mut arena = Arena::start(&store, 3, 1, manner, seed);
    let (p, mut random) = (SegmentLog::open(&store).unwrap(), Random(seed ^ 2));
    let mut last = 0;
    for number in 0..from_env("PARTD_BACKUPS", 12) {
        let before = p.get(ALL).unwrap();
        let copy = dir.path().join(format!("copy {number}"));
        let made = p.backup(&copy).unwrap();
        let after = p.get(ALL).unwrap();
        let opened = SegmentLog::open(&copy).unwrap();
        assert_eq!(opened.last_seq().unwrap(), made.seq);
        assert!(made.seq.get() >= last);
        last = made.seq.get();
        opened.verify().unwrap();
        let held = opened.get(ALL).unwrap();
        assert!(held.starts_with(&before), "something that was there is missing");
        assert!(after.starts_with(&held), "it holds something that the store never held");
        parse(&held).expect("every append is whole");
        drop(opened);
        arena.kill_writer(random.below(3) as u32, number % 2 == 0);
        if number % 3 == 0 {
            p.compact().unwrap();
        }
        std::thread::sleep(Duration::from_millis(random.below(40)));
    }
    let log = arena.finish();
    drop(p);
    println!("{last} batches, {:?}", judge(&SegmentLog::open(&store).unwrap(), &log));
    assert!(last > 100, "only {last} batches");
}
