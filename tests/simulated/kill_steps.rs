//! A process is stopped or killed (`kill -9`) right after each of its disk operations in turn: each
//! store to a mapping, each file created or renamed. Every other process continues at once, no
//! acknowledged batch is lost, and an unacknowledged one is present whole or not at all.

use crate::sim::cuts::Mode;
use crate::sim::oracle::Op;
use crate::sim::power::{Effort, Tally, explore, in_parallel};
use crate::sim::script::{Call, Step, run};

fn append(key: &str, byte: u8, len: usize) -> Op {
    Op::Append(key.to_owned(), vec![byte; len])
}

fn write(ops: Vec<Op>) -> Call {
    Call::Write { ops, durable: false }
}

/// A store with an output, followed by a delete of data in it, a set and an append.
fn worn() -> Vec<Call> {
    let set = |key: &str, byte| Op::Set(key.to_owned(), vec![byte; 12]);
    vec![
        write(vec![append("a", 1, 20), set("s", 2), append("d", 3, 30)]),
        Call::Close,
        Call::Compact,
        write(vec![Op::Delete("d".to_owned()), append("a", 4, 10)]),
        write(vec![set("s", 5), Op::Delete("s".to_owned()), set("s", 6)]),
        Call::Close,
    ]
}

/// The calls in which a process is stopped, each with the calls before it.
fn victims() -> Vec<(&'static str, Vec<Call>, Call)> {
    let two = || vec![append("a", 1, 20), append("b", 2, 30)];
    let before = || vec![write(vec![append("a", 3, 9)])];
    let long = || (0..60).map(|_| append("r", 7, 1000)).collect::<Vec<_>>();
    vec![
        ("its first call", vec![], Call::Open),
        ("its first append", vec![Call::Open], write(two())),
        ("an append", before(), write(two())),
        ("a durable append", before(), Call::Write { ops: two(), durable: true }),
        ("a sync", before(), Call::Sync),
        ("a pop", before(), Call::Pop { keys: vec!["a".to_owned(), "b".to_owned()] }),
        ("a large value", before(), write(vec![append("l", 5, 5000)])),
        ("an append that needs a segment", vec![write(long())], write(long())),
        ("a batch beyond a segment", before(), write(vec![append("h", 6, 70_000)])),
        ("a clear", before(), write(vec![Op::Clear])),
        ("a delete of a prefix", before(), write(vec![Op::DeletePrefix("a".to_owned())])),
        ("a compaction", vec![write(two()), Call::Close], Call::Compact),
        ("a compaction of an output, sets and deletes", worn(), Call::Compact),
    ]
}

/// Runs a workload around a process that is stopped after each of its operations in turn. Returns
/// the number of operations of the call.
fn at_each_operation(
    before: &[Call],
    call: &Call,
    prelude: &[Step],
    afterwards: &[Step],
    check: &mut dyn FnMut(&[Step], u64),
) -> u64 {
    for at in 1.. {
        let mut steps = prelude.to_vec();
        steps.extend(before.iter().map(|call| Step::Call(0, call.clone())));
        steps.push(Step::Stop(0, at, call.clone()));
        steps.extend_from_slice(afterwards);
        let recording = run(&steps, at, None).unwrap_or_else(|v| {
            panic!("{} is violated at operation {at}: {}\n{steps:#?}", v.invariant, v.text)
        });
        if !recording.stopped {
            return at - 1;
        }
        check(&steps, at);
    }
    unreachable!("every call ends")
}

fn other(byte: u8) -> Step {
    Step::Call(1, write(vec![append("a", byte, 15), append("o", byte, 7)]))
}

