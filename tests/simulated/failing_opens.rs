//! A store stays usable whatever happens while it is opened: a call fails, the process is killed at
//! any operation of a recovery, or a writer opens the store in the middle of a read-only opening.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::failing_calls::{
    Before, Log, Store, World, append, assert_none, every_fault, must, reopen, store,
};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::faults::Call;
use crate::sim::image::Image;
use crate::sim::oracle::batch;
use crate::sim::{STORE, options};
use partd::{Durability, Error, Partd};

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
    let moment = world.disk.log_len();
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
    world.cut_power(&[moment, world.disk.log_len()], calls.len() as u64)?;
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
fn a_reader_that_opens_beside_a_new_writer_follows_it_or_makes_it_wait() {
    let torn = torn_stores();
    let states: [Made<&(dyn Fn() -> State + Sync)>; 4] = [
        ("in use", &State::in_use),
        ("closed", &State::closed),
        ("killed", &State::killed),
        ("torn", &|| State::of(again(&torn[3]))),
    ];
    // Side by side: the test waits a tenth of a second for each writer that has to wait for the reader.
    let (followed, waited) = std::thread::scope(|scope| {
        let threads =
            states.map(|(name, state)| scope.spawn(move || interrupt_reader(name, state)));
        threads.into_iter().fold((0, 0), |sum, thread| {
            let (followed, waited) = thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            (sum.0 + followed, sum.1 + waited)
        })
    });
    println!("{followed} were followed, {waited} waited");
    assert!(followed > 5 && waited > 1);
}

/// Opens a store in `state` read-only, again and again; each time, another process opens it and appends
/// before the next call of the reader. Returns how many readers followed the writer, and how many made
/// it wait.
fn interrupt_reader(name: &str, state: &dyn Fn() -> State) -> (u64, u64) {
    let (mut followed, mut waited) = (0, 0);
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
                let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
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
        let found = if came { now.compare(&log) } else { now.compare(&log).or(old.compare(&log)) };
        // A reader that computed the result of a recovery gets an error if someone else has
        // recovered the store meanwhile.
        if let Err(why) = found.map_err(|why| why.to_string()) {
            let is_told = why.contains("another handle has opened it for writing since");
            assert!(is_told, "{name}, before its call {at} (came: {came}): {why}");
        }
        followed += u64::from(is_followed);
        waited += u64::from(!came);
        drop((handles, graves));
    }
    (followed, waited)
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
    let (batches, now) = (world.batches.clone(), world.disk.log_len());
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
            let now = world.disk.log_len();
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
