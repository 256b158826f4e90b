//! Every call of the disk that can fail does so once, in turn, with each error that it can give, in
//! every operation of the public face, on a store that another handle uses too. Nothing panics,
//! nothing is acknowledged that is not there, an error names the path and has changed nothing, the
//! handles go on, the store reopens, and a power cut leaves what was durable.

mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind};

use partd::{Durability, Error, Partd, SegmentLog};
use partd_format::batch::Layout;
use partd_format::segment::HEADER_LEN;
use sim::cuts::Mode;
use sim::disk::{Event, Fate, SimDisk};
use sim::faults::Call;
use sim::image::Image;
use sim::oracle::{Content, Op, Oracle, batch};
use sim::timeline::{Choice, Timeline};
use sim::{Rng, STORE, options};

type Log = SegmentLog<SimDisk>;
type Outcome = Result<(), String>;

/// Images of a power cut that are looked at, at each moment.
const IMAGES: usize = 6;

fn append(key: &str, len: usize) -> Op {
    let bytes = (0..len).map(|i| (i * 31 + key.len() + len) as u8).collect();
    Op::Append(key.to_owned(), bytes)
}

/// A disk, all that was ever written to its store, and whether it was acknowledged.
struct World {
    disk: SimDisk,
    batches: Vec<Vec<Op>>,
}

