//! Random operations on a store and on a naive model have the same results at every step.
//!
//! A persistent store is reopened in between. proptest shrinks and prints a failure.

use std::collections::BTreeMap;

use partd::{Batch, Buffer, Chunks, Dict, Durability, Key, Partd, SegmentLog};
use proptest::collection::vec;
use proptest::prelude::*;

/// One operation of a batch, with the number of a key and the length of a value.
#[derive(Clone, Debug)]
enum Op {
    Append(u8, usize),
    Set(u8, usize),
    Delete(u8),
    Clear,
    DeletePrefix(&'static [u8]),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Op>, bool),
    Take(Vec<u8>),
    Read(Vec<u8>),
    Keys,
    Sync,
    Reopen,
    Compact,
}

fn key() -> impl Strategy<Value = u8> {
    0..7_u8
}

/// Prefixes of none, one, some or all of the keys.
fn prefix() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![&b"a"[..], b"a ", b"a\0\x01", b"3", b"4", b"no key", b""])
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0_usize), 8 => 1..60_usize, 3 => 60..2000_usize, 1 => 8000..30_000_usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (key(), value_len()).prop_map(|(key, len)| Op::Append(key, len)),
        10 => (key(), value_len()).prop_map(|(key, len)| Op::Set(key, len)),
        4 => key().prop_map(Op::Delete),
        1 => Just(Op::Clear),
        2 => prefix().prop_map(Op::DeletePrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (vec(op(), 0..6), prop::bool::weighted(0.1)).prop_map(|(ops, durable)| Step::Write(ops, durable)),
        10 => (key(), value_len()).prop_map(|(key, len)| Step::Write(vec![Op::Append(key, len)], false)),
        2 => vec(key(), 0..4).prop_map(Step::Take),
        3 => vec(key(), 0..5).prop_map(Step::Read),
        1 => Just(Step::Keys),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        2 => Just(Step::Compact),
    ]
}

/// Keys of several shapes: empty, inline, on the heap, with zero bytes.
fn key_of(number: u8) -> Key {
    match number {
        0 => Key::default(),
        1 => Key::from(("a", "b")),
        2 => Key::from("a key that is too long to be inline"),
        number => Key::from(i32::from(number)),
    }
}

/// A minimal implementation of the contract: the value, and whether the key was set.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, (Vec<u8>, bool)>);

impl Model {
    fn apply(&mut self, op: &Op, value: &[u8]) {
        let bytes = |key: &u8| key_of(*key).as_bytes().to_vec();
        match op {
            Op::Append(key, _) => self.0.entry(bytes(key)).or_default().0.extend(value),
            Op::Set(key, _) => {
                let entry = self.0.entry(bytes(key)).or_default();
                if !entry.1 {
                    *entry = (value.to_vec(), true);
                }
            }
            Op::Delete(key) => drop(self.0.remove(&bytes(key))),
            Op::Clear => self.0.clear(),
            Op::DeletePrefix(prefix) => self.0.retain(|key, _| !key.starts_with(prefix)),
        }
    }

    fn value(&self, key: &Key) -> Vec<u8> {
        self.0.get(key.as_bytes()).map(|entry| entry.0.clone()).unwrap_or_default()
    }

    fn len(&self, key: &Key) -> Option<u64> {
        self.0.get(key.as_bytes()).map(|entry| entry.0.len() as u64)
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        self.0.keys().cloned().collect()
    }
}

/// Bytes that identify the operation that wrote them.
fn bytes_of(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number * 7 + i / 3) as u8).collect()
}

/// Runs the steps on the model and on a store; `reopen` closes the store and opens it again.
fn run<P: Partd>(steps: &[Step], store: P, reopen: impl FnMut(P) -> P) {
    run_compacting(steps, store, reopen, |_| {});
}

