//! A client that performs random operations on a store and records for each call when it began,
//! when it ended and what it returned. The clock is `CLOCK_MONOTONIC`, which all processes share.
//!
//! A call is recorded before it is made, so every call of a killed client is in the record.

use std::path::Path;

use partd::{Batch, Durability, Partd, SegmentLog};
use rustix::time::{ClockId, clock_gettime};

use super::checker::{Call, Change, KeyId, Operation, Piece};
use crate::children::Random;
use crate::children::pieces::{Tag, parse, piece};

/// The names of the keys that clients use, in key order; few, so that clients contend for them.
const NAMES: [&str; KEYS as usize] = ["a", "ab", "b", "ba"];
const KEYS: u64 = 4;
/// Prefixes of one, some and all of the keys, with the first and the last key of each.
const PREFIXES: [(&str, KeyId, KeyId); 5] =
    [("", 0, 3), ("a", 0, 1), ("ab", 1, 1), ("b", 2, 3), ("ba", 3, 3)];

/// The name of a key.
pub fn name(key: KeyId) -> &'static str {
    NAMES[usize::from(key)]
}

/// The prefix of the keys from the first to the last.
pub fn prefix_of(first: KeyId, last: KeyId) -> &'static str {
    let prefix = PREFIXES.iter().find(|prefix| (prefix.1, prefix.2) == (first, last));
    prefix.expect("the keys have a prefix of their own").0
}

/// The delete of a key, or of a random prefix.
pub fn delete_some(random: &mut Random, key: KeyId) -> Change {
    let pick = random.below(2 * PREFIXES.len() as u64 - 1) as usize;
    match PREFIXES.get(pick) {
        Some(&(_, first, last)) => Change::DeletePrefix(first, last),
        None => Change::Delete(key),
    }
}

/// The time in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One client: a thread of some process.
pub struct Client<'p> {
    pub store: &'p SegmentLog,
    pub number: u32,
    pub random: Random,
    pub pieces: u32,
}

impl Client<'_> {
    fn piece(&mut self) -> Piece {
        self.pieces += 1;
        u64::from(self.number) << 32 | u64::from(self.pieces)
    }

    /// Chooses the next call. Keys are emptied often enough to keep values short.
    fn choose(&mut self) -> Call {
        let key = self.random.below(KEYS) as KeyId;
        let other = (key + 1 + self.random.below(KEYS - 1) as KeyId) % KEYS as KeyId;
        match self.random.below(32) {
            0..=9 => Call::Write(vec![Change::Append(key, self.piece())]),
            10..=13 => {
                let (one, two) = (self.piece(), self.piece());
                Call::Write(vec![Change::Append(key, one), Change::Append(other, two)])
            }
            14 => {
                let (one, two, three) = (self.piece(), self.piece(), self.piece());
                let appends = [(key, one), (other, two), (key, three)];
                Call::Write(appends.map(|(key, piece)| Change::Append(key, piece)).to_vec())
            }
            15 => {
                let new = self.piece();
                let (delete, append) =
                    (delete_some(&mut self.random, key), Change::Append(other, new));
                // In one of the orders, the delete may remove the new piece.
                Call::Write(match self.random.below(2) {
                    0 => vec![delete, append],
                    _ => vec![append, delete],
                })
            }
            16 | 17 => Call::Write(vec![Change::Set(key, self.piece())]),
            18 | 19 => Call::Write(vec![delete_some(&mut self.random, key)]),
            20 | 21 => Call::Pop(vec![key]),
            22 => Call::Pop(vec![key, other]),
            23 if self.random.below(4) == 0 => Call::Write(vec![Change::Clear]),
            23..=27 => Call::Read(vec![key]),
            28 | 29 => Call::Read(vec![key, other]),
            _ => Call::Read((0..KEYS as KeyId).collect()),
        }
    }

    /// Makes one call; passes it to `note` before and after.
    pub fn step(&mut self, note: &mut dyn FnMut(&Operation)) {
        let call = self.choose();
        let mut operation =
            Operation { client: self.number, start: 0, end: None, call, seen: Vec::new() };
        // Build the bytes before reading the clock.
        let bytes: Vec<Vec<u8>> = match &operation.call {
            Call::Write(changes) => changes.iter().map(|change| self.bytes(*change)).collect(),
            _ => Vec::new(),
        };
        operation.start = now();
        note(&operation);
        let values = match &operation.call {
            Call::Write(changes) => {
                let mut batch = Batch::new();
                for (change, bytes) in changes.iter().zip(&bytes) {
                    match *change {
                        Change::Append(key, _) => batch.append(name(key), bytes),
                        Change::Set(key, _) => batch.set(name(key), bytes),
                        Change::Delete(key) => batch.delete(name(key)),
                        Change::Clear => batch.clear(),
                        Change::DeletePrefix(first, last) => {
                            batch.delete_prefix(prefix_of(first, last))
                        }
                    };
                }
                self.store.write(&batch, Durability::Plain).expect("writes");
                Vec::new()
            }
            Call::Read(keys) => {
                self.store.get_many(keys.iter().copied().map(name)).expect("the read succeeds")
            }
            Call::Pop(keys) => {
                self.store.pop(keys.iter().copied().map(name)).expect("the pop succeeds")
            }
        };
        operation.end = Some(now());
        operation.seen = values.iter().map(|value| pieces_of(value)).collect();
        note(&operation);
    }

    /// Compacts now and then. A compaction changes nothing that a client can see, so it is not
    /// recorded.
    pub fn compact_now_and_then(&mut self) {
        if self.random.below(50) == 0 {
            self.store.compact().expect("the compaction succeeds");
        }
    }

    fn bytes(&mut self, change: Change) -> Vec<u8> {
        let (Change::Append(_, number) | Change::Set(_, number)) = change else {
            return Vec::new();
        };
        let tag = Tag { writer: (number >> 32) as u32, life: 0, number };
        piece(tag, self.random.below(64) as usize)
    }
}