impl World {
    fn on(disk: SimDisk) -> World {
        World { disk, batches: Vec::new() }
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

    /// The batches of the history, by the commit word.
    fn history(&self) -> Vec<usize> {
        let mut taken = Vec::new();
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

    /// Cuts the power at some moments of the log, and judges what is left.
    fn cut_power(&self, moments: &[usize], seed: u64) -> Outcome {
        let log = self.disk.log();
        let mut timeline = Timeline::new(&self.disk, &log, Mode::Pages.unit_len(), 0);
        let mut rng = Rng(seed);
        while let Some(passed) = timeline.pass() {
            passed.map_err(|violation| violation.text)?;
            if !moments.contains(&timeline.at()) {
                continue;
            }
            let mut oracle = Oracle::default();
            for number in &timeline.taken {
                oracle.push(&self.batches[number.expect("a batch")]);
            }
            let (units, names) = (timeline.units(), timeline.pending_names());
            for i in 0..IMAGES {
                let mut pick = |versions: usize| match i {
                    0 => 0,
                    1 => versions,
                    _ => rng.below(versions as u64 + 1) as usize,
                };
                let versions = units.iter().map(|unit| pick(unit.versions)).collect();
                let kept = pick(names);
                let choice = Choice { versions, names: (0..names).map(|n| n < kept).collect() };
                let disk = SimDisk::unlogged(&timeline.image(&units, &choice), seed + 1);
                let at = format!("image {i} of a power cut at {}", timeline.at());
                let log = options().open_on(disk, STORE).map_err(|e| format!("{at}: {e}"))?;
                oracle
                    .judge(&log, timeline.floor, timeline.ceiling())
                    .map_err(|v| format!("{at}: {} {}", v.invariant, v.text))?;
            }
        }
        Ok(())
    }
}

/// Whether something that holds on one line does.
fn must(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Opens the store, and holds it against the history.
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

/// What the handle that meets the failing call has done before.
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

/// A store that was written by a handle that is closed, one that is open, and the one to test.
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
        let log = options().open_on(disk.clone(), STORE).expect("a disk without faults");
        (disk, log)
    };
    let mut write = |(disk, log): &(SimDisk, Log), ops| {
        world.write(disk, log, ops, false).expect("a disk without faults");
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
            // What a handle keeps for deletes, and the word that ends a segment.
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

/// An operation of the public face.
struct Operation {
    name: &'static str,
    /// What it writes.
    ops: fn() -> Option<Vec<Op>>,
    durable: bool,
    call: fn(&Log, &Content) -> Result<(), Error>,
}

fn appends(len: usize) -> Option<Vec<Op>> {
    Some(vec![append("a", len), append("new", 1)])
}

fn written(log: &Log, ops: Option<Vec<Op>>, durability: Durability) -> Result<(), Error> {
    log.write(&batch(&ops.expect("it writes")), durability)
}

const NONE: fn() -> Option<Vec<Op>> = || None;

const OPERATIONS: [Operation; 20] = [
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
            assert!(keys.iter().map(|k| k.as_bytes()).eq(content.keys().map(str::as_bytes)));
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

/// Runs an operation whose call of a number fails; returns the calls that it has made.
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
        must(failed.is_some(), "it fails on a disk without faults")?;
        must(error.to_string().contains('/'), &format!("no path is named: {error}"))?;
    }
    // A batch that was acknowledged is there; one with an error is not, but where the batch was
    // committed before.
    let is_there = writes && world.is_written(number);
    must(done.is_err() || !writes || is_there, "it was acknowledged and is not there")?;
    let may_be_there = operation.durable || operation.name == "pop";
    must(done.is_ok() || !is_there || may_be_there, "it failed and has happened")?;
    for (who, (_, log)) in [("the handle", &mine), ("the other handle", &other)] {
        world.content().compare(log).map_err(|why| format!("{who}, after {done:?}: {why}"))?;
    }
    // Both go on.
    for (disk, log) in [&mine, &other] {
        world
            .write(disk, log, vec![append("after", 50)], false)
            .map_err(|error| format!("it does not go on: {error}"))?;
        world.content().compare(log).map_err(|why| format!("going on: {why}"))?;
    }
    let loses = failed.is_some_and(|(call, error)| call.loses(error));
    let is_of_sync = operation.durable || failed.is_some_and(|(call, _)| call == Call::SyncDir);
    for (disk, log) in [&mine, &other] {
        let number = world.batches.len();
        let appended = world.write(disk, log, vec![append("durable", 50)], true);
        match appended {
            Ok(()) => must(!(loses && is_of_sync), "a sync has failed, and one is promised")?,
            Err(Error::SyncFailed { .. }) if loses => {
                must(!world.is_written(number), "no sync can be, and the batch was written")?;
                must(matches!(log.sync(), Err(Error::SyncFailed { .. })), "a sync is promised")?;
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

/// Calls `run` with every fault of the calls that it makes without one.
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
fn a_call_that_fails_in_an_operation_is_an_error_that_changes_nothing_more() {
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
fn a_segment_that_could_not_be_opened_when_it_came_is_synced_by_the_next_sync() {
    let mut faults = 0;
    for at in 1.. {
        let Store { mut world, mine, other } = store(Before::Writes);
        let (maker, log) = {
            let disk = world.disk.new_process();
            let log = options().open_on(disk.clone(), STORE).expect("a disk without faults");
            (disk, log)
        };
        mine.1.sync().expect("a disk without faults");
        // Its first append makes a segment, and is stopped somewhere in it.
        let ops = vec![append("late", 100)];
        maker.begin(Some(world.batches.len()));
        world.batches.push(ops.clone());
        maker.stop_at(at);
        let appending = maker.clone();
        let thread = std::thread::spawn(move || {
            log.write(&batch(&ops), Durability::Plain).expect("a disk without faults");
            appending.finished();
            log
        });
        let is_stopped = maker.wait() == Fate::Stopped;
        // Another one comes, so segments are looked for; that one may not be there yet.
        world.write(&other.0, &other.1, vec![append("c", 70_000)], false).expect("no fault yet");
        world.write(&mine.0, &mine.1, vec![append("mine", 5)], true).expect("no fault yet");
        maker.resume();
        drop(thread.join().expect("it appends"));
        if !is_stopped {
            break;
        }
        mine.0.watch(Some((1, libc::EIO)));
        let failed = world.call(&mine.0, None, true, || mine.1.sync());
        if mine.0.watched().last() != Some(&Call::Open) {
            // It was opened already.
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
