//! Append, get, delete, pop, keys and the rest, on one thread.

use partd::{Batch, Durability, Key, Partd};

pub fn a_value_is_its_appends_in_order<P: Partd>(p: &P) {
    p.append([("x", "Hello "), ("y", "123")]).unwrap();
    p.append([("x", "world!"), ("y", "456")]).unwrap();
    assert_eq!(p.get("x").unwrap(), b"Hello world!");
    assert_eq!(p.get_many(["y", "x"]).unwrap(), [&b"123456"[..], b"Hello world!"]);
    let mut expected = Vec::new();
    for i in 0..2000_u32 {
        let piece = vec![i as u8; (i % 77) as usize];
        p.append([("z", &piece)]).unwrap();
        expected.extend(piece);
    }
    assert_eq!(p.get("z").unwrap(), expected);
}

pub fn a_missing_key_reads_as_empty_and_is_not_contained<P: Partd>(p: &P) {
    p.append([("there", "1")]).unwrap();
    assert_eq!(p.get("missing").unwrap(), b"");
    assert_eq!(p.get_many(["missing", "there"]).unwrap(), [&b""[..], b"1"]);
    assert!(!p.contains("missing").unwrap());
    assert_eq!(p.len_of("missing").unwrap(), 0);
    assert_eq!(p.lens(&[Key::from("missing")]).unwrap(), [None]);
    assert_eq!(p.pop(["missing"]).unwrap(), [b""]);
    p.delete(["missing"]).unwrap();
    assert_eq!(p.keys().unwrap(), [Key::from("there")]);
}

pub fn an_empty_batch_does_nothing<P: Partd>(p: &P) {
    p.append::<&str, &str>([]).unwrap();
    p.append_durable::<&str, &str>([]).unwrap();
    p.write(&Batch::new(), Durability::Plain).unwrap();
    p.delete::<&str>([]).unwrap();
    assert!(p.get_many::<&str>([]).unwrap().is_empty());
    assert!(p.pop::<&str>([]).unwrap().is_empty());
    assert!(p.lens(&[]).unwrap().is_empty());
    assert!(p.keys().unwrap().is_empty());
}

