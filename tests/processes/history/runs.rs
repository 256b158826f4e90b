//! Recorded runs of the segment log: several threads, several processes, and processes that are
//! killed and stopped. Each round has its own store and history.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partd::SegmentLog;

use partd_testkit::children::{Child, Random, directory, from_env, report, seed};
use partd_testkit::history::checker::{Call, Operation, check};
use partd_testkit::history::record::{Client, from_line, last_look, to_line};

/// Compacts until it is killed, and reports each run that did something.
fn play_compactor(store: &Path) {
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    let p = options.open(store).expect("the open succeeds");
    loop {
        let runs = p.compact().expect("the compaction succeeds").runs;
        report(&runs.to_string());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Plays the clients of one process, or the compacting process.
pub(crate) fn play(arguments: &[String]) {
    if let [what, store] = arguments
        && what == "compactor"
    {
        return play_compactor(Path::new(store));
    }
    let number = |i: usize| arguments[i].parse::<u64>().expect("a number");
    let store = Path::new(&arguments[0]);
    let options = SegmentLog::options().segment_len_bytes(64 << 10);
    let (one, other) = (
        options.open(store).expect("the open succeeds"),
        options.open(store).expect("the open succeeds"),
    );
    let (first, threads, calls, seed) = (number(1), number(2), number(3), number(4));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            // The first two threads share a handle.
            let store = if thread < 2 { &one } else { &other };
            let random = Random(seed ^ thread << 32);
            let number = (first + thread) as u32;
            scope.spawn(move || {
                let mut client = Client { store, number, random, pieces: 0 };
                for _ in 0..calls {
                    client.step(&mut |operation| report(&to_line(operation)));
                    client.compact_now_and_then();
                    // Pause, so that a fast machine records no more than the checker can handle.
                    if client.random.below(4) == 0 {
                        let pause = client.random.below(1000);
                        std::thread::sleep(Duration::from_micros(pause));
                    }
                }
            });
        }
    });
}

/// The number of calls of one client in one round.
const CALLS: u64 = 400;

fn run_time() -> Duration {
    Duration::from_secs(from_env("PARTD_SECONDS", 3))
}

/// The calls of all clients, in their latest state.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Operation>>);

impl Notes {
    fn record(&self, operation: &Operation) {
        let mut notes = self.0.lock().unwrap();
        if operation.end.is_some() {
            let of_client = |noted: &&mut Operation| noted.client == operation.client;
            let begun =
                notes.iter_mut().rev().find(of_client).expect("the call was recorded before");
            assert_eq!((begun.start, begun.end), (operation.start, None));
            *begun = operation.clone();
        } else {
            notes.push(operation.clone());
        }
    }

    /// Checks all recorded calls, and a final read of the store.
    fn check(&self, store: &Path, seed: u64) -> Summary {
        let mut history = std::mem::take(&mut *self.0.lock().unwrap());
        history.push(last_look(store, u32::MAX));
        let since = Instant::now();
        let checked = check(&history);
        println!("{} operations checked in {:.1?}", history.len(), since.elapsed());
        if let Err(violation) = checked {
            let path = std::env::temp_dir().join(format!("partd-history-{seed}"));
            let lines: Vec<String> = history.iter().map(to_line).collect();
            std::fs::write(&path, lines.join("\n")).expect("the history file can be written");
            panic!("seed {seed}, the history is in {}: {violation}", path.display());
        }
        Summary::of(&history)
    }
}

/// Figures of a history: one without overlapping calls would prove nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    calls: usize,
    unended: usize,
    /// Calls that overlap another call.
    overlapping: usize,
    /// Reads and pops with a non-empty result.
    telling: usize,
    rounds: usize,
}

impl Summary {
    fn of(history: &[Operation]) -> Summary {
        let mut spans: Vec<(u64, u64)> =
            history.iter().filter_map(|o| Some((o.start, o.end?))).collect();
        spans.sort_unstable();
        let mut overlapping = 0;
        let mut latest = 0;
        for (start, end) in &spans {
            overlapping += usize::from(*start < latest);
            latest = latest.max(*end);
        }
        let telling = history.iter().filter(|o| o.seen.iter().any(|pieces| !pieces.is_empty()));
        Summary {
            calls: history.len(),
            unended: history.iter().filter(|operation| operation.end.is_none()).count(),
            overlapping,
            telling: telling.count(),
            rounds: 1,
        }
    }

    fn add(&mut self, other: Summary) {
        self.calls += other.calls;
        self.unended += other.unended;
        self.overlapping += other.overlapping;
        self.telling += other.telling;
        self.rounds += 1;
    }

