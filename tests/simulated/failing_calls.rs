//! Every disk call that can fail does so once, in turn, with each of its possible errors, in every
//! operation of the public API, on a store that another handle uses too. Nothing panics; no
//! acknowledged batch is missing; an error names the path and has changed nothing; both handles
//! continue; the store reopens; and a power cut leaves everything durable.
//!
//! `failing_opens` and `failing_syncs` share its store, its history and its loop over faults.

mod operations;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::operations::{OPERATIONS, Operation};
use crate::sim::cuts::Mode;
use crate::sim::disk::{Event, SimDisk};
use crate::sim::faults::Call;
use crate::sim::image::Image;
use crate::sim::oracle::{Content, Op, Oracle, batch};
use crate::sim::timeline::{Choice, Timeline};
use crate::sim::{Rng, STORE, options};
use partd::{Durability, Error, Partd, SegmentLog};
use partd_format::batch::Layout;
use partd_format::segment::HEADER_LEN;

pub(super) type Log = SegmentLog<SimDisk>;
pub(super) type Outcome = Result<(), String>;

/// The number of images of a power cut to examine at each moment.
const IMAGES: usize = 6;

pub(super) fn append(key: &str, len: usize) -> Op {
    let bytes = (0..len).map(|i| (i * 31 + key.len() + len) as u8).collect();
    Op::Append(key.to_owned(), bytes)
}

/// A disk, everything ever written to its store, and whether it was acknowledged.
pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) batches: Vec<Vec<Op>>,
    /// The history with which the disk began.
    pub(super) before: Vec<usize>,
}

impl World {
    pub(super) fn on(disk: SimDisk) -> World {
        World { disk, batches: Vec::new(), before: Vec::new() }
    }

    /// Makes a call that writes a batch, or none.
    pub(super) fn call(
        &mut self,
        disk: &SimDisk,
        ops: Option<Vec<Op>>,
        durable: bool,
        call: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        disk.begin(ops.as_ref().map(|_| self.batches.len()));
        self.batches.extend(ops);
        let done = call();
        if done.is_ok() {
            disk.end(durable);
        }
        done
    }

    pub(super) fn write(
        &mut self,
        disk: &SimDisk,
        log: &Log,
        ops: Vec<Op>,
        durable: bool,
    ) -> Result<(), Error> {
        let durability = if durable { Durability::Durable } else { Durability::Plain };
        self.call(disk, Some(ops.clone()), durable, || log.write(&batch(&ops), durability))
    }

    /// The batches of the history, according to the commit word.
    pub(super) fn history(&self) -> Vec<usize> {
        let mut taken = self.before.clone();
        for event in self.disk.commits(0).0 {
            match event {
                Event::Commit { word, batch } if !word.done => taken.push(batch.expect("a batch")),
                Event::Recovered { sequence } => taken.truncate(sequence as usize),
                _ => {}
            }
        }
        taken
    }

    pub(super) fn content(&self) -> Content {
        let mut content = Content::default();
        self.history().into_iter().for_each(|number| content.apply(&self.batches[number]));
        content
    }

    fn is_written(&self, number: usize) -> bool {
        self.history().contains(&number)
    }

    /// Cuts the power at some moments of the log, and judges the result.
    pub(super) fn cut_power(&self, moments: &[usize], seed: u64) -> Outcome {
        self.each_image(moments, seed, IMAGES, &mut |_, _| {})
    }

    /// Like `cut_power`; `visit` receives each image and the history that it holds.
    pub(super) fn each_image(
        &self,
        moments: &[usize],
        seed: u64,
        images: usize,
        visit: &mut dyn FnMut(&Image, Vec<usize>),
    ) -> Outcome {
        let log = self.disk.log();
        let before = self.before.len() as u64;
        let mut timeline = Timeline::new(&self.disk, &log, Mode::Pages.unit_len(), before);
        let mut rng = Rng(seed);
        while let Some(passed) = timeline.pass() {
            passed.map_err(|violation| violation.text)?;
            if !moments.contains(&timeline.at()) {
                continue;
            }
            let taken = timeline.taken.iter().map(|number| number.expect("a batch"));
            let history: Vec<usize> = self.before.iter().copied().chain(taken).collect();
            let mut oracle = Oracle::default();
            history.iter().for_each(|number| oracle.push(&self.batches[*number]));
            let (units, names) = (timeline.units(), timeline.pending_names());
            for i in 0..images {
                let mut pick = |versions: usize| match i {
                    0 => 0,
                    1 => versions,
                    _ => rng.below(versions as u64 + 1) as usize,
                };
                let versions = units.iter().map(|unit| pick(unit.versions)).collect();
                let kept = if i % 3 == 2 { names } else { pick(names) };
                let choice = Choice { versions, names: (0..names).map(|n| n < kept).collect() };
                let image = timeline.image(&units, &choice);
                let disk = SimDisk::unlogged(&image, seed + 1);
                let at = format!("image {i} of a power cut at {}", timeline.at());
                let log = options().open_on(disk, STORE).map_err(|e| format!("{at}: {e}"))?;
                let found = oracle
                    .judge(&log, timeline.floor, timeline.ceiling())
                    .map_err(|v| format!("{at}: {} {}", v.invariant, v.text))?;
                visit(&image, history[..found as usize].to_vec());
            }
        }
        Ok(())
    }
}

