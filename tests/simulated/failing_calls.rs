//! Every disk call that can fail does so once, in turn, with each of its possible errors, in every
//! operation of the public API, on a store that another handle uses too. Nothing panics; no
//! acknowledged batch is missing; an error names the path and has changed nothing; both handles
//! continue; the store reopens; and a power cut leaves everything durable.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::lent_files::read_extents;
use crate::sim::cuts::Mode;
use crate::sim::disk::{Event, Fate, SimDisk};
use crate::sim::faults::Call;
use crate::sim::image::Image;
use crate::sim::oracle::{Content, Op, Oracle, batch};
use crate::sim::timeline::{Choice, Timeline};
use crate::sim::{Rng, STORE, options};
use partd::{Buffer, Dict, Durability, Error, Partd, SegmentLog};
use partd_format::batch::Layout;
use partd_format::segment::HEADER_LEN;

type Log = SegmentLog<SimDisk>;
type Outcome = Result<(), String>;

/// The number of images of a power cut to examine at each moment.
const IMAGES: usize = 6;

fn append(key: &str, len: usize) -> Op {
    let bytes = (0..len).map(|i| (i * 31 + key.len() + len) as u8).collect();
    Op::Append(key.to_owned(), bytes)
}

/// A disk, everything ever written to its store, and whether it was acknowledged.
struct World {
    disk: SimDisk,
    batches: Vec<Vec<Op>>,
    /// The history with which the disk began.
    before: Vec<usize>,
}

impl World {
    fn on(disk: SimDisk) -> World {
        World { disk, batches: Vec::new(), before: Vec::new() }
    }