/// The same for a store that can be compacted.
fn run_compacting<P: Partd>(
    steps: &[Step],
    store: P,
    mut reopen: impl FnMut(P) -> P,
    compact: impl Fn(&P),
) {
    let mut store = store;
    let mut model = Model::default();
    let mut number = 0;
    for step in steps {
        match step {
            Step::Write(ops, durable) => {
                let values: Vec<Vec<u8>> = ops
                    .iter()
                    .map(|op| match op {
                        Op::Append(_, len) | Op::Set(_, len) => bytes_of(number, *len),
                        Op::Delete(_) | Op::Clear | Op::DeletePrefix(_) => Vec::new(),
                    })
                    .collect();
                number += 1;
                let mut batch = Batch::new();
                for (op, value) in ops.iter().zip(&values) {
                    model.apply(op, value);
                    match op {
                        Op::Append(key, _) => batch.append(key_of(*key), value),
                        Op::Set(key, _) => batch.set(key_of(*key), value),
                        Op::Delete(key) => batch.delete(key_of(*key)),
                        Op::Clear => batch.clear(),
                        Op::DeletePrefix(prefix) => batch.delete_prefix(*prefix),
                    };
                }
                let durability = if *durable { Durability::Durable } else { Durability::Plain };
                store.write(&batch, durability).unwrap();
            }
            Step::Take(keys) => {
                let keys: Vec<Key> = keys.iter().copied().map(key_of).collect();
                let mut expected = Vec::new();
                for key in &keys {
                    expected.push(model.value(key));
                    model.0.remove(key.as_bytes());
                }
                assert!(store.take(&keys).unwrap() == expected, "{step:?}");
            }
            Step::Read(keys) => {
                let keys: Vec<Key> = keys.iter().copied().map(key_of).collect();
                let expected: Vec<Vec<u8>> = keys.iter().map(|key| model.value(key)).collect();
                assert!(store.read(&keys).unwrap() == expected, "{step:?}");
                let mut visit = |lent: &[Chunks<'_>]| {
                    let lent: Vec<Vec<u8>> = lent.iter().map(|pieces| pieces.concat()).collect();
                    assert!(lent == expected, "lent for {step:?}");
                    Ok(())
                };
                store.visit(&keys, &mut visit).unwrap();
                let lens: Vec<Option<u64>> = keys.iter().map(|key| model.len(key)).collect();
                assert_eq!(store.lens(&keys).unwrap(), lens);
            }
            Step::Keys => {
                let keys = store.keys().unwrap();
                assert!(keys.iter().map(Key::as_bytes).eq(model.keys()));
            }
            Step::Sync => store.sync().unwrap(),
            Step::Reopen => store = reopen(store),
            Step::Compact => compact(&store),
        }
    }
    let keys: Vec<Key> = (0..7).map(key_of).collect();
    let expected: Vec<Vec<u8>> = keys.iter().map(|key| model.value(key)).collect();
    assert!(store.read(&keys).unwrap() == expected, "the values at the end");
    let lens: Vec<Option<u64>> = keys.iter().map(|key| model.len(key)).collect();
    assert_eq!(store.lens(&keys).unwrap(), lens);
    assert!(store.keys().unwrap().iter().map(Key::as_bytes).eq(model.keys()));
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_dict_behaves_like_the_model(steps in vec(step(), 0..60)) {
        run(&steps, Dict::new(), |store| store);
    }

    #[test]
    fn a_buffer_of_any_size_behaves_like_the_model(
        steps in vec(step(), 0..60),
        limit_bytes in prop_oneof![Just(0_u64), 20_000..60_000_u64, 60_000..1_000_000_u64],
    ) {
        // Reopening keeps only the slow store: dropping the buffer must have flushed everything to
        // it.
        let slow = Dict::new();
        let open = || Buffer::new(Dict::new(), &slow, limit_bytes);
        run(&steps, open(), |store| {
            drop(store);
            open()
        });
    }

    #[test]
    fn a_buffer_over_a_buffer_behaves_like_the_model(
        steps in vec(step(), 0..60),
        limits in (20_000..60_000_u64, 20_000..300_000_u64),
    ) {
        let slow = Buffer::new(Dict::new(), Dict::new(), limits.1);
        run(&steps, Buffer::new(Dict::new(), &slow, limits.0), |store| store);
    }

    #[test]
    fn a_segment_log_behaves_like_the_model(steps in vec(step(), 0..60), small in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let segment_len_bytes = if small { 64 << 10 } else { 1 << 20 };
        let options = SegmentLog::options().segment_len_bytes(segment_len_bytes);
        let open = || options.open(dir.path().join("store")).unwrap();
        let reopen = |store| {
            drop(store);
            open()
        };
        run_compacting(&steps, open(), reopen, |store| {
            store.compact().unwrap();
        });
    }

    #[test]
    fn a_buffer_over_a_segment_log_behaves_like_the_model(
        steps in vec(step(), 0..60),
        limit_bytes in prop_oneof![Just(0_u64), 20_000..300_000_u64],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = SegmentLog::options().segment_len_bytes(64 << 10);
        let log = || options.open(dir.path().join("store")).unwrap();
        run(&steps, Buffer::new(Dict::new(), log(), limit_bytes), |store| {
            drop(store);
            Buffer::new(Dict::new(), log(), limit_bytes)
        });
    }
}
