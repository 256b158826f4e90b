//! The idempotent set: the first one since the last delete wins and replaces earlier appends.

use partd::{Batch, Durability, Partd};

pub fn the_first_set_wins_and_later_ones_do_nothing<P: Partd>(p: &P) {
    p.iset("k", "first").unwrap();
    p.iset("k", "second").unwrap();
    assert_eq!(p.get("k").unwrap(), b"first");
    p.sync().unwrap();
    p.iset("k", "third").unwrap();
    assert_eq!(p.get("k").unwrap(), b"first");
    assert_eq!(p.len_of("k").unwrap(), 5);
}

pub fn a_set_replaces_what_was_appended_before<P: Partd>(p: &P) {
    p.append([("k", "gone"), ("l", "gone")]).unwrap();
    p.iset("k", "set").unwrap();
    assert_eq!(p.get("k").unwrap(), b"set");
    p.sync().unwrap();
    p.iset("l", "set").unwrap();
    assert_eq!(p.get("l").unwrap(), b"set");
}

pub fn appends_follow_a_set_and_a_later_set_does_nothing<P: Partd>(p: &P) {
    p.append([("k", "gone")]).unwrap();
    p.iset("k", "set").unwrap();
    p.append([("k", "+1")]).unwrap();
    p.iset("k", "late").unwrap();
    p.append([("k", "+2")]).unwrap();
    assert_eq!(p.len_of("k").unwrap(), 7);
    p.sync().unwrap();
    p.iset("k", "later").unwrap();
    p.append([("k", "+3")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"set+1+2+3");
}

pub fn a_delete_lets_the_next_set_win_again<P: Partd>(p: &P) {
    for round in ["a", "b", "c"] {
        p.iset("k", round).unwrap();
        p.iset("k", "late").unwrap();
        p.append([("k", "+")]).unwrap();
        assert_eq!(p.get("k").unwrap(), format!("{round}+").as_bytes());
        if round == "b" {
            p.sync().unwrap();
        }
        p.delete(["k"]).unwrap();
        assert!(!p.contains("k").unwrap());
    }
}

pub fn a_pop_and_a_clear_let_the_next_set_win_again<P: Partd>(p: &P) {
    p.iset("k", "1").unwrap();
    assert_eq!(p.pop(["k"]).unwrap(), [b"1"]);
    p.iset("k", "2").unwrap();
    p.iset("k", "late").unwrap();
    assert_eq!(p.get("k").unwrap(), b"2");
    p.clear().unwrap();
    p.append([("k", "gone")]).unwrap();
    p.iset("k", "3").unwrap();
    assert_eq!(p.get("k").unwrap(), b"3");
}

pub fn an_empty_set_counts<P: Partd>(p: &P) {
    p.iset("k", "").unwrap();
    assert!(p.contains("k").unwrap());
    p.iset("k", "late").unwrap();
    assert_eq!(p.get("k").unwrap(), b"");
    p.append([("l", "gone")]).unwrap();
    p.iset("l", "").unwrap();
    assert_eq!(p.lens(&["l".into()]).unwrap(), [Some(0)]);
}

/// The way a typed layer uses sets: it stores the type with every append.
pub fn a_set_before_every_append_counts_once<P: Partd>(p: &P) {
    for i in 0..500 {
        let mut batch = Batch::new();
        for key in 0..10 {
            batch.set((key, "dtype"), b"i8").append(key, b"12345678");
        }
        p.write(&batch, Durability::Plain).unwrap();
        if i % 100 == 50 {
            assert_eq!(p.get((3, "dtype")).unwrap(), b"i8");
        }
    }
    for key in 0..10 {
        assert_eq!(p.get((key, "dtype")).unwrap(), b"i8");
        assert_eq!(p.get(key).unwrap(), b"12345678".repeat(500));
    }
    assert_eq!(p.keys().unwrap().len(), 20);
}