    /// Makes a call that writes a batch, or none.
    fn call(
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

    fn write(
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
    fn history(&self) -> Vec<usize> {
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

    fn content(&self) -> Content {
        let mut content = Content::default();
        self.history().into_iter().for_each(|number| content.apply(&self.batches[number]));
        content
    }

    fn is_written(&self, number: usize) -> bool {
        self.history().contains(&number)
    }

    /// Cuts the power at some moments of the log, and judges the result.
    fn cut_power(&self, moments: &[usize], seed: u64) -> Outcome {
        self.each_image(moments, seed, IMAGES, &mut |_, _| {})
    }

    /// Like `cut_power`; `visit` receives each image and the history that it holds.
    fn each_image(
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
fn must(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Opens the store, and compares it with the history.
fn reopen(world: &World, read_only: bool) -> Result<(SimDisk, Log), String> {
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
enum Before {
    Nothing,
    Writes,
    /// Its segment has no room for another batch.
    FillsASegment,
}

fn batch_len(key: &str, len: u64) -> u64 {
    let mut layout = Layout::new();
    layout.add(key.len() as u64, len).expect("a short value");
    layout.batch_len()
}

/// A store written by a closed handle, an open handle, and the handle under test.
struct Store {
    world: World,
    mine: (SimDisk, Log),
    other: (SimDisk, Log),
}

fn store(before: Before) -> Store {
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
            let mut room = (64 << 10) - HEADER_LEN - 1024 - 8;
            for len in [5, 59_000] {
                write(&mine, vec![append("mine", len as usize)]);
                room -= batch_len("mine", len);
            }
            write(&mine, vec![append("mine", (room - batch_len("mine", 0)) as usize / 8 * 8)]);
        }
    }
    Store { world, mine, other }
}

/// An operation of the public API.
struct Operation {
    name: &'static str,
    /// The operations of the batch that it writes.
    ops: fn() -> Option<Vec<Op>>,
    durable: bool,
    call: fn(&Log, &Content) -> Result<(), Error>,
}

fn appends(len: usize) -> Option<Vec<Op>> {
    Some(vec![append("a", len), append("new", 1)])
}

fn written(log: &Log, ops: Option<Vec<Op>>, durability: Durability) -> Result<(), Error> {
    log.write(&batch(&ops.expect("the write succeeds")), durability)
}

const NONE: fn() -> Option<Vec<Op>> = || None;

const OPERATIONS: [Operation; 22] = [
    Operation {
        name: "append",
        ops: || appends(30),
        durable: false,
        call: |log, _| written(log, appends(30), Durability::Plain),
    },
    Operation {
        name: "append through the file",
        ops: || appends(5000),
        durable: false,
        call: |log, _| written(log, appends(5000), Durability::Plain),
    },
    Operation {
        name: "append more than a segment",
        ops: || appends(70_000),
        durable: false,
        call: |log, _| written(log, appends(70_000), Durability::Plain),
    },
    Operation {
        name: "append durably",
        ops: || appends(40),
        durable: true,
        call: |log, _| written(log, appends(40), Durability::Durable),
    },
    Operation {
        name: "iset",
        ops: || Some(vec![Op::Set("b".into(), b"of b".to_vec())]),
        durable: false,
        call: |log, _| log.iset("b", "of b"),
    },
    Operation {
        name: "delete",
        ops: || Some(vec![Op::Delete("a".into()), Op::Delete("b".into())]),
        durable: false,
        call: |log, _| log.delete(["a", "b"]),
    },
    Operation {
        name: "clear",
        ops: || Some(vec![Op::Clear]),
        durable: false,
        call: |log, _| log.clear(),
    },
    Operation {
        name: "pop",
        ops: || Some(vec![Op::Delete("a".into()), Op::Delete("c".into())]),
        durable: false,
        call: |log, content| {
            let popped = log.pop(["a", "c"])?;
            assert!(popped == [content.get("a"), content.get("c")], "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "get",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(log.get("a")? == content.get("a"), "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "get_many",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let found = log.get_many(["c", "gone", "b"])?;
            assert!(found == [content.get("c"), b"", content.get("b")], "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "keys",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let keys = log.keys()?;
            assert!(keys.iter().map(partd::Key::as_bytes).eq(content.keys().map(str::as_bytes)));
            Ok(())
        },
    },
    Operation {
        name: "contains",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert!(log.contains("set")? && !log.contains("gone")?);
            Ok(())
        },
    },
    Operation {
        name: "len_of",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert_eq!(log.len_of("a")?, content.get("a").len() as u64);
            Ok(())
        },
    },
    Operation {
        name: "view",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let view = log.view("a")?;
            assert!(view.chunks().collect::<Vec<_>>().concat() == content.get("a"));
            Ok(())
        },
    },
    Operation {
        name: "view_many",
        ops: NONE,
        durable: false,
        call: |log, content| {
            for (key, view) in ["a", "b"].into_iter().zip(log.view_many(["a", "b"])?) {
                assert!(view.chunks().collect::<Vec<_>>().concat() == content.get(key));
            }
            Ok(())
        },
    },
    Operation {
        name: "extents",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(read_extents(&log.extents("a")?) == content.get("a"));
            Ok(())
        },
    },
    Operation {
        name: "verify",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert!(log.verify()?.extents > 4);
            Ok(())
        },
    },
    Operation {
        name: "stats",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert_eq!(log.stats()?.keys, content.keys().count() as u64);
            Ok(())
        },
    },
    Operation {
        name: "compact",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert_eq!(log.compact()?.runs, 1);
            Ok(())
        },
    },
    Operation { name: "sync", ops: NONE, durable: true, call: |log, _| log.sync() },
    Operation {
        name: "read after another has compacted",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(log.get("a")? == content.get("a"), "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "sync after another has compacted",
        ops: NONE,
        durable: true,
        call: |log, _| log.sync(),
    },
];

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
    let moment = world.disk.log().len();
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
        world.cut_power(&[moment, world.disk.log().len()], number as u64)?;
    }
    Ok(calls)
}

