//! The simulated disk loses its power after every operation of every workload, in every way that
//! the crash model allows; the store must recover to a prefix of its history.
//!
//! `PARTD_CRASH_IMAGES=N` sets the approximate number of images per workload and mode,
//! `PARTD_CRASH_SEED=N` the seed of the first round; `PARTD_CRASH_WORKLOAD=NAME` selects one
//! workload, and `PARTD_CRASH_SHRINK=N` sets the number of attempts to shorten a failing workload:
//! `PARTD_CRASH_IMAGES=40000 cargo test --release --test simulated crash:: -- --nocapture`

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::sim::Rng;
use crate::sim::cuts::{ALL_SUBSETS_MAX_UNITS, Mode};
use crate::sim::power::{Effort, Tally, explore, in_parallel, shrink};
use crate::sim::workloads::{ALL, TINY, Workload};

/// Images per workload and mode in an ordinary run.
const IMAGES: u64 = 1_800;
/// The minimum number of distinct images of power cuts in an ordinary run: of all workloads, and of
/// the tiny ones, whose subsets are all examined; more than 200,000 together.
const CUTS_MIN: u64 = 140_000;
const CUTS_MIN_TINY: u64 = 65_000;
/// One round examines about this many images; the next round has another seed.
const IMAGES_PER_ROUND: u64 = 900;

fn variable(name: &str, or: u64) -> u64 {
    let number = |text: String| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a number"))
    };
    std::env::var_os(name).map_or(or, |text| number(text.to_string_lossy().into_owned()))
}

/// Runs rounds of workloads and returns the counts of each. If a round fails, shortens and reports
/// the first failing one, so that the report is always the same; later rounds are not started.
fn run_all(jobs: &[(Workload, u64)], effort: Effort) -> BTreeMap<&'static str, Tally> {
    let since = Instant::now();
    let first_failed = AtomicUsize::new(usize::MAX);
    let numbered: Vec<_> = jobs.iter().enumerate().collect();
    let results = in_parallel(&numbered, |(number, (workload, seed))| {
        if *number > first_failed.load(Relaxed) {
            return None;
        }
        let steps = (workload.make)(&mut Rng(*seed));
        let result = explore(&steps, *seed, None, effort, &Mode::ALL);
        if result.is_err() {
            first_failed.fetch_min(*number, Relaxed);
        }
        Some((workload.name, result))
    });
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut failed = None;
    for (name, result) in results.into_iter().flatten() {
        match result {
            Ok(tally) => tallies.entry(name).or_default().add(&tally),
            Err(failure) => failed = failed.or(Some((name, failure))),
        }
    }
    let figures = table(&tallies);
    println!(
        "{figures}seed {}, {} rounds, {:.0} s",
        jobs[0].1,
        jobs.len(),
        since.elapsed().as_secs_f64()
    );
    if let Some((name, failure)) = failed {
        let seed = failure.seed;
        let again = |steps: &[_]| explore(steps, seed, None, effort, &Mode::ALL).err();
        let short = shrink(*failure, again, variable("PARTD_CRASH_SHRINK", 60) as usize);
        let number = first_failed.into_inner() + 1;
        panic!("{figures}round {number} of {} fails. {name}: {short}", jobs.len());
    }
    tallies
}

/// The number of distinct images of power cuts in all workloads.
fn cuts(tallies: &BTreeMap<&'static str, Tally>) -> u64 {
    let mut all = Tally::default();
    tallies.values().for_each(|tally| all.add(tally));
    println!("{} distinct images of power cuts", all.cuts());
    all.cuts()
}

/// The counts, as a table.
fn table(tallies: &BTreeMap<&'static str, Tally>) -> String {
    let mut table = format!(
        "{:27} moments recoveries   pages sectors   words  after control flipped     all\n",
        "distinct images"
    );
    let mut all = 0;
    for (name, tally) in tallies {
        let [pages, sectors, words, after, control, flipped] = tally.columns();
        let (moments, recoveries, total) = (tally.moments, tally.recoveries, tally.total());
        table += &format!(
            "{name:27} {moments:7} {recoveries:10} {pages:7} {sectors:7} {words:7} {after:6} \
             {control:7} {flipped:7} {total:7}\n"
        );
        all += total;
    }
    table + &format!("{all} in all, ")
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_every_durable_batch() {
    let images = variable("PARTD_CRASH_IMAGES", IMAGES);
    let seed = variable("PARTD_CRASH_SEED", 1);
    let rounds = images.div_ceil(IMAGES_PER_ROUND);
    let only = std::env::var("PARTD_CRASH_WORKLOAD").unwrap_or_default();
    let mut jobs: Vec<(Workload, u64)> =
        (0..rounds).flat_map(|round| ALL.map(|workload| (workload, seed + round))).collect();
    jobs.retain(|(workload, _)| only.is_empty() || workload.name == only);
    assert!(!jobs.is_empty(), "no workload is named {only:?}");
    let tallies = run_all(&jobs, Effort { images: IMAGES_PER_ROUND, from_percent: 0 });
    for (name, tally) in &tallies {
        assert!(tally.cuts() >= images.min(5_000), "{name}: only {} images", tally.cuts());
    }
    if images < IMAGES || !only.is_empty() {
        return;
    }
    let sum = cuts(&tallies);
    assert!(sum >= CUTS_MIN, "only {sum} distinct images of power cuts");
    let recoveries: u64 = tallies.values().map(|tally| tally.recoveries).sum();
    assert!(recoveries >= 60, "only {recoveries} recoveries were killed");
}

#[test]
fn every_subset_of_up_to_twelve_pending_changes_can_be_lost_in_a_power_cut() {
    let jobs = TINY.map(|workload| (workload, 1));
    let tallies = run_all(&jobs, Effort::EVERYTHING);
    let mut whole: BTreeMap<usize, u64> = BTreeMap::new();
    for tally in tallies.values() {
        assert_eq!(tally.thinned, 0, "at some moments not every subset was examined");
        tally.whole.iter().for_each(|(&units, n)| *whole.entry(units).or_default() += n);
    }
    println!("moments by the number of units that could be lost: {whole:?}");
    let sum = cuts(&tallies);
    assert!(sum >= CUTS_MIN_TINY, "only {sum} distinct images of power cuts");
    // Locks leave no names, so no moment of these workloads has eleven or twelve units.
    for units in 1..=ALL_SUBSETS_MAX_UNITS - 2 {
        assert!(whole.contains_key(&units), "no moment with {units} units");
    }
}
