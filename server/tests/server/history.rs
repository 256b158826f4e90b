//! Records histories of clients over a network that cuts connections, and checks them against the
//! contract: every client sees the same linear history of batches. The checker is that of the
//! engine's tests.

use std::time::Instant;

use partd::{Batch, Buffer, Dict, Durability, Partd, SegmentLog};
use partd_server::{Client, RemoteError, Server};

use partd_testkit::children::Random;
use partd_testkit::history::checker::{Call, Change, KeyId, Operation, Piece, check};
use partd_testkit::history::record::{delete_some, name, prefix_of};

use crate::common::{PATIENCE, Served, quiet_random, seconds};
use crate::proxy::Proxy;

/// How many keys the clients use: few, so that they conflict.
const KEYS: u64 = 4;
/// How many operations each client makes in one round.
const CALLS: usize = 150;

/// Chooses the next operation of a client.
fn choose(random: &mut Random, new_piece: &mut impl FnMut() -> Piece) -> Call {
    let key = random.below(KEYS) as KeyId;
    let other = (key + 1 + random.below(KEYS - 1) as KeyId) % KEYS as KeyId;
    match random.below(32) {
        0..=11 => Call::Write(vec![Change::Append(key, new_piece())]),
        12..=14 => {
            let changes = [(key, new_piece()), (other, new_piece())];
            Call::Write(changes.map(|(key, piece)| Change::Append(key, piece)).to_vec())
        }
        15 | 16 => Call::Write(vec![delete_some(random, key), Change::Append(other, new_piece())]),
        17 | 18 => Call::Write(vec![Change::Set(key, new_piece())]),
        19 => Call::Write(vec![delete_some(random, key)]),
        20..=22 => Call::Pop(vec![key]),
        23 => Call::Write(vec![Change::Clear]),
        24..=27 => Call::Read(vec![key, other]),
        _ => Call::Read((0..KEYS as KeyId).collect()),
    }
}

fn pieces(value: &[u8]) -> Vec<Piece> {
    assert_eq!(value.len() % 8, 0, "a value is made of whole pieces");
    value.chunks(8).map(|piece| Piece::from_be_bytes(piece.try_into().unwrap())).collect()
}

/// Makes a call, and returns the values that it read.
fn make(client: &Client, call: &Call, durable: bool) -> partd::Result<Vec<Vec<Piece>>> {
    let values = match call {
        Call::Write(changes) => {
            let bytes: Vec<[u8; 8]> = changes
                .iter()
                .map(|change| match change {
                    Change::Append(_, piece) | Change::Set(_, piece) => piece.to_be_bytes(),
                    Change::Delete(_) | Change::Clear | Change::DeletePrefix(..) => [0; 8],
                })
                .collect();
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
            let durability = if durable { Durability::Durable } else { Durability::Plain };
            client.write(&batch, durability)?;
            Vec::new()
        }
        Call::Read(keys) => client.get_many(keys.iter().copied().map(name))?,
        Call::Pop(keys) => client.pop(keys.iter().copied().map(name))?,
    };
    Ok(values.iter().map(|value| pieces(value)).collect())
}

/// Makes random calls and records them. After a call with an unknown outcome the client continues
/// under a new number.
fn record(client: &Client, thread: u32, start: Instant) -> Vec<Operation> {
    let mut random = quiet_random();
    let mut number = thread;
    let mut piece = u64::from(thread) << 32;
    let mut operations = Vec::new();
    for _ in 0..CALLS {
        let call = choose(&mut random, &mut || {
            piece += 1;
            piece
        });
        let durable = random.below(8) == 0;
        let began = start.elapsed().as_nanos() as u64;
        let done = make(client, &call, durable);
        let ended = start.elapsed().as_nanos() as u64;
        let (end, seen) = match done {
            Ok(seen) => (Some(ended), seen),
            Err(error) => {
                let remote = RemoteError::of(&error).unwrap_or_else(|| panic!("{error}"));
                assert!(remote.may_have_happened, "{error}");
                (None, Vec::new())
            }
        };
        let is_unsure = end.is_none();
        operations.push(Operation { client: number, start: began, end, call, seen });
        if is_unsure {
            number += 1000;
        }
    }
    operations
}

fn run(store: impl Fn() -> Box<dyn Partd>) {
    let began = Instant::now();
    let (mut rounds, mut cuts) = (0, 0);
    while began.elapsed() < seconds(2) || rounds == 0 {
        let served = Served::of(store(), Server::options());
        let proxy = Proxy::start(served.dir.join("proxy"), &served.dir.join("socket"));
        let start = Instant::now();
        let mut history: Vec<Operation> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u32)
                .map(|thread| {
                    // Two clients go through the unruly proxy, two connect directly.
                    let address = match thread % 2 {
                        0 => proxy.address(),
                        _ => served.dir.address(),
                    };
                    scope.spawn(move || {
                        let client = Client::options().timeout(PATIENCE).connect(address).unwrap();
                        record(&client, thread, start)
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let keys: Vec<KeyId> = (0..KEYS as KeyId).collect();
        let last = start.elapsed().as_nanos() as u64;
        let call = Call::Read(keys);
        let seen = make(&served.client(), &call, false).unwrap();
        let end = Some(start.elapsed().as_nanos() as u64);
        history.push(Operation { client: u32::MAX, start: last, end, call, seen });
        if let Err(violation) = check(&history) {
            panic!("{violation}\n{history:#x?}");
        }
        rounds += 1;
        cuts += proxy.cuts.load(std::sync::atomic::Ordering::Relaxed);
    }
    println!("{rounds} rounds of {} operations, {cuts} cuts", 4 * CALLS);
    assert!(cuts > 0, "the proxy cut no connection");
}

#[test]
fn clients_of_a_segment_log_see_one_history() {
    run(|| Box::new(SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap()));
}

#[test]
fn clients_of_a_buffer_see_one_history() {
    run(|| {
        let log = SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap();
        Box::new(Buffer::new(Dict::new(), log, 4 << 10))
    });
}