#[test]
fn a_process_killed_at_any_operation_loses_nothing_and_delays_no_one() {
    let mut operations = 0;
    for (what, before, call) in victims() {
        // Another process continues, a third takes the dead one's slot, and a fourth opens the
        // store later.
        let durable = Call::Write { ops: vec![append("c", 8, 11)], durable: true };
        let afterwards = [
            other(20),
            Step::Kill(0),
            other(21),
            Step::Call(1, Call::Compact),
            Step::Call(0, write(vec![append("n", 9, 5)])),
            Step::Call(1, Call::Sync),
            Step::Call(2, durable),
            Step::Call(0, Call::Pop { keys: vec!["a".to_owned()] }),
            other(22),
        ];
        // The opener is alone with the store until recovery is complete.
        let (prelude, afterwards) = match call {
            Call::Open => (vec![], &afterwards[1..]),
            _ => (vec![other(10), other(11)], &afterwards[..]),
        };
        let count = at_each_operation(&before, &call, &prelude, afterwards, &mut |_, _| {});
        println!("{what}: killed after each of {count} operations");
        operations += count;
    }
    assert!(operations > 150, "only {operations} operations were examined");
}

#[test]
fn the_next_owner_of_a_dead_writers_slot_finishes_its_open_commit() {
    for (_, before, call) in victims() {
        if matches!(call, Call::Open | Call::Compact | Call::Sync) {
            continue;
        }
        // No other process writes in between, and the store stays open.
        let prelude = [Step::Call(1, Call::Open)];
        let afterwards = [
            Step::Kill(0),
            Step::Call(2, write(vec![append("a", 23, 6)])),
            Step::Call(1, Call::Sync),
            other(24),
        ];
        at_each_operation(&before, &call, &prelude, &afterwards, &mut |_, _| {});
    }
}

#[test]
fn a_store_whose_processes_were_all_killed_at_any_operation_opens_with_every_acknowledged_write() {
    for (_, before, call) in victims() {
        let afterwards = [
            Step::Kill(1),
            Step::Kill(0),
            Step::Call(2, Call::Open),
            Step::Call(2, write(vec![append("a", 30, 4)])),
            Step::Call(2, Call::Close),
            Step::Call(3, Call::Compact),
            Step::Call(3, Call::Sync),
        ];
        let prelude = match call {
            Call::Open => vec![],
            _ => vec![other(10), other(11)],
        };
        let count = at_each_operation(&before, &call, &prelude, &afterwards, &mut |_, _| {});
        assert!(count > 0 || matches!(call, Call::Sync));
    }
}

#[test]
fn a_process_stopped_at_any_operation_delays_no_one_and_resumes_later() {
    for (_, before, call) in victims() {
        if matches!(call, Call::Open) {
            continue;
        }
        // A pop also runs beside a compaction, which must not remove its bytes.
        let compaction = matches!(call, Call::Pop { .. }).then_some(Step::Call(1, Call::Compact));
        let mut afterwards = vec![other(20), other(21)];
        afterwards.extend(compaction);
        afterwards.extend([Step::Resume(0), other(22), Step::Call(0, Call::Sync)]);
        let closed = [Step::Call(2, write(vec![append("a", 12, 9)])), Step::Call(2, Call::Close)];
        let prelude = [&[other(10), other(11)][..], &closed].concat();
        at_each_operation(&before, &call, &prelude, &afterwards, &mut |_, _| {});
    }
}

#[test]
fn a_power_cut_while_a_writer_is_stopped_at_any_operation_leaves_a_prefix() {
    let mut jobs = Vec::new();
    for (_, before, call) in victims() {
        if matches!(call, Call::Open) {
            continue;
        }
        // The other process syncs only before the stop and after the kill, when the stopped process
        // cannot hold the sync lock.
        let durable = Call::Write { ops: vec![append("c", 8, 11)], durable: true };
        let afterwards = [other(20), Step::Kill(0), Step::Call(1, durable), other(21)];
        let prelude = [other(10), Step::Call(1, Call::Sync), other(11)];
        at_each_operation(&before, &call, &prelude, &afterwards, &mut |steps, at| {
            jobs.push((steps.to_vec(), at));
        });
    }
    let effort = Effort { images: 150, from_percent: 40 };
    let results =
        in_parallel(&jobs, |(steps, at)| explore(steps, *at, None, effort, &[Mode::Pages]));
    let mut sum = Tally::default();
    for result in results {
        sum.add(&result.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{} runs, {} images, {} moments", jobs.len(), sum.total(), sum.moments);
    assert!(sum.total() > 5_000, "only {} images", sum.total());
}