    fn is_worth_something(&self) {
        println!("{self:?}");
        assert!(self.overlapping * 20 > self.calls, "hardly any calls overlap: {self:?}");
        assert!(self.telling * 10 > self.calls, "hardly any results are non-empty: {self:?}");
    }
}

/// Plays rounds until the time is up.
fn rounds(mut round: impl FnMut(&mut Random, &Path, &Arc<Notes>)) -> Summary {
    let seed = seed();
    let mut random = Random(seed);
    let mut sum = Summary::default();
    let since = Instant::now();
    while sum.rounds == 0 || since.elapsed() < run_time() {
        let (_dir, store) = directory();
        let notes = Arc::new(Notes::default());
        round(&mut random, &store, &notes);
        sum.add(notes.check(&store, seed));
    }
    sum.is_worth_something();
    sum
}

#[test]
fn threads_on_one_handle_and_on_several_produce_a_linear_history() {
    rounds(|random, store, notes| {
        let options = SegmentLog::options().segment_len_bytes(64 << 10);
        let handles = [options.open(store).unwrap(), options.open(store).unwrap()];
        std::thread::scope(|scope| {
            for number in 0..6 {
                // Four threads on one handle, two on the other.
                let store = &handles[usize::from(number >= 4)];
                let random = Random(random.next());
                scope.spawn(move || {
                    let mut client = Client { store, number, random, pieces: 0 };
                    for _ in 0..CALLS {
                        client.step(&mut |operation| notes.record(operation));
                        client.compact_now_and_then();
                    }
                });
            }
        });
    });
}

/// Starts a process with several clients.
fn start(
    random: &mut Random,
    store: &Path,
    notes: &Arc<Notes>,
    first: u32,
    clients: u32,
    calls: u64,
) -> Child {
    let numbers = [first.into(), clients.into(), calls, random.next()];
    let mut arguments = vec![store.display().to_string()];
    arguments.extend(numbers.iter().map(u64::to_string));
    let notes = Arc::clone(notes);
    Child::start("client", &arguments, move |line| notes.record(&from_line(line)))
}

/// Starts a process that compacts; `runs` counts its compactions.
fn start_compactor(store: &Path, runs: &Arc<AtomicU64>) -> Child {
    let arguments = ["compactor".to_owned(), store.display().to_string()];
    let runs = Arc::clone(runs);
    Child::start("client", &arguments, move |line| {
        runs.fetch_add(line.parse().expect("a number"), Relaxed);
    })
}

#[test]
fn processes_beside_a_compacting_one_produce_a_linear_history() {
    let runs = Arc::default();
    rounds(|random, store, notes| {
        let compactor = start_compactor(store, &runs);
        let children: Vec<Child> =
            (0..4).map(|i| start(random, store, notes, i * 8, 1 + i % 3, CALLS)).collect();
        children.into_iter().for_each(|mut child| assert!(child.wait().success()));
        drop(compactor.kill());
    });
    println!("{} compactions", runs.load(Relaxed));
    assert!(runs.load(Relaxed) > 0, "nothing was compacted");
}

#[test]
fn killed_and_stopped_processes_produce_a_linear_history() {
    let runs = Arc::default();
    let sum = rounds(|random, store, notes| {
        let mut compactor = start_compactor(store, &runs);
        let mut first = 0;
        let mut new = |random: &mut Random| {
            first += 8;
            // Until it is killed.
            start(random, store, notes, first, 1 + first / 8 % 2, u64::MAX)
        };
        let mut children: Vec<Child> = (0..4).map(|_| new(random)).collect();
        let pause = |random: &mut Random| {
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
        };
        for _ in 0..8 {
            pause(random);
            let i = random.below(4) as usize;
            if random.below(3) == 0 {
                children[i].stop();
                pause(random);
                children[i].go_on();
            } else {
                let killed = std::mem::replace(&mut children[i], new(random));
                killed.kill();
            }
            if random.below(4) == 0 {
                // About half the time in the middle of a compaction.
                let killed = std::mem::replace(&mut compactor, start_compactor(store, &runs));
                killed.kill();
            }
        }
        drop(compactor.kill());
        children.into_iter().for_each(|child| drop(child.kill()));
    });
    assert!(sum.unended > 0, "no kill interrupted a call: {sum:?}");
    assert!(runs.load(Relaxed) > 0, "nothing was compacted");
}

#[test]
fn a_line_round_trips_an_operation() {
    let (_dir, store) = directory();
    let p = SegmentLog::open(&store).unwrap();
    let mut client = Client { store: &p, number: 7, random: Random(3), pieces: 0 };
    let mut pops = 0;
    for _ in 0..500 {
        client.step(&mut |operation| {
            assert_eq!(from_line(&to_line(operation)), *operation);
            pops += usize::from(matches!(operation.call, Call::Pop(_)));
        });
    }
    assert!(pops > 20);
}