fn pieces_of(value: &[u8]) -> Vec<Piece> {
    let tags = parse(value).expect("a value is made of whole pieces");
    tags.iter().map(|tag| tag.number).collect()
}

/// Reads every key once more, after all clients have finished.
pub fn last_look(store: &Path, number: u32) -> Operation {
    let p = SegmentLog::open(store).expect("the open succeeds");
    let keys: Vec<KeyId> = (0..KEYS as KeyId).collect();
    let start = now();
    let values = p.get_many(keys.iter().copied().map(name)).expect("the read succeeds");
    let seen = values.iter().map(|value| pieces_of(value)).collect();
    Operation { client: number, start, end: Some(now()), call: Call::Read(keys), seen }
}

/// Formats an operation as one line.
pub fn to_line(operation: &Operation) -> String {
    let change = |change: &Change| match change {
        Change::Append(key, piece) => format!("a{key}:{piece}"),
        Change::Set(key, piece) => format!("s{key}:{piece}"),
        Change::Delete(key) => format!("d{key}:0"),
        Change::Clear => "c0:0".to_owned(),
        Change::DeletePrefix(first, last) => format!("x{first}:{last}"),
    };
    let keys = |keys: &[KeyId]| keys.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let call = match &operation.call {
        Call::Write(changes) => {
            format!("w {}", changes.iter().map(change).collect::<Vec<_>>().join(","))
        }
        Call::Read(read) => format!("r {}", keys(read)),
        Call::Pop(popped) => format!("p {}", keys(popped)),
    };
    let pieces =
        |pieces: &Vec<Piece>| pieces.iter().map(Piece::to_string).collect::<Vec<_>>().join(",");
    let seen = operation.seen.iter().map(pieces).collect::<Vec<_>>().join(";");
    let Operation { client, start, end, .. } = operation;
    format!("{client} {start} {} {call} {seen}", end.unwrap_or(0))
}

/// Parses a line of [`to_line`].
pub fn from_line(line: &str) -> Operation {
    let words: Vec<&str> = line.split(' ').collect();
    let [client, start, end, kind, call, seen] = words[..] else {
        panic!("no operation: {line}");
    };
    let number = |word: &str| word.parse::<u64>().expect("a number");
    let list = |word: &str| -> Vec<u64> {
        word.split(',').filter(|word| !word.is_empty()).map(number).collect()
    };
    let keys = || list(call).into_iter().map(|key| key as KeyId).collect();
    let change = |word: &str| {
        let (key, piece) = word[1..].split_once(':').expect("KEY:PIECE");
        let (key, piece) = (number(key) as KeyId, number(piece));
        match word.as_bytes()[0] {
            b'a' => Change::Append(key, piece),
            b's' => Change::Set(key, piece),
            b'd' => Change::Delete(key),
            b'x' => Change::DeletePrefix(key, piece as KeyId),
            _ => Change::Clear,
        }
    };
    let call = match kind {
        "w" => Call::Write(call.split(',').map(change).collect()),
        "r" => Call::Read(keys()),
        _ => Call::Pop(keys()),
    };
    let seen = match &call {
        Call::Read(keys) | Call::Pop(keys) if number(end) > 0 => {
            let seen: Vec<Vec<Piece>> = seen.split(';').map(list).collect();
            assert_eq!(seen.len(), keys.len(), "{line}");
            seen
        }
        _ => Vec::new(),
    };
    let end = Some(number(end)).filter(|end| *end > 0);
    Operation { client: number(client) as u32, start: number(start), end, call, seen }
}

#[test]
fn each_prefix_covers_the_keys_that_begin_with_it_and_no_others() {
    for (prefix, first, last) in PREFIXES {
        for key in 0..KEYS as KeyId {
            let is_covered = (first..=last).contains(&key);
            assert_eq!(name(key).starts_with(prefix), is_covered, "{prefix:?} and {}", name(key));
        }
    }
}
