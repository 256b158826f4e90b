//! Batches of several operations are applied in order and as one step.

use partd::{Batch, Durability, Key, Partd};

pub fn the_same_key_twice_in_a_batch_is_in_order<P: Partd>(p: &P) {
    p.append([("k", "1"), ("l", "x"), ("k", "2"), ("k", ""), ("k", "3")]).unwrap();
    p.append([("k", "4"), ("k", "5")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"12345");
}

pub fn a_mixed_batch_is_applied_in_order<P: Partd>(p: &P) {
    p.append([("a", "old"), ("b", "old"), ("c", "old")]).unwrap();
    let mut batch = Batch::new();
    batch.append("a", b"1").delete("a").append("a", b"2").set("b", b"3").append("b", b"4");
    batch.set("b", b"void").append("c", b"5").delete("missing").set("d", b"6").delete("d");
    p.write(&batch, Durability::Plain).unwrap();
    let values = p.get_many(["a", "b", "c", "d"]).unwrap();
    assert_eq!(values, [&b"2"[..], b"34", b"old5", b""]);
    assert_eq!(p.keys().unwrap(), ["a", "b", "c"].map(Key::from));
}

pub fn a_delete_and_an_append_in_one_batch_replace_the_value<P: Partd>(p: &P) {
    for round in 0..50 {
        let value = vec![round; 500];
        p.append([("k", "rest of the round before")]).unwrap();
        p.write(Batch::new().delete("k").append("k", &value), Durability::Plain).unwrap();
        assert_eq!(p.get("k").unwrap(), value);
    }
}

pub fn a_clear_in_a_batch_leaves_later_operations_in_effect<P: Partd>(p: &P) {
    p.append([("a", "old"), ("b", "old")]).unwrap();
    p.iset("s", "old").unwrap();
    let mut batch = Batch::new();
    batch.append("c", b"lost").clear().append("a", b"1").clear().append("a", b"2");
    batch.set("s", b"new").append("b", b"3");
    p.write(&batch, Durability::Plain).unwrap();
    assert_eq!(p.keys().unwrap(), ["a", "b", "s"].map(Key::from));
    assert_eq!(p.get_many(["a", "b", "s"]).unwrap(), [&b"2"[..], b"3", b"new"]);
}

pub fn sets_in_a_batch_are_applied_in_order<P: Partd>(p: &P) {
    let mut batch = Batch::new();
    batch.append("a", b"gone").set("a", b"1").append("a", b"2").set("a", b"void");
    batch.set("b", b"3").set("b", b"void").append("b", b"4");
    batch.set("c", b"gone").delete("c").set("c", b"5");
    p.write(&batch, Durability::Plain).unwrap();
    assert_eq!(p.get_many(["a", "b", "c"]).unwrap(), [b"12", b"34", &b"5"[..]]);
    let mut again = Batch::new();
    again.set("a", b"void").append("a", b"+").set("d", b"6").append("d", b"7");
    p.write(&again, Durability::Plain).unwrap();
    assert_eq!(p.get_many(["a", "d"]).unwrap(), [b"12+", &b"67"[..]]);
}

pub fn a_batch_can_have_very_many_operations<P: Partd>(p: &P) {
    let values: Vec<[u8; 4]> = (0..20_000_u32).map(u32::to_le_bytes).collect();
    let mut batch = Batch::new();
    for (i, value) in values.iter().enumerate() {
        match i % 5 {
            4 => batch.set((i % 1000, "set"), value),
            _ => batch.append(i % 1000, value),
        };
    }
    p.write(&batch, Durability::Plain).unwrap();
    for key in [0_usize, 1, 4, 500, 999] {
        let all: Vec<u8> = values.iter().skip(key).step_by(1000).flatten().copied().collect();
        let (appended, set) = if key % 5 == 4 { (&[][..], &all[..4]) } else { (&all[..], &[][..]) };
        assert_eq!(p.get(key).unwrap(), appended);
        assert_eq!(p.get((key, "set")).unwrap(), set);
    }
}

pub fn a_prefix_delete_removes_the_keys_with_the_prefix_and_no_other<P: Partd>(p: &P) {
    let keys = [("a", 1), ("a", 2), ("aa", 1), ("b", 1)].map(Key::from);
    let fill = || p.append(keys.iter().map(|key| (key, "x"))).unwrap();
    fill();
    p.append([("a", "y"), ("c", "z"), ("", "empty")]).unwrap();
    assert_eq!(p.keys_with_prefix("nothing").unwrap(), []);
    assert_eq!(p.keys_with_prefix(Key::tuple_prefix("a")).unwrap(), keys[..2]);
    p.delete_prefix("nothing").unwrap();
    assert_eq!(p.keys().unwrap().len(), 7);
    p.delete_prefix(Key::tuple_prefix("a")).unwrap();
    let left = [Key::from(""), "a".into(), keys[2].clone(), keys[3].clone(), "c".into()];
    assert_eq!(p.keys().unwrap(), left);
    assert_eq!(p.get("a").unwrap(), b"y");
    // Values begin anew, and a set counts again.
    p.iset(("a", 1), "set").unwrap();
    p.delete_prefix("a").unwrap();
    p.iset(("a", 1), "set again").unwrap();
    fill();
    assert_eq!(p.get_many(&keys).unwrap(), [&b"set againx"[..], b"x", b"x", b"xx"]);
    p.delete_prefix("").unwrap();
    assert_eq!(p.keys().unwrap(), []);
}

pub fn a_prefix_delete_in_a_batch_takes_its_place_among_the_operations<P: Partd>(p: &P) {
    p.append([("ab", "old"), ("b", "old")]).unwrap();
    let mut batch = Batch::new();
    batch.append("ab", b"1").append("ac", b"1").delete_prefix("a").append("ab", b"2");
    batch.delete_prefix("ac").set("ad", b"3").append("b", b"+").delete_prefix("ad");
    p.write(&batch, Durability::Plain).unwrap();
    assert_eq!(p.keys().unwrap(), ["ab", "b"].map(Key::from));
    assert_eq!(p.get_many(["ab", "b"]).unwrap(), [&b"2"[..], b"old+"]);
}
