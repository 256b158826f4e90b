//! Several threads on one store: nothing lost, doubled, torn or out of order.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use partd::{Batch, Durability, Key, Partd};

const WRITERS: u32 = 3;
const ROUNDS: u32 = 600;
const RECORD_LEN: usize = 20;

/// A record that identifies its writer and number, and shows whether it is whole.
fn record(writer: u32, number: u32) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..4].copy_from_slice(&writer.to_le_bytes());
    record[4..8].copy_from_slice(&number.to_le_bytes());
    record[8..].fill((writer * 31 + number) as u8);
    record
}

/// The (writer, number) of each record in a value; panics on a torn one.
fn records(value: &[u8]) -> Vec<(u32, u32)> {
    assert_eq!(value.len() % RECORD_LEN, 0, "half a record at the end");
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let whole = value.chunks(RECORD_LEN).map(|bytes| {
        let (writer, number) = (word(&bytes[..4]), word(&bytes[4..8]));
        assert_eq!(bytes, record(writer, number), "a torn record");
        (writer, number)
    });
    whole.collect()
}

pub fn appends_of_threads_arrive_once_whole_and_in_order_and_readers_see_prefixes<P: Partd>(p: &P) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    for number in 0..ROUNDS {
                        let record = record(writer, number);
                        p.append((0..4).map(|key| (key, record))).unwrap();
                        if number % 200 == 100 {
                            p.sync().unwrap();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut seen = vec![Vec::new(); 4];
            while !done.load(Ordering::Acquire) {
                for (seen, now) in seen.iter_mut().zip(p.get_many(0..4).unwrap()) {
                    assert!(now.starts_with(seen), "a value that was read shrank or changed");
                    records(&now);
                    *seen = now;
                }
                let lens = p.lens(&[Key::from(0), Key::from(3)]).unwrap();
                assert_eq!(lens[0], lens[1], "one batch, two lengths");
                assert!(lens[0].unwrap_or(0) >= seen[0].len() as u64, "a length went back");
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Release);
    });
    let values = p.get_many(0..4).unwrap();
    for value in &values {
        let records = records(value);
        assert_eq!(records.len() as u32, WRITERS * ROUNDS);
        for writer in 0..WRITERS {
            let numbers = records.iter().filter(|(w, _)| *w == writer).map(|(_, number)| *number);
            assert!(numbers.eq(0..ROUNDS), "writer {writer} is not in its order");
        }
        assert!(value == &values[0], "batches are in the same order in every key");
    }
}

pub fn pops_racing_with_appends_lose_and_double_nothing<P: Partd>(p: &P) {
    let running = AtomicU32::new(WRITERS);
    let mut popped = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let running = &running;
            scope.spawn(move || {
                for number in 0..ROUNDS {
                    p.append([(number % 2, record(writer, number))]).unwrap();
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        let popper = || {
            let mut popped = [Vec::new(), Vec::new()];
            while running.load(Ordering::Acquire) > 0 {
                for (all, value) in popped.iter_mut().zip(p.pop([0, 1]).unwrap()) {
                    all.push(records(&value));
                }
            }
            popped
        };
        let poppers = [scope.spawn(popper), scope.spawn(popper)];
        poppers.map(|popper| popper.join().unwrap())
    });
    let [first, second] = &mut popped;
    for (all, value) in first.iter_mut().zip(p.pop([0, 1]).unwrap()) {
        all.push(records(&value));
    }
    for (key, (first, second)) in first.iter().zip(second).enumerate() {
        for popper in [first, second] {
            for writer in 0..WRITERS {
                let numbers = popper.iter().flatten().filter(|(w, _)| *w == writer);
                assert!(numbers.is_sorted(), "writer {writer} was popped out of order");
            }
        }
        let mut all: Vec<_> = first.iter().chain(second.iter()).flatten().copied().collect();
        all.sort_unstable();
        let written = (0..WRITERS)
            .flat_map(|writer| (0..ROUNDS).map(move |number| (writer, number)))
            .filter(|(_, number)| *number as usize % 2 == key);
        assert!(all.into_iter().eq(written), "records of key {key} were lost or popped twice");
    }
}

pub fn a_batch_is_seen_whole_or_not_at_all<P: Partd>(p: &P) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let values = p.get_many(["a", "b"]).unwrap();
                    assert_eq!(values[0], values[1], "two keys of the same batches differ");
                    let lens = p.lens(&["a".into(), "b".into()]).unwrap();
                    assert_eq!(lens[0], lens[1]);
                }
            });
        }
        for round in 0..ROUNDS {
            let value = vec![round as u8; 40 + (round as usize * 37) % 400];
            let mut batch = Batch::new();
            match round % 7 {
                2 => batch.delete("a").append("b", b"lost").delete("b"),
                4 => batch.set("a", &value).set("b", &value).append("c", &value),
                6 => batch.append("b", b"lost").clear(),
                _ => &mut batch,
            };
            batch.append("a", &value).append("other", &value).append("b", &value);
            p.write(&batch, Durability::Plain).unwrap();
        }
        done.store(true, Ordering::Release);
    });
}

pub fn exactly_one_of_several_racing_sets_wins<P: Partd>(p: &P) {
    for round in 0..60 {
        let winners: Vec<Vec<u8>> = thread::scope(|scope| {
            let setters: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn(move || {
                        p.iset(round, writer.to_string()).unwrap();
                        p.get(round).unwrap()
                    })
                })
                .collect();
            setters.into_iter().map(|setter| setter.join().unwrap()).collect()
        });
        assert_eq!(winners[0].len(), 1);
        assert!(winners.iter().all(|winner| winner == &winners[0]));
        assert_eq!(p.get(round).unwrap(), winners[0]);
    }
}
