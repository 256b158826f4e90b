//! Tests of the crash tests: a disk on which one call has no effect must be caught, each by the
//! test named here and for the invariant that it breaks.
//!
//! Defects of the code itself are planted by `tests/mutants.sh`; `tests/README.md` has the table.

use crate::sim::corruption::in_the_place_of_another;
use crate::sim::cuts::Mode;
use crate::sim::disk::{Defect, SimDisk};
use crate::sim::image::Image;
use crate::sim::power::{Effort, Failure, explore, shrink};
use crate::sim::{Rng, STORE, options, workloads};
use partd::Partd;

const EFFORT: Effort = Effort { images: 20_000, from_percent: 0 };

/// The failure that the crash test finds in a workload on a disk with a defect.
fn crash_test(name: &str, defect: Defect, modes: &[Mode]) -> Failure {
    crash_test_with(name, defect, EFFORT, modes)
}

fn crash_test_with(name: &str, defect: Defect, effort: Effort, modes: &[Mode]) -> Failure {
    let workload = workloads::ALL.iter().find(|workload| workload.name == name).expect("a name");
    for seed in 1..=20 {
        let steps = (workload.make)(&mut Rng(seed));
        if let Err(failure) = explore(&steps, seed, Some(defect), effort, modes) {
            println!("{defect:?}, {name}: {failure}");
            return *failure;
        }
    }
    panic!("{defect:?} is not found in the workload \"{name}\"");
}

fn breaks(invariants: &[&str], name: &str, defect: Defect) {
    let found = crash_test(name, defect, &Mode::ALL).violation;
    assert!(invariants.contains(&found.invariant), "{}: {}", found.invariant, found.text);
}

/// Several seeds with few images each find these sooner than one with many.
fn breaks_backups(defect: Defect) {
    let effort = Effort { images: 2_000, ..EFFORT };
    let found = crash_test_with("backups", defect, effort, &[Mode::Pages]).violation;
    assert_eq!(found.invariant, "I10", "{}", found.text);
}

#[test]
fn an_omitted_sync_loses_durable_batches() {
    breaks(&["I1"], "durable and plain", Defect::SyncLeftOut);
}

#[test]
fn a_failure_shrinks_to_a_few_steps_that_violate_the_same_invariant() {
    let defect = Some(Defect::SyncLeftOut);
    let failure = crash_test("durable and plain", Defect::SyncLeftOut, &Mode::ALL);
    let (invariant, seed, before) =
        (failure.violation.invariant, failure.seed, failure.steps.len());
    let again = |steps: &[_]| explore(steps, seed, defect, EFFORT, &Mode::ALL).err();
    let short = shrink(failure, again, 200);
    println!("{before} steps before: {short}");
    // A different violation does not count as the same failure.
    let mut other = crash_test("durable and plain", Defect::SyncLeftOut, &Mode::ALL);
    let unlike = other.clone();
    other.violation.invariant = "I2";
    let same = shrink(unlike, |_| Some(Box::new(other.clone())), 200);
    assert_eq!(same.steps.len(), before);
    assert_eq!(short.violation.invariant, invariant);
    assert!(short.steps.len() <= 4 && before > 4, "{} of {before} steps", short.steps.len());
}

#[test]
fn syncing_only_every_second_file_loses_durable_batches() {
    breaks(&["I1"], "several writers", Defect::EverySecondSyncLeftOut);
}

#[test]
fn a_sync_that_precedes_the_batch_loses_it() {
    breaks(&["I1"], "durable and plain", Defect::SyncTooEarly);
}

#[test]
fn an_omitted_sync_of_the_directory_loses_durable_batches() {
    breaks(&["I1"], "one writer", Defect::SyncOfDirectoryLeftOut);
}

#[test]
fn an_omitted_sync_of_the_parent_directory_loses_the_store() {
    breaks(&["I1"], "one writer", Defect::SyncOfParentLeftOut);
}

#[test]
fn an_omitted_sync_in_recovery_resurrects_discarded_batches() {
    breaks(&["I1", "I7", "I8"], "several writers", Defect::SyncInRecoveryLeftOut);
}

#[test]
fn an_omitted_sync_of_a_linked_segment_leaves_a_backup_that_a_power_cut_damages() {
    breaks_backups(Defect::SyncOfLinkedFileLeftOut);
}

#[test]
fn a_recovery_that_does_not_notice_hard_links_damages_the_other_store() {
    breaks_backups(Defect::LinksUncounted);
}

#[test]
fn a_constant_boot_id_makes_the_store_trust_lost_data() {
    breaks(&["I1", "I2"], "one writer", Defect::BootIdStays);
}

#[test]
fn locks_without_effect_give_two_writers_one_slot() {
    breaks(&["live", "I1", "I4", "I6"], "several writers", Defect::LocksLeftOut);
}

#[test]
fn a_short_write_is_noticed_by_the_first_reader() {
    breaks(&["live", "I3"], "large values", Defect::WriteIsShort);
}

#[test]
fn constant_random_numbers_let_stale_bytes_pass_as_batches() {
    // I4: three batches were written, but more are found.
    let (written, found) = in_the_place_of_another(Some(Defect::RandomStays));
    assert!(found.expect("the open succeeds") > written);
}

/// Fills a small disk; returns the number of successful appends.
fn fill(defect: Option<Defect>) -> (SimDisk, u64) {
    let disk = SimDisk::boot(&Image::blank(), 1, defect);
    let log = options().open_on(disk.clone(), STORE);
    let log = log.expect("a new store");
    // Two segments, and two reserves.
    disk.limit(264 << 10);
    let full = (0..).find(|i: &u64| log.append([("k", [*i as u8; 3000])]).is_err());
    (disk, full.expect("the disk fills up"))
}

#[test]
fn a_full_disk_is_an_error_if_files_are_allocated_and_a_crash_if_they_are_not() {
    let (disk, appended) = fill(None);
    assert!(!disk.died_of_sigbus());
    assert!((40..70).contains(&appended), "{appended} appends fit");
    let disk = SimDisk::boot(&Image::blank(), 1, Some(Defect::AllocationLeftOut));
    let log = options().open_on(disk.clone(), STORE);
    let log = log.expect("a new store");
    disk.limit(200 << 10);
    for i in 0..100_u8 {
        log.append([("k", [i; 3000])]).expect("the full disk goes unnoticed");
    }
    assert!(disk.died_of_sigbus());
}
