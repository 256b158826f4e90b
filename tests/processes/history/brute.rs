//! Compares the checker with a plain enumeration of all orders, on thousands of small histories.
//!
//! The enumeration keeps whole values and takes no shortcuts. The checker must agree with it on
//! linearizable histories and on ones that were modified so that many are not.

use std::collections::BTreeMap;

use partd_testkit::children::Random;
use partd_testkit::history::checker::{Call, Change, KeyId, Operation, Piece, Violation, check};

/// All keys with their values, and whether they were set.
type Store = BTreeMap<KeyId, (Vec<Piece>, bool)>;

/// Applies a call; returns its result.
fn apply(store: &mut Store, call: &Call) -> Vec<Vec<Piece>> {
    let value = |store: &Store, key: &KeyId| store.get(key).map_or(Vec::new(), |v| v.0.clone());
    match call {
        Call::Read(keys) => keys.iter().map(|key| value(store, key)).collect(),
        Call::Pop(keys) => {
            let seen = keys.iter().map(|key| value(store, key)).collect();
            store.retain(|key, _| !keys.contains(key));
            seen
        }
        Call::Write(changes) => {
            for change in changes {
                match *change {
                    Change::Append(key, piece) => store.entry(key).or_default().0.push(piece),
                    Change::Set(key, piece) => {
                        let (value, is_set) = store.entry(key).or_default();
                        if !*is_set {
                            (*value, *is_set) = (vec![piece], true);
                        }
                    }
                    Change::Delete(key) => drop(store.remove(&key)),
                    Change::Clear => store.clear(),
                    Change::DeletePrefix(first, last) => {
                        store.retain(|key, _| !(first..=last).contains(key));
                    }
                }
            }
            Vec::new()
        }
    }
}

/// Whether some order of `left` gives every result, with or without the operations that never
/// ended.
fn has_order(left: &[&Operation], store: &Store) -> bool {
    if left.iter().all(|operation| operation.end.is_none()) {
        return true;
    }
    (0..left.len()).any(|i| {
        let next = left[i];
        if left.iter().any(|other| other.end.is_some_and(|end| end < next.start)) {
            return false;
        }
        let mut store = store.clone();
        let seen = apply(&mut store, &next.call);
        let mut rest = left.to_vec();
        rest.remove(i);
        (next.end.is_none() || seen == next.seen) && has_order(&rest, &store)
    })
}

/// A linearizable history of three clients, before any modification.
fn history(random: &mut Random) -> Vec<Operation> {
    let mut piece = 0;
    let mut free = [0_u64; 3];
    let mut store = Store::new();
    let mut history: Vec<Operation> = Vec::new();
    for point in 1..=random.below(8) + 2 {
        // Each operation takes effect at its point in time, and its interval extends to both sides.
        let point = point * 10;
        let client = random.below(3) as usize;
        let start = free[client].max(point.saturating_sub(random.below(20)));
        if start > point || free[client] == u64::MAX {
            continue;
        }
        let key = random.below(2) as KeyId;
        let mut new = || {
            piece += 1;
            piece
        };
        let call = match random.below(12) {
            0 | 1 => Call::Write(vec![Change::Append(key, new())]),
            2 => Call::Write(vec![Change::Append(0, new()), Change::Append(1, new())]),
            3 => Call::Write(vec![Change::Set(key, new())]),
            4 => Call::Write(vec![Change::Delete(key)]),
            5 => Call::Write(vec![Change::Append(key, new()), Change::Delete(1 - key)]),
            6 => Call::Write(vec![Change::Clear]),
            7 => Call::Pop(vec![key]),
            8 => Call::Read(vec![key]),
            9 => Call::Write(vec![Change::DeletePrefix(key, 1)]),
            10 => Call::Write(vec![
                Change::Append(1, new()),
                Change::DeletePrefix(0, key),
                Change::Append(0, new()),
            ]),
            _ => Call::Read(vec![0, 1]),
        };
        let dies = random.below(8) == 0;
        let happens = !dies || random.below(2) == 0;
        let seen = if happens { apply(&mut store, &call) } else { Vec::new() };
        let end = (!dies).then(|| point + random.below(20));
        free[client] = end.map_or(u64::MAX, |end| end + 1);
        let seen = if dies { Vec::new() } else { seen };
        history.push(Operation { client: client as u32, start, end, call, seen });
    }
    history
}

/// Changes one result, or the time of one operation.
fn spoil(random: &mut Random, history: &mut [Operation]) {
    let i = random.below(history.len() as u64) as usize;
    let written: Vec<Piece> = (1..=8).collect();
    let spoiled = &mut history[i];
    match spoiled.seen.iter_mut().find(|pieces| !pieces.is_empty()) {
        Some(pieces) => {
            let at = random.below(pieces.len() as u64) as usize;
            match random.below(4) {
                0 => drop(pieces.remove(at)),
                1 => pieces.swap(0, at),
                2 => pieces.push(written[random.below(8) as usize]),
                _ => pieces.truncate(at),
            }
        }
        None => match spoiled.seen.first_mut() {
            Some(pieces) => pieces.push(written[random.below(8) as usize]),
            // End the operation sooner, so that others come after it.
            None => spoiled.end = spoiled.end.map(|_| spoiled.start),
        },
    }
}

#[test]
fn the_checker_agrees_with_the_enumeration_of_all_orders() {
    let mut random = Random(20_240_607);
    let (mut accepted, mut by_results, mut by_search) = (0, 0, 0);
    for case in 0..20_000 {
        let mut history = history(&mut random);
        if history.is_empty() {
            continue;
        }
        let all: Vec<&Operation> = history.iter().collect();
        assert!(has_order(&all, &Store::new()), "case {case} is wrong from the start: {history:?}");
        for spoils in 0..3 {
            let all: Vec<&Operation> = history.iter().collect();
            let right = has_order(&all, &Store::new());
            let found = check(&history);
            assert!(
                found.is_ok() == right,
                "case {case}, spoiled {spoils} times: {found:?}, an order exists: {right}\n\
                 {history:#?}"
            );
            match found {
                Ok(order) => {
                    // The order is a proof: it can be replayed.
                    let mut store = Store::new();
                    for operation in order {
                        let seen = apply(&mut store, &operation.call);
                        assert!(operation.end.is_none() || seen == operation.seen, "case {case}");
                    }
                    accepted += 1;
                }
                Err(Violation::NoOrder { .. }) => by_search += 1,
                Err(_) => by_results += 1,
            }
            spoil(&mut random, &mut history);
        }
    }
    println!("{accepted} accepted, rejected {by_results} by results and {by_search} by the search");
    assert!(accepted > 20_000 && by_results > 2_000 && by_search > 1_500);
}