/// Returns `what` as an error unless `holds`.
pub(super) fn must(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Opens the store, and compares it with the history.
pub(super) fn reopen(world: &World, read_only: bool) -> Result<(SimDisk, Log), String> {
    let disk = world.disk.new_process();
    let opened = match read_only {
        true => options().open_read_only_on(disk.clone(), STORE),
        false => options().open_on(disk.clone(), STORE),
    };
    let log = opened.map_err(|error| format!("it does not open again: {error}"))?;
    world.content().compare(&log).map_err(|why| format!("opened again: {why}"))?;
    Ok((disk, log))
}

/// The previous activity of the handle that meets the failing call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Before {
    Nothing,
    Writes,
    /// Its segment has no room for another batch.
    FillsASegment,
}

/// The end of a batch that begins at `offset`.
fn end_of_batch(offset: u64, key: &str, len: u64) -> u64 {
    let mut layout = Layout::new();
    layout.add(key.len() as u64, len).expect("a short value");
    offset + layout.batch_len(offset)
}

/// A store written by a closed handle, an open handle, and the handle under test.
pub(super) struct Store {
    pub(super) world: World,
    pub(super) mine: (SimDisk, Log),
    pub(super) other: (SimDisk, Log),
}

pub(super) fn store(before: Before) -> Store {
    let disk = SimDisk::boot(&Image::blank(), 7, None);
    let mut world = World::on(disk.clone());
    let open = || {
        let disk = disk.new_process();
        let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
        (disk, log)
    };
    let mut write = |(disk, log): &(SimDisk, Log), ops| {
        world.write(disk, log, ops, false).expect("the disk has no faults");
    };
    let closed = open();
    write(&closed, vec![append("a", 10), append("b", 2000), Op::Set("set".into(), b"1".to_vec())]);
    write(&closed, vec![append("gone", 3000), append("a", 3)]);
    write(&closed, vec![Op::Delete("gone".into())]);
    drop(closed);
    let (other, mine) = (open(), open());
    write(&other, vec![append("a", 20), append("c", 1500)]);
    match before {
        Before::Nothing => {}
        Before::Writes => write(&mine, vec![append("mine", 5)]),
        Before::FillsASegment => {
            // The space that a handle reserves for deletes, and the word that ends a segment.
            let room_end = (64 << 10) - 1024 - 8;
            let mut end = HEADER_LEN;
            for len in [5, 59_000] {
                write(&mine, vec![append("mine", len as usize)]);
                end = end_of_batch(end, "mine", len);
            }
            let last = (0..room_end - end).rfind(|len| end_of_batch(end, "mine", *len) <= room_end);
            write(&mine, vec![append("mine", last.expect("room for a batch") as usize)]);
        }
    }
    Store { world, mine, other }
}

/// Runs an operation whose call of a given number fails; returns the calls that it has made.
fn run(
    operation: &Operation,
    before: Before,
    fails: Option<(usize, i32)>,
) -> Result<Vec<Call>, String> {
    let Store { mut world, mine, other } = store(before);
    if operation.name.contains("another has compacted") {
        mine.1.get("a").map_err(|e| e.to_string())?;
        mine.1.sync().map_err(|e| e.to_string())?;
        other.1.compact().map_err(|e| e.to_string())?;
        world.write(&other.0, &other.1, vec![append("a", 9)], false).map_err(|e| e.to_string())?;
    }
    let old = world.content();
    let number = world.batches.len();
    let ops = (operation.ops)();
    let writes = ops.is_some();
    mine.0.watch(fails);
    let done = world.call(&mine.0, ops, operation.durable, || (operation.call)(&mine.1, &old));
    let calls = mine.0.watched();
    let failed = fails.map(|(at, error)| (calls[at], error));
    let moment = world.disk.log_len();
    if let Err(error) = &done {
        must(failed.is_some(), "it fails although the disk has no faults")?;
        must(error.to_string().contains('/'), &format!("no path is named: {error}"))?;
    }
    // An acknowledged batch is present. A batch that failed is not, unless it was committed before
    // the error.
    let is_there = writes && world.is_written(number);
    must(done.is_err() || !writes || is_there, "the batch was acknowledged but is missing")?;
    must(done.is_ok() || !is_there || operation.durable, "the batch failed but was applied")?;
    for (who, (_, log)) in [("the handle", &mine), ("the other handle", &other)] {
        world.content().compare(log).map_err(|why| format!("{who}, after {done:?}: {why}"))?;
    }
    // Both handles continue.
    for (disk, log) in [&mine, &other] {
        world
            .write(disk, log, vec![append("after", 50)], false)
            .map_err(|error| format!("the handle does not continue: {error}"))?;
        world.content().compare(log).map_err(|why| format!("after continuing: {why}"))?;
    }
    let loses = failed.is_some_and(|(call, error)| call.loses(error));
    let is_of_sync = operation.durable || failed.is_some_and(|(call, _)| call == Call::SyncDir);
    for (disk, log) in [&mine, &other] {
        let number = world.batches.len();
        let appended = world.write(disk, log, vec![append("durable", 50)], true);
        match appended {
            Ok(()) => must(!(loses && is_of_sync), "a sync failed, but a later one succeeded")?,
            Err(Error::SyncFailed { .. }) if loses => {
                must(!world.is_written(number), "no sync is possible, but the batch was written")?;
                must(matches!(log.sync(), Err(Error::SyncFailed { .. })), "a sync succeeded")?;
            }
            Err(error) => return Err(format!("a durable append: {error}")),
        }
    }
    drop((mine, other));
    drop(reopen(&world, true)?);
    let (disk, log) = reopen(&world, false)?;
    world
        .write(&disk, &log, vec![append("again", 50)], false)
        .map_err(|error| format!("after it was opened again: {error}"))?;
    drop(log);
    if failed.is_none_or(|(call, error)| call.loses(error) || error == call.errors()[0]) {
        world.cut_power(&[moment, world.disk.log_len()], number as u64)?;
    }
    Ok(calls)
}

