//! The workloads of the crash tests, each made from a seed.

use super::Rng;
use super::oracle::Op;
use super::script::{Call, Step};

/// A kind of workload.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    pub make: fn(&mut Rng) -> Vec<Step>,
}

pub const ALL: [Workload; 11] = [
    Workload { name: "one writer", make: one_writer },
    Workload { name: "several writers", make: several_writers },
    Workload { name: "writers stopped and killed", make: stopped_writers },
    Workload { name: "large values", make: large_values },
    Workload { name: "set, delete, pop, clear", make: removals },
    Workload { name: "durable and plain", make: durable_and_plain },
    Workload { name: "rolling over segments", make: rolling },
    Workload { name: "several opens", make: several_opens },
    Workload { name: "compaction", make: compaction },
    Workload { name: "filled and cleared", make: filled_and_cleared },
    Workload { name: "backups", make: backups },
];

/// Workloads so small that every subset of the pending changes can be examined.
pub const TINY: [Workload; 3] = [
    Workload { name: "tiny: appends", make: tiny_appends },
    Workload { name: "tiny: a removal", make: tiny_removal },
    Workload { name: "tiny: three writers", make: tiny_writers },
];

fn tiny_appends(_: &mut Rng) -> Vec<Step> {
    let one = |byte: u8| vec![Op::Append("a".to_owned(), vec![byte])];
    vec![write(0, one(1), true), write(0, one(2), false), write(0, one(3), true)]
}

fn tiny_removal(_: &mut Rng) -> Vec<Step> {
    let set = vec![Op::Set("a".to_owned(), vec![4])];
    let delete = vec![Op::Delete("a".to_owned())];
    vec![write(0, set, true), write(0, delete, true)]
}

fn tiny_writers(_: &mut Rng) -> Vec<Step> {
    let one = |byte: u8| vec![Op::Append("a".to_owned(), vec![byte])];
    vec![
        write(0, one(5), true),
        write(1, one(6), false),
        write(2, one(8), true),
        write(0, one(7), false),
    ]
}

const KEYS: [&str; 4] = ["a", "b", "c", "a longer key, of more than sixteen bytes"];

fn key(rng: &mut Rng) -> String {
    KEYS[rng.below(KEYS.len() as u64) as usize].to_owned()
}

/// A prefix of no key, of one or of several.
fn prefix(rng: &mut Rng) -> String {
    let key = key(rng);
    let len = rng.below(key.len() as u64 + 2) as usize;
    key.get(..len).map_or_else(|| key.clone() + "!", str::to_owned)
}

fn bytes(rng: &mut Rng, len: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).collect();
    bytes.truncate(len as usize);
    bytes
}

fn append(rng: &mut Rng, len_max: u64) -> Op {
    let len = rng.below(len_max + 1);
    Op::Append(key(rng), bytes(rng, len))
}

fn small(rng: &mut Rng) -> Vec<Op> {
    (0..1 + rng.below(3)).map(|_| append(rng, 40)).collect()
}

fn write(by: u8, ops: Vec<Op>, durable: bool) -> Step {
    Step::Call(by, Call::Write { ops, durable })
}

fn one_writer(rng: &mut Rng) -> Vec<Step> {
    (0..14)
        .map(|i| match i {
            6 => Step::Call(0, Call::Sync),
            _ => write(0, small(rng), i == 10),
        })
        .collect()
}

fn several_writers(rng: &mut Rng) -> Vec<Step> {
    (0..20)
        .map(|i| {
            let by = rng.below(3) as u8;
            match i {
                8 => Step::Call(by, Call::Sync),
                _ => write(by, small(rng), i == 13),
            }
        })
        .collect()
}

/// A process is stopped during an append; others continue; then it resumes or is killed.
fn stopped_writers(rng: &mut Rng) -> Vec<Step> {
    let mut steps = vec![write(0, small(rng), false), write(1, small(rng), false)];
    for round in 0..4_u64 {
        let durable = rng.below(4) == 0;
        let call = Call::Write { ops: small(rng), durable };
        steps.push(Step::Stop(0, 1 + rng.below(14), call));
        for _ in 0..2 {
            steps.push(write(1, small(rng), false));
        }
        // A process that syncs while another is stopped in its sync waits for half a second.
        let end = if round % 2 == 0 { Step::Resume(0) } else { Step::Kill(0) };
        steps.push(end);
        steps.push(write(1, small(rng), rng.below(3) == 0));
        steps.push(write(0, small(rng), false));
    }
    steps
}

fn large_values(rng: &mut Rng) -> Vec<Step> {
    (0..9)
        .map(|i| {
            let len = [900, 1500, 5000, 9000][rng.below(4) as usize] + rng.below(600);
            let mut ops = vec![Op::Append(key(rng), bytes(rng, len))];
            if rng.below(2) == 0 {
                ops.push(append(rng, 30));
            }
            write((i % 2) as u8, ops, i == 4)
        })
        .collect()
}

fn removals(rng: &mut Rng) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..3).map(|_| write(0, small(rng), false)).collect();
    for i in 0..15 {
        let by = rng.below(2) as u8;
        steps.push(match rng.below(8) {
            0 => write(by, vec![Op::Clear, append(rng, 20)], false),
            7 => {
                let prefix = Op::DeletePrefix(prefix(rng));
                write(by, vec![append(rng, 9), prefix, append(rng, 9)], rng.below(3) == 0)
            }
            1 => write(by, vec![Op::Delete(key(rng)), Op::Delete(key(rng))], i % 2 == 0),
            2 => Step::Call(by, Call::Pop { keys: vec![key(rng), key(rng)] }),
            3 | 4 => {
                let len = rng.below(30);
                write(by, vec![Op::Set(key(rng), bytes(rng, len))], i % 5 == 0)
            }
            _ => write(by, small(rng), false),
        });
    }
    steps.push(write(0, vec![Op::Clear], true));
    steps.push(write(1, small(rng), false));
    steps
}

