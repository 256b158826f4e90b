//! Hand-written histories: one bad history for each way in which a store can be wrong, with a good
//! one that differs in a single point, which must therefore be the reason for the rejection.

use partd_testkit::history::checker::{Call, Change, KeyId, Operation, Piece, Violation, check};

fn operation(client: u32, start: u64, end: u64, call: Call, seen: Vec<Vec<Piece>>) -> Operation {
    Operation { client, start, end: Some(end), call, seen }
}

fn append(client: u32, start: u64, end: u64, pairs: &[(KeyId, Piece)]) -> Operation {
    let changes = pairs.iter().map(|&(key, piece)| Change::Append(key, piece)).collect();
    operation(client, start, end, Call::Write(changes), Vec::new())
}

fn write(client: u32, start: u64, end: u64, change: Change) -> Operation {
    operation(client, start, end, Call::Write(vec![change]), Vec::new())
}

fn read(client: u32, start: u64, end: u64, seen: &[(KeyId, &[Piece])]) -> Operation {
    let keys = seen.iter().map(|(key, _)| *key).collect();
    let pieces = seen.iter().map(|(_, pieces)| pieces.to_vec()).collect();
    operation(client, start, end, Call::Read(keys), pieces)
}

fn pop(client: u32, start: u64, end: u64, key: KeyId, seen: &[Piece]) -> Operation {
    operation(client, start, end, Call::Pop(vec![key]), vec![seen.to_vec()])
}

fn never_ends(mut operation: Operation) -> Operation {
    operation.end = None;
    operation.seen.clear();
    operation
}

fn accepts(history: &[Operation]) {
    if let Err(violation) = check(history) {
        panic!("{violation}");
    }
}