/// Calls `run` with every fault of the calls that it makes in a run without faults.
pub(super) fn every_fault(
    name: &str,
    run: impl Fn(Option<(usize, i32)>) -> Result<Vec<Call>, String>,
    violations: &mut Vec<String>,
) {
    let calls = run(None).unwrap_or_else(|why| panic!("{name}, without a fault: {why}"));
    for (at, call) in calls.iter().enumerate() {
        for &error in call.errors() {
            let system = std::io::Error::from_raw_os_error(error);
            let place = format!("{name}: its call {at}, {call:?}, gives \"{system}\"");
            match catch_unwind(AssertUnwindSafe(|| run(Some((at, error))))) {
                Ok(Ok(made)) => assert_eq!(made[..=at], calls[..=at], "{place}: other calls"),
                Ok(Err(why)) => violations.push(format!("{place}: {why}")),
                Err(_) => violations.push(format!("{place}: it panics")),
            }
        }
    }
    println!("{name}: {calls:?}");
}

pub(super) fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn a_failed_call_in_an_operation_is_an_error_that_changes_nothing_else() {
    let mut violations = Vec::new();
    for operation in &OPERATIONS {
        for before in [Before::Nothing, Before::Writes, Before::FillsASegment] {
            let name = format!("{} (before: {before:?})", operation.name);
            every_fault(&name, |fails| run(operation, before, fails), &mut violations);
        }
    }
    assert_none(&violations);
}

#[test]
fn a_failed_call_while_a_handle_drops_leaves_the_store_usable_for_others() {
    let mut violations = Vec::new();
    for alone in [false, true] {
        let run = |fails| {
            let Store { mut world, mine: (disk, log), other } = store(Before::Writes);
            let other = (!alone).then_some(other);
            disk.watch(fails);
            drop(log);
            let calls = disk.watched();
            let (disk, log) = match other {
                Some(other) => other,
                None => reopen(&world, false)?,
            };
            world.content().compare(&log).map_err(|why| why.to_string())?;
            let durable = world.write(&disk, &log, vec![append("durable", 50)], true);
            durable.map_err(|error| format!("a durable append: {error}"))?;
            world.cut_power(&[world.disk.log_len()], 1)?;
            Ok(calls)
        };
        every_fault(&format!("drop (alone: {alone})"), run, &mut violations);
    }
    assert_none(&violations);
}

#[test]
fn a_failed_call_with_temporary_stores_leaves_nothing_that_a_sweep_misses() {
    let mut violations = Vec::new();
    let run = |fails: Option<(usize, i32)>| {
        let disk = SimDisk::boot(&Image::blank(), 3, None);
        let temporary = |disk: &SimDisk| options().temporary_in_on(disk.clone(), "/");
        let (used, killed) = (disk.new_process(), disk.new_process());
        let used = temporary(&used).map_err(|e| e.to_string())?;
        let grave = temporary(&killed).map_err(|e| e.to_string())?;
        for log in [&used, &grave] {
            log.append([("k", "v")]).map_err(|e| e.to_string())?;
        }
        killed.kill();
        let disk = disk.new_process();
        disk.watch(fails);
        let made = temporary(&disk).and_then(|log| {
            log.append([("k", "v")])?;
            assert_eq!(log.get("k")?, b"v");
            Ok(())
        });
        let swept = Log::sweep_on(&disk, "/");
        let calls = disk.watched();
        for error in [made.err(), swept.err()].into_iter().flatten() {
            must(fails.is_some(), "it fails although the disk has no faults")?;
            must(error.to_string().contains("/"), &format!("no path is named: {error}"))?;
        }
        Log::sweep_on(&disk, "/").map_err(|error| error.to_string())?;
        let left = disk.snapshot().dirs;
        must(left.len() == 2 && left.contains(used.path()), &format!("{left:?} are left"))?;
        must(used.get("k").is_ok_and(|value| value == b"v"), "one in use was removed")?;
        drop((used, grave));
        Ok(calls)
    };
    every_fault("a temporary store and a sweep", run, &mut violations);
    assert_none(&violations);
}
