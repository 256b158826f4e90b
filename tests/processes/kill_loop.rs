//! The kill loop: four writers and two readers on the real disk, killed and stopped at random.
//!
//! The parent keeps a log of acknowledgements outside the store. After every death, everything
//! acknowledged so far must be present; at the end of a round everything must be present once and
//! whole, before and after the store is reopened, with and without its control file. At least a
//! tenth of the kills must leave a batch that was claimed and never committed: the loop counts such
//! batches in the segments, and fails if there are too few.
//!
//! An ordinary run makes 200 kills. `PARTD_KILLS=2000 cargo test --test processes kill_loop::`
//! makes more, in rounds of 200 on a store each; `PARTD_SEED` repeats the choices, but not the
//! moments.

use std::fs;
use std::time::{Duration, Instant};

use partd::SegmentLog;
use partd_testkit::children::arena::{Arena, Manner};
use partd_testkit::children::judge::{Passed, Watch, judge};
use partd_testkit::children::{Random, directory, from_env, seed};

/// The kills of one round.
const ROUND: u64 = 200;

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    kills: u64,
    /// Kills of writers, of previously stopped writers, and of readers.
    writers: u64,
    stopped: u64,
    readers: u64,
    /// Stops without a kill.
    stops: u64,
    /// Kills that left a claimed batch uncommitted.
    left_pending: u64,
    pending: u64,
    acknowledged: u64,
    unacknowledged: u64,
}

#[test]
fn random_kills_and_stops_lose_no_acknowledged_write() {
    let seed = seed();
    let kills = from_env("PARTD_KILLS", ROUND);
    let mut random = Random(seed);
    let mut figures = Figures::default();
    let since = Instant::now();
    while figures.kills < kills {
        let until = kills.min(figures.kills + ROUND);
        round(&mut random, until, &mut figures);
        println!("{figures:?}, {:.1?}", since.elapsed());
    }
    assert!(
        figures.left_pending * 10 >= figures.kills,
        "too few kills have left a claimed, uncommitted batch: {figures:?}"
    );
    assert!(figures.acknowledged > figures.kills, "the writers did next to nothing: {figures:?}");
}

fn round(random: &mut Random, until: u64, figures: &mut Figures) {
    let (_dir, store) = directory();
    let manner = Manner { pause_us: 4000, long_bytes: 768 << 10, fork_every: 16 };
    let mut arena = Arena::start(&store, 4, 2, manner, random.next());
    let p = SegmentLog::open_read_only(&store).unwrap();
    let mut watch = Watch::default();
    while figures.kills < until {
        let writer = random.below(4) as u32;
        let pending = match random.below(16) {
            0 => {
                arena.kill_reader(random.below(2) as u32);
                figures.readers += 1;
                0
            }
            1 => {
                arena.stop_writer(writer, false);
                figures.stops += 1;
                continue;
            }
            2 => {
                figures.stopped += 1;
                arena.stop_writer(writer, true)
            }
            n => {
                figures.writers += 1;
                arena.kill_writer(writer, n % 2 == 0)
            }
        };
        figures.kills += 1;
        figures.left_pending += u64::from(pending > 0);
        figures.pending += pending as u64;
        watch.look(&p, &arena.log);
        std::thread::sleep(Duration::from_millis(random.below(30)));
    }
    // The last ones die together, so none is left to help.
    let log = arena.kill_all();
    watch.look(&p, &log);
    drop(p);
    let passed = judge(&SegmentLog::open_read_only(&store).unwrap(), &log);
    let judged_again = |what: &str, again: Passed| {
        assert!(again == passed, "{what}: {again:?}, and {passed:?} before");
    };
    judged_again("after recovery", judge(&SegmentLog::open(&store).unwrap(), &log));
    judged_again("after a clean close", judge(&SegmentLog::open(&store).unwrap(), &log));
    fs::remove_file(store.join("control")).unwrap();
    judged_again("without a control file", judge(&SegmentLog::open(&store).unwrap(), &log));
    figures.acknowledged += passed.acknowledged;
    figures.unacknowledged += passed.unacknowledged;
}
