//! The simulated disk loses its power after every operation of every workload, in every way that
//! the crash model knows; the store must come back as a prefix of its history.
//!
//! `PARTD_CRASH_IMAGES=N` sets about how many images are looked at in each workload and mode, and
//! `PARTD_CRASH_SEED=N` the seed of the first round:
//! `PARTD_CRASH_IMAGES=100000 cargo test --release --test crash -- --nocapture`

mod sim;

use std::collections::BTreeMap;
use std::time::Instant;

use sim::Rng;
use sim::cuts::Mode;
use sim::power::{Effort, Tally, explore, in_parallel, shrink};
use sim::workloads::{ALL, Workload};

/// Images in each workload and mode, of the ordinary run.
const IMAGES: u64 = 10_000;
/// About so many images are looked at in one round; then the next one has another seed.
const IMAGES_PER_ROUND: u64 = 2_500;

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_durable() {
    let images = variable("PARTD_CRASH_IMAGES", IMAGES);
    let seed = variable("PARTD_CRASH_SEED", 1);
    let since = Instant::now();
    let rounds = images.div_ceil(IMAGES_PER_ROUND);
    let jobs: Vec<(Workload, u64)> =
        (0..rounds).flat_map(|round| ALL.map(|workload| (workload, seed + round))).collect();
    let effort = Effort { images: IMAGES_PER_ROUND, from_percent: 0 };
    let results = in_parallel(&jobs, |(workload, seed)| {
        let steps = (workload.make)(&mut Rng(*seed));
        (workload.name, explore(&steps, *seed, None, effort, &Mode::ALL))
    });
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut failed = None;
    let mut violations = 0;
    for (name, result) in results {
        match result {
            Ok(tally) => tallies.entry(name).or_default().add(&tally),
            Err(failure) => {
                violations += 1;
                failed = failed.or(Some((name, failure)));
            }
        }
    }
    if let Some((name, failure)) = failed {
        let seed = failure.seed;
        let again = |steps: &[_]| explore(steps, seed, None, effort, &Mode::ALL).err();
        let short = shrink(*failure, again, 60);
        panic!("{violations} of {} rounds fail. {name}: {short}", jobs.len());
    }
    let (mut sum, seconds) = (0, since.elapsed().as_secs_f64());
    println!("workload: moments, images by pages, sectors, words, and after recovery");
    for (name, tally) in &tallies {
        let Tally { moments, images: [pages, sectors, words], images_afterwards } = *tally;
        println!("{name}: {moments}, {pages}, {sectors}, {words}, {images_afterwards}");
        sum += tally.total();
    }
    println!("{sum} distinct images from seed {seed}, no violation, {seconds:.0} s");
    for (name, tally) in &tallies {
        assert!(tally.total() >= images.min(5_000), "{name}: only {} images", tally.total());
    }
}