/// Calls `run` with every fault of the calls that it makes in a run without faults.
fn every_fault(
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

fn assert_none(violations: &[String]) {
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
fn a_segment_that_failed_to_open_when_published_is_synced_by_the_next_sync() {
    let mut faults = 0;
    for at in 1.. {
        let Store { mut world, mine, other } = store(Before::Writes);
        let (maker, log) = {
            let disk = world.disk.new_process();
            let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
            (disk, log)
        };
        mine.1.sync().expect("the disk has no faults");
        // Its first append creates a segment, and is stopped during that.
        let ops = vec![append("late", 100)];
        maker.begin(Some(world.batches.len()));
        world.batches.push(ops.clone());
        maker.stop_at(at);
        let appending = maker.clone();
        let thread = std::thread::spawn(move || {
            log.write(&batch(&ops), Durability::Plain).expect("the disk has no faults");
            appending.finished();
            log
        });
        let is_stopped = maker.wait() == Fate::Stopped;
        // Another segment appears, which starts a discovery; the late one may not exist yet.
        world
            .write(&other.0, &other.1, vec![append("c", 70_000)], false)
            .expect("the disk has no faults yet");
        world
            .write(&mine.0, &mine.1, vec![append("mine", 5)], true)
            .expect("the disk has no faults yet");
        maker.resume();
        drop(thread.join().expect("the append succeeds"));
        if !is_stopped {
            break;
        }
        mine.0.fail_first(Call::Open, libc::EIO);
        let failed = world.call(&mine.0, None, true, || mine.1.sync());
        if !mine.0.watched().contains(&Call::Open) {
            // The late segment was already open.
            continue;
        }
        failed.expect_err("the file could not be opened");
        faults += 1;
        world.call(&mine.0, None, true, || mine.1.sync()).expect("now it can be");
        let now = world.disk.log().len();
        world.cut_power(&[now], at).unwrap_or_else(|why| panic!("stopped at {at}: {why}"));
        drop(other);
    }
    assert!(faults > 5, "only {faults} syncs met a segment that they could not open");
}

/// A store in some state, with its open handles.
struct State {
    world: World,
    handles: Vec<(SimDisk, Log)>,
    /// Handles of killed processes.
    graves: Vec<(SimDisk, Log)>,
}

impl State {
    fn in_use() -> State {
        let Store { world, mine, other } = store(Before::Writes);
        State { world, handles: vec![mine, other], graves: Vec::new() }
    }

    fn closed() -> State {
        State { handles: Vec::new(), ..State::in_use() }
    }

    fn killed() -> State {
        let mut state = State::in_use();
        state.handles.iter().for_each(|(disk, _)| disk.kill());
        State { graves: std::mem::take(&mut state.handles), ..state }
    }

    fn of(world: World) -> State {
        State { world, handles: Vec::new(), graves: Vec::new() }
    }
}

/// The name of a state, and the function that creates it.
type Made<F> = (&'static str, F);

/// Opens a store with a failing call, then continues.
fn run_open(
    state: State,
    read_only: bool,
    fails: Option<(usize, i32)>,
) -> Result<Vec<Call>, String> {
    let State { mut world, mut handles, graves } = state;
    let disk = world.disk.new_process();
    disk.watch(fails);
    let opened = match read_only {
        true => options().open_read_only_on(disk.clone(), STORE),
        false => options().open_on(disk.clone(), STORE),
    };
    let calls = disk.watched();
    let loses = fails.is_some_and(|(at, error)| calls[at].loses(error));
    let moment = world.disk.log().len();
    match opened {
        Ok(log) if read_only => {
            world.content().compare(&log).map_err(|why| format!("read-only: {why}"))?;
        }
        Ok(log) => handles.push((disk, log)),
        Err(error) => {
            must(fails.is_some(), &format!("it fails although the disk has no faults: {error}"))?;
            must(error.to_string().contains(STORE), &format!("no path is named: {error}"))?;
        }
    }
    handles.push(reopen(&world, false)?);
    for (disk, log) in &handles {
        world.content().compare(log).map_err(|why| why.to_string())?;
        let plain = world.write(disk, log, vec![append("after", 50)], false);
        plain.map_err(|error| format!("the handle does not continue: {error}"))?;
        match world.write(disk, log, vec![append("durable", 50)], true) {
            Err(Error::SyncFailed { .. }) if loses => {}
            durable => durable.map_err(|error| format!("a durable append: {error}"))?,
        }
    }
    world.cut_power(&[moment, world.disk.log().len()], calls.len() as u64)?;
    drop((handles, graves));
    Ok(calls)
}

#[test]
fn a_failed_call_while_a_store_opens_leaves_it_usable_for_the_next_opener() {
    let mut violations = Vec::new();
    let states: [Made<fn() -> State>; 3] =
        [("in use", State::in_use), ("closed", State::closed), ("killed", State::killed)];
    for (name, state) in states {
        for how in [false, true] {
            let name = format!("open (read-only: {how}) of a store that is {name}");
            every_fault(&name, |fails| run_open(state(), how, fails), &mut violations);
        }
    }
    let nothing = || State::of(World::on(SimDisk::boot(&Image::blank(), 3, None)));
    let make = |fails| run_open(nothing(), false, fails);
    every_fault("open of nothing", make, &mut violations);
    let mut syncs = 0;
    for (i, torn) in torn_stores().iter().enumerate().step_by(5) {
        for how in [false, true] {
            let name = format!("open (read-only: {how}) of image {i} of a power cut");
            let open = |fails| run_open(State::of(again(torn)), how, fails);
            every_fault(&name, open, &mut violations);
            let calls = open(None).expect("the disk has no faults");
            syncs += calls.iter().filter(|call| **call == Call::Sync).count();
        }
    }
    assert!(syncs > 3, "{syncs} syncs in recoveries");
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
            world.cut_power(&[world.disk.log().len()], 1)?;
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

#[test]
fn a_full_segment_whose_writeback_failed_is_not_reported_durable() {
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let mut world = World::on(disk.clone());
    let writer = disk.new_process();
    let log = options().open_on(writer.clone(), STORE).expect("the disk has no faults");
    for _ in 0..3 {
        world
            .write(&writer, &log, vec![append("a", 40_000)], false)
            .expect("the disk has no faults yet");
    }
    let first = Path::new(STORE).join("0000000000000001.seg");
    disk.fail_writeback(&first);
    let syncer = disk.new_process();
    let other = options().open_on(syncer.clone(), STORE).expect("the disk has no faults yet");
    let failed = other.sync().expect_err("the first segment is lost").to_string();
    assert!(failed.contains("0000000000000001.seg"), "{failed}");
    assert!(matches!(log.sync(), Err(Error::SyncFailed { .. })));
    world.cut_power(&[world.disk.log().len()], 1).expect("nothing was promised");
    // Once they are synced, full segments are closed.
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
    for _ in 0..4 {
        log.append([("a", [7; 40_000])]).expect("the disk has no faults");
        log.sync().expect("the disk has no faults");
    }
    log.append([("a", [7; 40_000])]).expect("the disk has no faults");
    assert!(!disk.is_open(&first), "a segment that is synced stays open");
}

#[test]
fn a_superseded_sync_leader_promises_nothing_after_a_failed_sync() {
    for call in [Call::Sync, Call::SyncDir] {
        let mut failures = 0;
        for at in 1.. {
            let Store { mine: (disk, log), other: (passer, other), .. } = store(Before::Writes);
            // It is stopped during its sync and superseded after a while.
            disk.stop_at(at);
            let syncing = disk.clone();
            let thread = std::thread::spawn(move || {
                let durable_seq = log.sync();
                syncing.finished();
                durable_seq
            });
            let is_stopped = disk.wait() == Fate::Stopped;
            passer.fail_first(call, libc::EIO);
            let failed = other.sync();
            disk.resume();
            let durable_seq = thread.join().expect("it returns");
            if !is_stopped {
                break;
            }
            let Err(failed) = failed else {
                durable_seq.expect("the durable sequence number advanced without a failure");
                continue;
            };
            failures += 1;
            let why = format!("stopped at {at}, superseded by one whose {call:?} failed: {failed}");
            assert!(durable_seq.is_err(), "I1 is violated: {why}; but a sync succeeded");
            assert!(matches!(other.sync(), Err(Error::SyncFailed { .. })), "{why}");
            // A layer must not write anything that it could not make durable either.
            let before = other.len_of("a").expect("reads continue");
            let buffer = Buffer::new(Dict::new(), other, 1 << 20);
            let appended = buffer.append_durable([("a", "again")]);
            assert!(matches!(appended, Err(Error::SyncFailed { .. })), "{why}: {appended:?}");
            assert_eq!(buffer.len_of("a").expect("reads continue"), before);
            buffer.append([("a", "plain")]).expect("plain appends continue");
        }
        assert!(failures > 1, "{failures} times {call:?} failed");
    }
}

/// Another process opens the store and appends in the middle of a read-only opening.
#[test]
fn a_reader_that_opens_beside_a_new_writer_follows_it_or_makes_it_wait() {
    let torn = torn_stores();
    let states: [Made<&dyn Fn() -> State>; 4] = [
        ("in use", &State::in_use),
        ("closed", &State::closed),
        ("killed", &State::killed),
        ("torn", &|| State::of(again(&torn[3]))),
    ];
    let (mut followed, mut waited) = (0, 0);
    for (name, state) in states {
        for at in 0.. {
            let State { mut world, handles, graves } = state();
            let old = world.content();
            let (reader, writer) = (world.disk.new_process(), world.disk.new_process());
            let ops = [vec![append("came", 100)], vec![append("came", 30)]];
            let first = world.batches.len();
            world.batches.extend(ops.clone());
            let [ops, more] = ops;
            let (send, receive) = std::sync::mpsc::channel();
            let (has_come, comes) = std::sync::mpsc::channel();
            let disk = writer.clone();
            reader.interrupt(at, move || {
                std::thread::spawn(move || {
                    let log =
                        options().open_on(disk.clone(), STORE).expect("the disk has no faults");
                    disk.begin(Some(first));
                    log.write(&batch(&ops), Durability::Plain).expect("the disk has no faults");
                    let _ = has_come.send(());
                    send.send(log).expect("the test waits");
                });
                // The writer opens the store, or waits for the reader.
                let _ = comes.recv_timeout(Duration::from_millis(100)).map(|()| {
                    CAME.with(|came| came.set(true));
                });
            });
            CAME.with(|came| came.set(false));
            let opened = options().open_read_only_on(reader.clone(), STORE);
            let was_late = reader.watched().len() > at;
            let log = opened.unwrap_or_else(|e| panic!("{name}, before its call {at}: {e}"));
            if !was_late {
                break;
            }
            let other = receive.recv().expect("the writer arrives eventually");
            writer.begin(Some(first + 1));
            other.write(&batch(&more), Durability::Plain).expect("the disk has no faults");
            writer.end(false);
            let (now, came) = (world.content(), CAME.with(Cell::get));
            let is_followed = now.compare(&log).is_ok();
            let found =
                if came { now.compare(&log) } else { now.compare(&log).or(old.compare(&log)) };
            // A reader that computed the result of a recovery gets an error if someone else has
            // recovered the store meanwhile.
            if let Err(why) = found.map_err(|why| why.to_string()) {
                let is_told = why.contains("somebody has opened it for writing since");
                assert!(is_told, "{name}, before its call {at} (came: {came}): {why}");
            }
            followed += u64::from(is_followed);
            waited += u64::from(!came);
            drop((handles, graves));
        }
    }
    println!("{followed} were followed, {waited} waited");
    assert!(followed > 5 && waited > 1);
}

thread_local! {
    static CAME: Cell<bool> = const { Cell::new(false) };
}

/// Stores after a power cut whose recovery has something to discard.
fn torn_stores() -> Vec<World> {
    let Store { mut world, mine, other } = store(Before::Writes);
    for i in 0..6 {
        let (disk, log) = [&mine, &other][i % 2];
        let ops = vec![append("a", 200 * i), append("d", 700)];
        world.write(disk, log, ops, i == 1).expect("the disk has no faults");
    }
    let (batches, now) = (world.batches.clone(), world.disk.log().len());
    let mut torn = Vec::new();
    let all = world.history().len();
    let found = world.each_image(&[now], 3, 24, &mut |image, before| {
        let world = World { disk: SimDisk::boot(image, 5, None), batches: batches.clone(), before };
        if world.before.len() < all {
            torn.push(world);
        }
    });
    found.expect("the disk has no faults yet");
    assert!(torn.len() > 8, "{} of 24 images have lost something", torn.len());
    torn
}

fn again(world: &World) -> World {
    let disk = SimDisk::boot(world.disk.base(), 5, None);
    World { disk, batches: world.batches.clone(), before: world.before.clone() }
}

#[test]
fn a_killed_recovery_leaves_nothing_that_the_next_recovery_resurrects() {
    let mut kills = 0;
    for torn in torn_stores().into_iter().step_by(3) {
        for at in 1.. {
            let mut world = again(&torn);
            let first = world.disk.new_process();
            first.stop_at(at);
            let opening = first.clone();
            let thread = std::thread::spawn(move || {
                let call = || drop(options().open_on(opening.clone(), STORE));
                let _ = catch_unwind(AssertUnwindSafe(call));
                opening.finished();
            });
            let is_killed = first.wait() == Fate::Stopped;
            first.kill();
            let (disk, log) = reopen(&world, false).unwrap_or_else(|why| panic!("{at}: {why}"));
            world
                .write(&disk, &log, vec![append("again", 30)], true)
                .expect("the disk has no faults");
            let now = world.disk.log().len();
            let cut = world.cut_power(&[now], at);
            first.bury();
            thread.join().expect("it ends");
            cut.unwrap_or_else(|why| panic!("recovery killed after its operation {at}: {why}"));
            if !is_killed {
                break;
            }
            kills += 1;
        }
    }
    println!("{kills} recoveries were killed");
    assert!(kills > 100, "only {kills}");
}