/// Checks that a history is rejected because no order fits.
fn has_no_order(history: &[Operation]) {
    match check(history) {
        Err(Violation::NoOrder { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_append_is_rejected() {
    let written = append(1, 0, 10, &[(0, 1)]);
    let other = append(2, 20, 30, &[(0, 2)]);
    accepts(&[written.clone(), other.clone(), read(3, 40, 50, &[(0, &[1, 2])])]);
    has_no_order(&[written.clone(), other, read(3, 40, 50, &[(0, &[2])])]);
    has_no_order(&[written.clone(), read(3, 40, 50, &[(0, &[])])]);
    // Lost by a pop: it returned nothing, and afterwards nothing is left.
    accepts(&[written.clone(), pop(2, 20, 30, 0, &[1]), read(3, 40, 50, &[(0, &[])])]);
    has_no_order(&[written, pop(2, 20, 30, 0, &[]), read(3, 40, 50, &[(0, &[])])]);
}

#[test]
fn a_duplicated_append_is_rejected() {
    let written = append(1, 0, 10, &[(0, 1), (1, 2)]);
    accepts(&[written.clone(), read(2, 20, 30, &[(0, &[1])])]);
    let twice = check(&[written.clone(), read(2, 20, 30, &[(0, &[1, 1])])]).unwrap_err();
    assert_eq!(twice, Violation::Twice { key: 0, piece: 1 });
    let elsewhere = check(&[written, read(2, 20, 30, &[(1, &[2, 1])])]).unwrap_err();
    assert_eq!(elsewhere, Violation::Invented { key: 1, piece: 1 });
}

#[test]
fn a_torn_batch_is_rejected() {
    let batch = append(1, 0, 100, &[(0, 1), (1, 2)]);
    accepts(&[batch.clone(), read(2, 20, 30, &[(0, &[]), (1, &[])])]);
    accepts(&[batch.clone(), read(2, 20, 30, &[(0, &[1]), (1, &[2])])]);
    has_no_order(&[batch.clone(), read(2, 20, 30, &[(0, &[1]), (1, &[])])]);
    has_no_order(&[batch.clone(), read(2, 20, 30, &[(0, &[]), (1, &[2])])]);
    // The same with two consecutive reads, and with a client that died meanwhile.
    let halves = [read(2, 20, 30, &[(0, &[1])]), read(2, 40, 50, &[(1, &[])])];
    has_no_order(&[std::slice::from_ref(&batch), &halves[..]].concat());
    has_no_order(&[&[never_ends(batch)], &halves[..]].concat());
}

#[test]
fn appends_of_two_processes_in_the_wrong_order_are_rejected() {
    let (first, second) = (append(1, 0, 10, &[(0, 1)]), append(2, 20, 30, &[(0, 2)]));
    accepts(&[first.clone(), second.clone(), read(3, 40, 50, &[(0, &[1, 2])])]);
    has_no_order(&[first.clone(), second, read(3, 40, 50, &[(0, &[2, 1])])]);
    // Concurrent appends can happen in either order, but all readers must agree on it.
    let second = append(2, 5, 30, &[(0, 2)]);
    accepts(&[first.clone(), second.clone(), read(3, 40, 50, &[(0, &[2, 1])])]);
    let two = [read(3, 40, 50, &[(0, &[2, 1])]), read(4, 40, 50, &[(0, &[1, 2])])];
    let disagree = check(&[&[first, second][..], &two[..]].concat()).unwrap_err();
    assert!(matches!(disagree, Violation::Disagree { key: 0, .. }), "{disagree}");
    // One order for all keys: 1 before 2 in key 0 and 4 before 3 in key 1 cannot both hold.
    let (first, second) =
        (append(1, 0, 30, &[(0, 1), (1, 3)]), append(2, 0, 30, &[(0, 2), (1, 4)]));
    let both = [first, second];
    accepts(&[&both[..], &[read(3, 40, 50, &[(0, &[1, 2]), (1, &[3, 4])])]].concat());
    has_no_order(&[&both[..], &[read(3, 40, 50, &[(0, &[1, 2]), (1, &[4, 3])])]].concat());
}

#[test]
fn a_stale_read_is_rejected() {
    let written = append(1, 0, 10, &[(0, 1)]);
    let later = read(2, 60, 70, &[(0, &[1])]);
    accepts(&[written.clone(), read(2, 5, 50, &[(0, &[])]), later.clone()]);
    has_no_order(&[written.clone(), read(2, 11, 50, &[(0, &[])]), later]);
    // While the append is in progress, a piece that one reader has seen is seen by the next.
    let long = append(1, 0, 100, &[(0, 1)]);
    let (old, new) = (read(2, 10, 20, &[(0, &[])]), read(3, 30, 40, &[(0, &[1])]));
    accepts(&[long.clone(), old, new]);
    let (new, old) = (read(2, 10, 20, &[(0, &[1])]), read(3, 30, 40, &[(0, &[])]));
    has_no_order(&[long, new, old]);
}

#[test]
fn a_resurrected_value_is_rejected() {
    for emptied in [Change::Delete(0), Change::Clear, Change::DeletePrefix(0, 0)] {
        let written = append(1, 0, 10, &[(0, 1)]);
        let before = [written, write(2, 20, 30, emptied)];
        accepts(&[&before[..], &[read(3, 40, 50, &[(0, &[])])]].concat());
        has_no_order(&[&before[..], &[read(3, 40, 50, &[(0, &[1])])]].concat());
        let after = append(1, 32, 34, &[(0, 2)]);
        let before = [&before[..], &[after]].concat();
        accepts(&[&before[..], &[read(3, 40, 50, &[(0, &[2])])]].concat());
        has_no_order(&[&before[..], &[read(3, 40, 50, &[(0, &[1, 2])])]].concat());
        // While the delete is in progress, the value cannot be gone for one reader and back for the
        // next.
        let long = [append(1, 0, 10, &[(0, 1)]), write(2, 20, 90, emptied)];
        let (gone, there) = ([(0, &[][..])], [(0, &[1][..])]);
        accepts(&[&long[..], &[read(3, 40, 50, &there), read(3, 60, 70, &gone)]].concat());
        has_no_order(&[&long[..], &[read(3, 40, 50, &gone), read(3, 60, 70, &there)]].concat());
    }
}

#[test]
fn a_prefix_delete_of_some_of_its_keys_or_of_a_neighbour_is_rejected() {
    let written = append(1, 0, 10, &[(0, 1), (1, 2), (2, 3)]);
    let deleted = write(2, 20, 90, Change::DeletePrefix(0, 1));
    let before = [written.clone(), deleted.clone()];
    let seen =
        |pieces: [&[Piece]; 3]| read(3, 95, 99, &[(0, pieces[0]), (1, pieces[1]), (2, pieces[2])]);
    accepts(&[&before[..], &[seen([&[], &[], &[3]])]].concat());
    has_no_order(&[&before[..], &[seen([&[1], &[], &[3]])]].concat());
    has_no_order(&[&before[..], &[seen([&[], &[2], &[3]])]].concat());
    has_no_order(&[&before[..], &[seen([&[], &[], &[]])]].concat());
    // All its keys are emptied in one step, even for two consecutive reads.
    let gone_then_there = [read(3, 30, 40, &[(0, &[])]), read(3, 50, 60, &[(1, &[2])])];
    let there_then_gone = [read(3, 30, 40, &[(0, &[1])]), read(3, 50, 60, &[(1, &[])])];
    has_no_order(&[&before[..], &gone_then_there[..]].concat());
    accepts(&[&before[..], &there_then_gone[..]].concat());
    // A set counts again after it, and a dead client's delete happens whole or never.
    let set = |start, piece| write(1, start, start + 1, Change::Set(1, piece));
    let sets = [set(12, 4), set(92, 5)];
    accepts(&[&before[..], &sets[..], &[read(3, 95, 99, &[(1, &[5])])]].concat());
    has_no_order(&[&before[..], &sets[..], &[read(3, 95, 99, &[(1, &[])])]].concat());
    let died = [written, never_ends(deleted)];
    accepts(&[&died[..], &[seen([&[1], &[2], &[3]])]].concat());
    accepts(&[&died[..], &[seen([&[], &[], &[3]])]].concat());
    has_no_order(&[&died[..], &[seen([&[], &[2], &[3]])]].concat());
}

#[test]
fn a_value_popped_twice_is_rejected() {
    let written = append(1, 0, 10, &[(0, 1)]);
    accepts(&[written.clone(), pop(2, 20, 50, 0, &[1]), pop(3, 20, 50, 0, &[])]);
    accepts(&[written.clone(), pop(2, 20, 50, 0, &[]), pop(3, 20, 50, 0, &[1])]);
    has_no_order(&[written.clone(), pop(2, 20, 50, 0, &[1]), pop(3, 20, 50, 0, &[1])]);
    has_no_order(&[written.clone(), pop(2, 20, 50, 0, &[]), pop(3, 20, 50, 0, &[])]);
    // Popped and deleted concurrently: either can come first.
    accepts(&[written.clone(), pop(2, 20, 50, 0, &[]), write(3, 20, 50, Change::Delete(0))]);
    has_no_order(&[written, pop(2, 40, 50, 0, &[1]), write(3, 20, 30, Change::Delete(0))]);
}

#[test]
fn the_first_set_since_a_delete_wins_and_any_other_result_is_rejected() {
    let set = |client, start, piece| write(client, start, start + 5, Change::Set(0, piece));
    let base =
        [append(1, 0, 10, &[(0, 1)]), set(1, 20, 2), set(2, 30, 3), append(1, 40, 45, &[(0, 4)])];
    accepts(&[&base[..], &[read(3, 50, 60, &[(0, &[2, 4])])]].concat());
    has_no_order(&[&base[..], &[read(3, 50, 60, &[(0, &[3, 4])])]].concat());
    has_no_order(&[&base[..], &[read(3, 50, 60, &[(0, &[1, 2, 4])])]].concat());
    let again = [&base[..], &[write(2, 50, 55, Change::Delete(0)), set(1, 60, 5)]].concat();
    accepts(&[&again[..], &[read(3, 70, 80, &[(0, &[5])])]].concat());
    has_no_order(&[&again[..], &[read(3, 70, 80, &[(0, &[])])]].concat());
}

#[test]
fn an_operation_of_a_dead_process_happens_whole_or_never() {
    let died = never_ends(append(1, 10, 0, &[(0, 1), (1, 2)]));
    let (gone, there) = ([(0, &[][..]), (1, &[][..])], [(0, &[1][..]), (1, &[2][..])]);
    accepts(&[died.clone(), read(2, 20, 30, &gone), read(2, 40, 50, &gone)]);
    accepts(&[died.clone(), read(2, 20, 30, &there), read(2, 40, 50, &there)]);
    accepts(&[died.clone(), read(2, 20, 30, &gone), read(2, 40, 50, &there)]);
    has_no_order(&[died.clone(), read(2, 20, 30, &there), read(2, 40, 50, &gone)]);
    // Not before it was called.
    has_no_order(&[died, read(2, 0, 5, &there)]);
    let popped = never_ends(pop(1, 20, 0, 0, &[]));
    let written = append(2, 0, 10, &[(0, 1)]);
    accepts(&[written.clone(), popped.clone(), read(2, 30, 40, &[(0, &[])])]);
    accepts(&[written.clone(), popped.clone(), read(2, 30, 40, &[(0, &[1])])]);
    accepts(&[written, popped, pop(2, 30, 40, 0, &[1])]);
}