pub fn an_empty_value_makes_the_key_exist<P: Partd>(p: &P) {
    p.append([("k", "")]).unwrap();
    assert!(p.contains("k").unwrap());
    assert_eq!(p.len_of("k").unwrap(), 0);
    assert_eq!(p.get("k").unwrap(), b"");
    assert_eq!(p.keys().unwrap(), [Key::from("k")]);
    p.sync().unwrap();
    assert!(p.contains("k").unwrap());
    p.append([("k", ""), ("k", "v")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"v");
}

pub fn the_empty_key_is_a_key<P: Partd>(p: &P) {
    p.append([("", "1"), ("a", "2")]).unwrap();
    p.append([("", "3")]).unwrap();
    assert_eq!(p.get("").unwrap(), b"13");
    assert_eq!(p.keys().unwrap(), [Key::from(""), Key::from("a")]);
    p.delete([""]).unwrap();
    assert!(!p.contains("").unwrap());
}

pub fn any_bytes_can_be_a_key<P: Partd>(p: &P) {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    keys.extend((0..=255).map(|byte| vec![0, byte, 0]));
    keys.extend([
        b"a/b".to_vec(),
        b"..".to_vec(),
        b"../a".to_vec(),
        vec![7; 5000],
        vec![0xFF; 300],
    ]);
    p.append(keys.iter().map(|key| (key, key))).unwrap();
    p.append(keys.iter().map(|key| (key, "!"))).unwrap();
    for key in &keys {
        assert_eq!(p.get(key).unwrap(), [&key[..], b"!"].concat(), "key {}", key.escape_ascii());
    }
    p.append([(("a", "b"), "tuple")]).unwrap();
    assert_eq!(p.get(("a", "b")).unwrap(), b"tuple");
    assert_eq!(p.get("a/b").unwrap(), b"a/b!");
}

pub fn keys_are_sorted_and_unique<P: Partd>(p: &P) {
    let names = ["b", "a", "", "ab", "z", "\u{e4}", "B", "a"];
    for round in 0..3 {
        p.append(names.iter().map(|name| (*name, "v"))).unwrap();
        if round == 1 {
            p.sync().unwrap();
        }
    }
    p.iset("set", "v").unwrap();
    let mut expected: Vec<Key> =
        names.map(Key::from).into_iter().chain([Key::from("set")]).collect();
    expected.sort();
    expected.dedup();
    assert_eq!(p.keys().unwrap(), expected);
    assert!(expected.windows(2).all(|two| two[0].as_bytes() < two[1].as_bytes()));
}

pub fn get_many_keeps_the_order_and_the_duplicates_of_its_keys<P: Partd>(p: &P) {
    p.append((0..500).map(|i| (i, i.to_string()))).unwrap();
    let asked: Vec<i32> = (0..1000).map(|i| (i * 7919) % 700).collect();
    let values = p.get_many(asked.iter().copied()).unwrap();
    for (i, value) in asked.iter().zip(values) {
        let expected = if *i < 500 { i.to_string() } else { String::new() };
        assert_eq!(value, expected.as_bytes());
    }
}

pub fn len_of_is_the_length_of_the_value<P: Partd>(p: &P) {
    let mut len = 0;
    for i in 0..300 {
        p.append([("k", vec![1; i])]).unwrap();
        len += i as u64;
        assert_eq!(p.len_of("k").unwrap(), len);
    }
    p.delete(["k"]).unwrap();
    assert_eq!(p.len_of("k").unwrap(), 0);
}

pub fn a_deleted_key_is_gone_and_can_come_back<P: Partd>(p: &P) {
    p.append([("k", "old"), ("other", "kept")]).unwrap();
    p.delete(["k", "k", "missing"]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"");
    assert!(!p.contains("k").unwrap());
    assert_eq!(p.keys().unwrap(), [Key::from("other")]);
    p.append([("k", "new")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"new");
    p.sync().unwrap();
    p.append([("k", "er")]).unwrap();
    p.delete(["k"]).unwrap();
    assert!(!p.contains("k").unwrap());
}

pub fn pop_returns_and_removes<P: Partd>(p: &P) {
    p.append([("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
    p.sync().unwrap();
    p.append([("a", "+"), ("d", "4")]).unwrap();
    let popped = p.pop(["d", "a", "missing", "c"]).unwrap();
    assert_eq!(popped, [&b"4"[..], b"1+", b"", b"3"]);
    assert_eq!(p.keys().unwrap(), [Key::from("b")]);
    assert_eq!(p.pop(["a", "b"]).unwrap(), [&b""[..], b"2"]);
    p.append([("a", "again")]).unwrap();
    assert_eq!(p.get("a").unwrap(), b"again");
}

pub fn pop_of_a_key_twice_in_one_call_returns_it_once<P: Partd>(p: &P) {
    p.append([("a", "1")]).unwrap();
    p.sync().unwrap();
    p.append([("a", "2")]).unwrap();
    p.iset("s", "set").unwrap();
    let popped = p.pop(["a", "s", "a", "s"]).unwrap();
    assert_eq!(popped, [&b"12"[..], b"set", b"", b""]);
}

pub fn clear_removes_every_key_and_the_store_stays_usable<P: Partd>(p: &P) {
    p.clear().unwrap();
    p.append((0..300).map(|i| (i, "v"))).unwrap();
    p.iset("s", "set").unwrap();
    p.clear().unwrap();
    assert!(p.keys().unwrap().is_empty());
    assert_eq!(p.get(7).unwrap(), b"");
    p.append([(7, "w")]).unwrap();
    assert_eq!(p.get(7).unwrap(), b"w");
    assert_eq!(p.keys().unwrap(), [Key::from(7)]);
}

pub fn large_values_round_trip<P: Partd>(p: &P) {
    let value: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    p.append([("k", "before ")]).unwrap();
    p.append([("k", &value), ("l", &value)]).unwrap();
    p.append([("k", &value[..100_001])]).unwrap();
    assert!(p.get("k").unwrap() == [b"before ", &value[..], &value[..100_001]].concat());
    assert!(p.pop(["l", "k"]).unwrap()[0] == value);
}

pub fn twenty_thousand_keys_round_trip<P: Partd>(p: &P) {
    let names: Vec<u32> = (0..20_000).map(|i: u32| i.wrapping_mul(0x9E37_79B1)).collect();
    for names in names.chunks(5000) {
        p.append(names.iter().map(|name| (*name, name.to_le_bytes()))).unwrap();
    }
    p.append(names.iter().step_by(3).map(|name| (*name, b"+"))).unwrap();
    let mut expected: Vec<Key> = names.iter().map(|name| Key::from(*name)).collect();
    expected.sort();
    assert!(p.keys().unwrap() == expected);
    let values = p.get_many(names.iter().copied()).unwrap();
    for (i, (name, value)) in names.iter().zip(values).enumerate() {
        assert_eq!(&value[..4], name.to_le_bytes());
        assert_eq!(value.len(), if i % 3 == 0 { 5 } else { 4 });
    }
}

pub fn durable_appends_are_visible_like_plain_ones<P: Partd>(p: &P) {
    for i in 0..20 {
        p.append([("k", "p")]).unwrap();
        p.append_durable([("k", "d"), ("l", "d")]).unwrap();
        if i % 5 == 0 {
            p.sync().unwrap();
        }
    }
    assert_eq!(p.get("k").unwrap(), b"pd".repeat(20));
    assert_eq!(p.get("l").unwrap(), b"d".repeat(20));
}

pub fn visit_lends_the_values_once<P: Partd>(p: &P) {
    for round in 0..3 {
        p.append((0..50).map(|i| (i, vec![i as u8; 300]))).unwrap();
        if round == 1 {
            p.sync().unwrap();
        }
    }
    let keys: Vec<Key> = [7, 99, 3, 7].into_iter().map(Key::from).collect();
    let mut calls = 0;
    p.visit(&keys, &mut |values| {
        calls += 1;
        let joined: Vec<Vec<u8>> = values.iter().map(|pieces| pieces.concat()).collect();
        assert_eq!(joined, [vec![7; 900], vec![], vec![3; 900], vec![7; 900]]);
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, 1);
}