fn durable_and_plain(rng: &mut Rng) -> Vec<Step> {
    (0..24)
        .map(|_| {
            let by = rng.below(2) as u8;
            match rng.below(6) {
                0 => Step::Call(by, Call::Sync),
                n => write(by, small(rng), n < 3),
            }
        })
        .collect()
}

fn rolling(rng: &mut Rng) -> Vec<Step> {
    (0..10)
        .map(|i| {
            let ops = match i {
                // A batch that does not fit into a segment.
                5 => vec![Op::Append(key(rng), bytes(rng, 70_000))],
                _ => (0..30).map(|_| Op::Append(key(rng), bytes(rng, 700))).collect(),
            };
            write((i % 2) as u8 * (rng.below(2) as u8), ops, i == 3 || i == 7)
        })
        .collect()
}

/// Handles come and go, some closed and some killed, so that the next one recovers.
fn several_opens(rng: &mut Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..6_u64 {
        let by = (round % 2) as u8;
        steps.push(Step::Call(by, Call::Open));
        for _ in 0..2 {
            steps.push(write(by, small(rng), rng.below(5) == 0));
        }
        steps.push(match rng.below(3) {
            0 => Step::Call(by, Call::Close),
            _ => Step::Kill(by),
        });
    }
    steps
}

/// Compactions between appends and removals. The appending processes close or die, so that there
/// are segments to compact.
fn compaction(rng: &mut Rng) -> Vec<Step> {
    // A delete is compacted while the deleted data is still in a segment that cannot be compacted.
    let deleted = key(rng);
    let mut steps = vec![
        write(0, vec![Op::Append(deleted.clone(), bytes(rng, 20))], true),
        write(1, vec![Op::Delete(deleted)], true),
        Step::Call(1, Call::Close),
        Step::Call(2, Call::Compact),
    ];
    for round in 0..7_u64 {
        let by = rng.below(2) as u8;
        for _ in 0..2 {
            steps.push(match rng.below(10) {
                0 => write(by, vec![Op::Clear], false),
                8 | 9 => write(by, vec![Op::DeletePrefix(prefix(rng)), append(rng, 9)], false),
                1 | 2 => write(by, vec![Op::Delete(key(rng))], false),
                3 => {
                    let len = rng.below(30);
                    write(by, vec![Op::Set(key(rng), bytes(rng, len))], false)
                }
                4 => Step::Call(by, Call::Pop { keys: vec![key(rng)] }),
                _ => write(by, small(rng), false),
            });
        }
        match rng.below(3) {
            0 => steps.push(Step::Call(by, Call::Close)),
            1 => steps.push(Step::Kill(by)),
            _ => {}
        }
        if round % 2 == 1 {
            steps.push(match rng.below(3) {
                // Killed in the middle; the next compaction finishes it.
                0 => Step::Stop(2, 1 + rng.below(60), Call::Compact),
                _ => Step::Call(2, Call::Compact),
            });
            steps.push(write(by, small(rng), false));
            // The stopped process dies, or resumes beside what has changed meanwhile.
            steps.push(if rng.below(2) == 0 { Step::Kill(2) } else { Step::Resume(2) });
        }
    }
    steps.push(Step::Kill(2));
    steps.push(Step::Call(1, Call::Compact));
    steps.push(write(0, small(rng), true));
    steps
}

/// One process fills, clears and compacts a store while another writes.
fn filled_and_cleared(rng: &mut Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..3_u64 {
        for _ in 0..3 {
            let ops = (0..25).map(|_| Op::Append(key(rng), bytes(rng, 1200))).collect();
            steps.push(write(0, ops, rng.below(4) == 0));
            let len = 100 + rng.below(900);
            let ops = (0..8).map(|_| Op::Append(key(rng), bytes(rng, len))).collect();
            steps.push(write(0, ops, false));
        }
        steps.push(write((round % 2) as u8, small(rng), false));
        steps.push(write(0, vec![Op::Clear], rng.below(3) == 0));
        steps.push(Step::Call(0, Call::Compact));
        steps.push(write(1, small(rng), rng.below(3) == 0));
    }
    steps
}

/// Backups of a store that is written and compacted, also while a backup is stopped in the middle.
/// Writers fill segments, close or die, so that there are sealed segments to link and to compact; a
/// full one is not durable yet.
fn backups(rng: &mut Rng) -> Vec<Step> {
    let mut steps = vec![write(0, small(rng), true), write(1, small(rng), false)];
    for round in 0..4_u8 {
        let by = round % 2;
        steps.push(write(by, small(rng), false));
        match rng.below(4) {
            0 => steps.push(Step::Kill(by)),
            1 => steps.push(Step::Call(by, Call::Close)),
            _ => steps.extend((0..2).map(|_| {
                let large = Op::Append(key(rng), bytes(rng, 36_000));
                write(by, vec![large], false)
            })),
        }
        steps.push(write(1 - by, small(rng), rng.below(3) == 0));
        if rng.below(3) == 0 {
            steps.push(Step::Call(3, Call::Backup(round)));
            continue;
        }
        steps.push(Step::Stop(3, 1 + rng.below(40), Call::Backup(round)));
        let removal = if rng.below(2) == 0 { Op::Delete(key(rng)) } else { Op::Clear };
        steps.push(write(1 - by, vec![removal, append(rng, 20)], false));
        steps.push(Step::Call(2, Call::Compact));
        steps.push(write(by, small(rng), false));
        steps.push(if rng.below(4) == 0 { Step::Kill(3) } else { Step::Resume(3) });
    }
    steps.push(write(0, small(rng), true));
    steps
}
