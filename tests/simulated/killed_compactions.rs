//! A compaction is killed after each of its operations in turn. Another process finishes it, or
//! recovery does if all processes were killed. The power is cut throughout, and any of the changes
//! of names may be lost: a file that replaces others is only as durable as its name.

use std::collections::HashSet;
use std::sync::Arc;

use crate::sim::cuts::{Mode, names};
use crate::sim::disk::SimDisk;
use crate::sim::oracle::{Op, Oracle};
use crate::sim::script::{Call, Recording, Step, run};
use crate::sim::timeline::{Choice, Timeline};
use crate::sim::{Rng, STORE, Violation, options};

fn append(key: &str, byte: u8) -> Op {
    Op::Append(key.to_owned(), vec![byte; 20])
}

fn write(by: u8, ops: Vec<Op>, durable: bool) -> Step {
    Step::Call(by, Call::Write { ops, durable })
}

/// Segments to compact, with a delete that an output may drop and one that it may not.
fn before() -> Vec<Step> {
    vec![
        write(3, vec![append("kept", 1), append("deleted later", 2)], false),
        write(0, vec![append("deleted", 3), append("a", 4)], false),
        Step::Call(0, Call::Close),
        write(1, vec![Op::Delete("deleted".to_owned()), append("a", 5)], false),
        write(1, vec![Op::Delete("kept".to_owned()), append("b", 6)], true),
        Step::Call(1, Call::Close),
    ]
}

/// The steps after the kill: others finish the compaction, then run another one and a delete.
fn finished_by_another() -> Vec<Step> {
    vec![
        Step::Kill(2),
        Step::Call(1, Call::Compact),
        write(3, vec![Op::Delete("a".to_owned()), append("c", 7)], true),
        Step::Call(3, Call::Close),
        Step::Call(1, Call::Compact),
        write(1, vec![append("d", 8)], true),
    ]
}

fn recovered() -> Vec<Step> {
    vec![
        Step::Kill(3),
        Step::Kill(2),
        Step::Call(0, Call::Open),
        write(0, vec![append("c", 7)], true),
        Step::Call(0, Call::Compact),
        write(0, vec![append("d", 8)], true),
    ]
}

/// Cuts the power whenever names have changed, with all pending bytes of files kept or all lost.
/// Returns the number of images.
fn cut_all_along(recording: &Recording, seed: u64) -> Result<usize, Violation> {
    let mut timeline = Timeline::new(&recording.disk, &recording.log, 4096, 0);
    let mut rng = Rng(seed);
    let mut seen = HashSet::new();
    let (mut floor, mut changes) = (0, 0);
    while let Some(passed) = timeline.pass() {
        passed?;
        let now = (timeline.floor, timeline.pending_names());
        if now.0 == 0 || now == (floor, changes) {
            continue;
        }
        (floor, changes) = now;
        let mut oracle = Oracle::default();
        for batch in &timeline.taken {
            oracle.push(&recording.batches[batch.expect("a batch of the workload")]);
        }
        let units = timeline.units();
        let kept = units.iter().map(|unit| unit.versions).collect();
        let lost = vec![0; units.len()].into();
        for names in names(changes, Mode::Harsh, &mut rng) {
            for versions in [&kept, &lost] {
                let choice = Choice { versions: Arc::clone(versions), names: Arc::clone(&names) };
                let image = timeline.image(&units, &choice);
                if !seen.insert((image.hash(), floor)) {
                    continue;
                }
                let log = options().open_on(SimDisk::unlogged(&image, seed), STORE);
                let log = log.map_err(|error| Violation::new("I1", error.to_string()))?;
                oracle.judge(&log, floor, timeline.ceiling())?;
            }
        }
    }
    Ok(seen.len())
}

/// Kills the compaction after each of its operations, and continues with `afterwards`.
fn at_each_operation(afterwards: &[Step]) -> (u64, usize) {
    let mut images = 0;
    for at in 1.. {
        let mut steps = before();
        steps.push(Step::Stop(2, at, Call::Compact));
        steps.extend_from_slice(afterwards);
        let looked_at = run(&steps, at, None).and_then(|recording| {
            images += cut_all_along(&recording, at)?;
            Ok(recording.stopped)
        });
        let was_stopped = looked_at.unwrap_or_else(|v| {
            panic!("{} is violated: {}; killed at operation {at}\n{steps:#?}", v.invariant, v.text)
        });
        if !was_stopped {
            return (at - 1, images);
        }
    }
    unreachable!("every compaction ends")
}

#[test]
fn a_power_cut_after_another_process_finished_a_killed_compaction_leaves_a_prefix() {
    let (operations, images) = at_each_operation(&finished_by_another());
    println!("{operations} operations, {images} images");
    assert!(operations >= 20 && images > 1000, "{operations} operations, {images} images");
}

#[test]
fn a_power_cut_after_recovery_finished_a_killed_compaction_leaves_a_prefix() {
    let (operations, images) = at_each_operation(&recovered());
    println!("{operations} operations, {images} images");
    assert!(operations >= 20 && images > 1000, "{operations} operations, {images} images");
}
