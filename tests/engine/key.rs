//! Different tuples are different keys, and keys sort like their tuples, whatever their bytes.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use partd::{Key, TuplePart};
use proptest::collection::vec;
use proptest::prelude::*;

/// The source of a key. Of parts of different kinds, the empty string comes first, then
/// integers, then tuples, then all other strings.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Integer(i128),
    Tuple(Vec<Part>),
}

impl Part {
    fn kind(&self) -> u8 {
        match self {
            Part::Bytes(bytes) if bytes.is_empty() => 0,
            Part::Integer(_) => 1,
            Part::Tuple(_) => 2,
            Part::Bytes(_) => 3,
        }
    }
}

impl PartialEq<TuplePart> for Part {
    fn eq(&self, other: &TuplePart) -> bool {
        match (self, other) {
            (Part::Bytes(a), TuplePart::Bytes(b)) => a == b,
            (Part::Integer(a), TuplePart::Integer(b)) => i128::try_from(*b).is_ok_and(|b| b == *a),
            (Part::Tuple(a), TuplePart::Tuple(b)) => a == b,
            _ => false,
        }
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Part) -> Ordering {
        match (self, other) {
            (Part::Bytes(a), Part::Bytes(b)) => a.cmp(b),
            (Part::Tuple(a), Part::Tuple(b)) => a.cmp(b),
            (Part::Integer(a), Part::Integer(b)) => a.cmp(b),
            _ => self.kind().cmp(&other.kind()),
        }
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Part) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bytes that are likely to be confused with escapes, and some that are not.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => vec(prop::sample::select(vec![0, 1, 2, 3, 4, 0xFE, 0xFF, b'a']), 0..5),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// Integers around the lengths at which their encoding grows, and any others.
fn integer() -> impl Strategy<Value = i128> {
    let near = (0..128_u32, -2..=2_i128, any::<bool>()).prop_map(|(bit, off, is_negative)| {
        let number = (1_i128.checked_shl(bit).unwrap_or(0)).wrapping_add(off);
        if is_negative { number.wrapping_neg() } else { number }
    });
    prop_oneof![3 => near, 1 => any::<i128>(), 1 => -300..300_i128]
}

/// Tuples of many shapes, each as parts and as the key made of it.
fn tuple() -> impl Strategy<Value = (Part, Key)> {
    let parts = (bytes(), bytes(), bytes(), bytes());
    (0..24, parts, integer()).prop_map(|(shape, (a, b, c, d), n)| {
        let part = |bytes: &Vec<u8>| Part::Bytes(bytes.clone());
        let number = |n: i128| Part::Integer(n);
        let tuple = |parts: &[Part]| Part::Tuple(parts.to_vec());
        let [pa, pb, pc, pd] = [&a, &b, &c, &d].map(part);
        match shape {
            0 | 1 => (tuple(&[pa, pb]), Key::from((a, b))),
            2 => (tuple(&[pa, pb, pc]), Key::from((a, b, c))),
            3 => (tuple(&[pa, pb, pc, pd]), Key::from((a, b, c, d))),
            4 => (tuple(&[tuple(&[pa, pb]), pc]), Key::from(((a, b), c))),
            5 => (tuple(&[pa, tuple(&[pb, pc])]), Key::from((a, (b, c)))),
            6 => (tuple(&[tuple(&[pa]), pb]), Key::from(((a,), b))),
            7 => (tuple(&[pa, tuple(&[pb])]), Key::from((a, (b,)))),
            8 => (tuple(&[tuple(&[pa, tuple(&[pb, pc])]), pd]), Key::from(((a, (b, c)), d))),
            9 => (tuple(&[tuple(&[tuple(&[pa, pb]), pc]), pd]), Key::from((((a, b), c), d))),
            10 => (tuple(&[tuple(&[pa, pb]), tuple(&[pc, pd])]), Key::from(((a, b), (c, d)))),
            11 => (tuple(&[tuple(&[tuple(&[pa])]), pb]), Key::from((((a,),), b))),
            12 => (tuple(&[number(n), pa]), Key::from((n, a))),
            13 => (tuple(&[pa, number(n)]), Key::from((a, n))),
            14 => {
                let (x, y) = (n as i64, n as u16);
                (tuple(&[number(x.into()), number(y.into()), pa]), Key::from((x, y, a)))
            }
            15 => {
                let (x, y) = (n as i8, n as u64);
                let parts = tuple(&[pa, tuple(&[number(x.into()), number(y.into())])]);
                (parts, Key::from((a, (x, y))))
            }
            16 => {
                let (x, y) = (n as isize, n as u32);
                let parts = tuple(&[tuple(&[number(x as i128)]), number(y.into()), pb]);
                (parts, Key::from(((x,), y, b)))
            }
            17 => {
                let (x, y) = (n as i16, n as u8);
                (tuple(&[number(x.into()), tuple(&[number(y.into())])]), Key::from((x, (y,))))
            }
            18 => (tuple(&[pa]), Key::from((a,))),
            19 => (tuple(&[number(n)]), Key::from((n,))),
            20 => (tuple(&[tuple(&[pa, pb])]), Key::from(((a, b),))),
            21 => (tuple(&[tuple(&[pa])]), Key::from(((a,),))),
            22 => (tuple(&[tuple(&[tuple(&[pa, number(n)])])]), Key::from((((a, n),),))),
            _ => {
                let (x, y) = (n as i32, n as usize);
                (tuple(&[number(x.into()), number(y as i128)]), Key::from((x, y)))
            }
        }
    })
}

/// Bytes full of escapes and codes of integers.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(vec![0, 0xFF]),
        Just(vec![0, 1]),
        Just(vec![0, 3]),
        Just(vec![0, 0]),
        (0x0E..0x33_u8, vec(any::<u8>(), 0..18))
            .prop_map(|(code, bytes)| { [&[0, 2, code][..], &bytes].concat() }),
        (0x1C..0x25_u8, vec(any::<u8>(), 0..5)).prop_map(|(code, mut bytes)| {
            bytes.truncate(usize::from(code.abs_diff(0x20)));
            [&[0, 2, code][..], &bytes].concat()
        }),
        vec(any::<u8>(), 0..3),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// The encoding of parts, by the table of `partd_format::tuple`.
fn encode(parts: &[TuplePart], out: &mut Vec<u8>) {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            out.extend([0, 1]);
        }
        match part {
            TuplePart::Bytes(bytes) => bytes.iter().for_each(|&byte| match byte {
                0 => out.extend([0, 0xFF]),
                byte => out.push(byte),
            }),
            TuplePart::Integer(integer) => {
                let (bytes, len) = integer.encode();
                out.extend(&bytes[..len]);
            }
            TuplePart::Tuple(parts) => {
                out.extend([0, 3]);
                encode(parts, out);
                out.extend([0, 0]);
            }
            _ => unreachable!("there are three kinds of parts"),
        }
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tuples_and_their_keys_compare_and_sort_alike((a, b) in (tuple(), tuple())) {
        prop_assert_eq!(a.0.cmp(&b.0), a.1.cmp(&b.1), "{} and {}", a.1, b.1);
        prop_assert_eq!(a.0 == b.0, a.1 == b.1);
    }

    #[test]
    fn a_tuple_key_is_decoded_into_its_parts((parts, key) in tuple()) {
        let Part::Tuple(parts) = parts else { unreachable!() };
        prop_assert_eq!(parts, key.parts().unwrap());
    }

    #[test]
    fn any_bytes_that_decode_as_a_tuple_are_its_encoding(bytes in hostile()) {
        if let Some(parts) = Key::from(&bytes).parts() {
            let mut again = Vec::new();
            encode(&parts, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn keys_of_bytes_are_the_bytes_and_compare_like_them((a, b) in (bytes(), bytes())) {
        let (key_a, key_b) = (Key::from(&a), Key::from(&b));
        prop_assert_eq!(key_a.as_bytes(), &a);
        prop_assert_eq!(key_a.len(), a.len());
        prop_assert_eq!(key_a.is_empty(), a.is_empty());
        prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
        prop_assert_eq!(a == b, key_a == key_b);
    }

    #[test]
    fn a_key_is_the_same_inline_and_on_the_heap(bytes in vec(1..=u8::MAX, 0..40)) {
        // One grows from the inline to the heap form, the other is created at full length.
        let whole = Key::from(&bytes);
        let copy = whole.clone();
        let from_tuple = Key::from((bytes.clone(),));
        prop_assert_eq!(&whole, &copy);
        prop_assert_eq!(&whole, &from_tuple);
        prop_assert_eq!(hash(&whole), hash(&copy));
        prop_assert_eq!(hash(&whole), hash(&from_tuple));
    }

    #[test]
    fn an_integer_alone_is_its_decimal_text(number in any::<i128>(), small in any::<u8>()) {
        prop_assert_eq!(Key::from(number), Key::from(number.to_string()));
        prop_assert_eq!(Key::from(small), Key::from(small.to_string()));
        prop_assert_eq!(Key::from(number as i64), Key::from((number as i64).to_string()));
        prop_assert_ne!(Key::from((number, small)), Key::from((number.to_string(), small.to_string())));
    }

    #[test]
    fn an_integer_in_a_tuple_is_the_same_in_every_type_that_holds_it(small in 0..=127_u8) {
        let key = Key::from(("a", small));
        prop_assert_eq!(&key, &Key::from(("a", small as i8)));
        prop_assert_eq!(&key, &Key::from(("a", u128::from(small))));
        prop_assert_eq!(&key, &Key::from(("a", i128::from(small))));
        prop_assert_eq!(&key, &Key::from(("a", usize::from(small))));
        prop_assert_eq!(&key, &Key::from(("a", i64::from(small))));
    }

    #[test]
    fn the_source_type_of_a_key_does_not_matter(text in "[a-z\\x00/]{0,20}") {
        let key = Key::from(&text[..]);
        prop_assert_eq!(&key, &Key::from(text.clone()));
        prop_assert_eq!(&key, &Key::from(text.as_bytes()));
        prop_assert_eq!(&key, &Key::from(text.clone().into_bytes()));
        prop_assert_eq!(Key::from((&text[..], 1)), Key::from((text.as_bytes(), 1_u8)));
        prop_assert_eq!(Key::from((&key, 1)), Key::from((text, 1_u64)));
    }
}

#[test]
fn integers_in_tuples_are_encoded_as_the_specification_says() {
    let encoded = |key: Key| key.as_bytes().to_vec();
    assert_eq!(encoded(Key::from((0,))), [0, 2, 0x20]);
    assert_eq!(encoded(Key::from((1,))), [0, 2, 0x21, 1]);
    assert_eq!(encoded(Key::from((-1,))), [0, 2, 0x1F, 0xFE]);
    assert_eq!(encoded(Key::from((256,))), [0, 2, 0x22, 1, 0]);
    assert_eq!(encoded(Key::from((-256, "a"))), [0, 2, 0x1E, 0xFE, 0xFF, 0, 1, b'a']);
    assert_eq!(encoded(Key::from(("a", u128::MAX)))[..4], [b'a', 0, 1, 0]);
    let largest = Key::from((u128::MAX,)).parts().unwrap();
    assert_eq!(largest[0].to_string(), u128::MAX.to_string());
    let smallest = Key::from((i128::MIN,)).parts().unwrap();
    assert_eq!(smallest[0].to_string(), i128::MIN.to_string());
    assert!(Key::from((i128::MIN,)) < Key::from((u128::MAX,)));
}

#[test]
fn tuples_nested_without_end_are_not_decoded() {
    assert_eq!(Key::from([0, 3].repeat(100_000)).parts(), None);
    let nested = |depth: usize| [[0, 3].repeat(depth), vec![b'a'], [0, 0].repeat(depth)].concat();
    assert!(Key::from(nested(64)).parts().is_some());
    assert_eq!(Key::from(nested(65)).parts(), None);
}

#[test]
fn a_key_is_shown_as_rust_writes_it() {
    assert_eq!(Key::from(("a", -7, ("b\0", (5_u8,)))).to_string(), r#"("a", -7, ("b\x00", (5,)))"#);
    assert_eq!(Key::from((3,)).to_string(), "(3,)");
    assert_eq!(Key::from([b'a', 0, 2]).to_string(), r#""a\x00\x02""#);
    assert_eq!(Key::from("a\"b\0\u{e4}").to_string(), r#""a\"b\x00\xc3\xa4""#);
    assert_eq!(format!("{:?}", Key::from(7)), r#"Key("7")"#);
}

#[test]
fn references_to_keys_and_owned_keys_convert_to_the_same_key() {
    use std::borrow::Cow;
    use std::rc::Rc;
    use std::sync::Arc;

    let key = Key::from("key");
    let text = "key".to_owned();
    let bytes = b"key".to_vec();
    let same: [Key; 25] = [
        (&"key").into(),
        (&&"key").into(),
        (&text).into(),
        (&&text).into(),
        (&bytes).into(),
        (&&bytes[..]).into(),
        b"key".into(),
        (&b"key").into(),
        (*b"key").into(),
        (&key).into(),
        (&&key).into(),
        Box::<str>::from("key").into(),
        (&Box::<str>::from("key")).into(),
        Box::<[u8]>::from(&bytes[..]).into(),
        Rc::<str>::from("key").into(),
        Rc::<[u8]>::from(&bytes[..]).into(),
        Arc::<str>::from("key").into(),
        (&Arc::<[u8]>::from(&bytes[..])).into(),
        Cow::Borrowed("key").into(),
        Cow::<str>::Owned(text.clone()).into(),
        (&Cow::Borrowed(&bytes[..])).into(),
        Cow::<[u8]>::Owned(bytes.clone()).into(),
        (&("key",)).into(),
        ("key",).into(),
        (&(&&text,)).into(),
    ];
    assert!(same.iter().all(|same| *same == key), "{same:?}");

    let (number, signed) = (17_u64, -5_i8);
    assert_eq!([Key::from(&number), Key::from(&&number)], [Key::from("17"), Key::from("17")]);
    assert_eq!(Key::from(&signed), Key::from("-5"));

    let tuple = Key::from(("a", 1, ("b", "c")));
    let inner = ("b".to_owned(), Cow::Borrowed("c"));
    assert_eq!(Key::from(&("a", 1, ("b", "c"))), tuple);
    assert_eq!(Key::from(("a", &1, &inner)), tuple);
    assert_eq!(Key::from(&(&"a", &&1, &inner)), tuple);
    assert_eq!(Key::from(&((("x",),), 1)), Key::from(((("x",),), 1)));
    assert_ne!(Key::from(&((("x",),), 1)), Key::from(("x", 1)));
    assert_ne!(Key::from(&(("x",),)), Key::from(("x",)));
}

#[test]
fn a_tuple_prefix_begins_the_longer_tuples_of_its_parts_and_no_others() {
    let begins = |prefix: Key, key: Key| key.as_bytes().starts_with(prefix.as_bytes());
    // A value alone, its one-tuple and a tuple that holds more after it agree on the first part.
    assert_eq!(Key::tuple_prefix(7), Key::tuple_prefix((7,)));
    assert_eq!(Key::tuple_prefix(7_u8), Key::tuple_prefix(7_i128));
    assert_eq!(Key::tuple_prefix("a\0b"), Key::tuple_prefix(("a\0b",)));
    assert!(begins(Key::tuple_prefix(7), (7, "x").into()));
    assert!(!begins(Key::tuple_prefix(7), ("7", "x").into()));
    assert!(begins(Key::tuple_prefix("a\0b"), ("a\0b", 1).into()));
    assert!(!begins(Key::tuple_prefix("a\0\x01b"), ("a", "b", 1).into()));
    assert!(begins(Key::tuple_prefix(("a", "b")), ("a", "b", 1).into()));
    assert!(!begins(Key::tuple_prefix(("a", "b")), (("a", "b"), 1).into()));
    assert!(begins(Key::tuple_prefix((("a", "b"),)), (("a", "b"), 1).into()));
    assert!(!begins(Key::tuple_prefix((("a", "b"),)), ("a", "b", 1).into()));
    // A `Key` is the encoding already.
    assert_eq!(Key::tuple_prefix(Key::from(("a", "b"))), Key::tuple_prefix(("a", "b")));
}

#[test]
fn get_many_accepts_slices_of_all_kinds_of_keys() {
    use std::borrow::Cow;
    use std::rc::Rc;

    use partd::{Dict, Partd};

    fn check<'a, K: 'a>(p: &Dict, keys: &'a [K])
    where
        &'a K: Into<Key>,
    {
        assert_eq!(p.get_many(keys).unwrap(), [b"1", b"2"]);
        p.delete(&keys[..0]).unwrap();
        p.append(keys[..0].iter().map(|key| (key, "nothing"))).unwrap();
    }
    let p = Dict::new();
    p.append([("a", "1"), ("b", "2"), ("10", "1"), ("11", "2")]).unwrap();
    p.append([(("a", 1), "1"), (("b", 2), "2")]).unwrap();
    check(&p, &["a", "b"]);
    check(&p, &["a".to_owned(), "b".to_owned()]);
    check(&p, &[&"a".to_owned(), &"b".to_owned()]);
    check(&p, &[b"a", b"b"]);
    check(&p, &[b"a".to_vec(), b"b".to_vec()]);
    check(&p, &[10, 11]);
    check(&p, &[("a", 1), ("b", 2)]);
    check(&p, &[Key::from("a"), Key::from("b")]);
    check(&p, &[Box::<str>::from("a"), Box::<str>::from("b")]);
    check(&p, &[Box::<[u8]>::from(*b"a"), Box::<[u8]>::from(*b"b")]);
    check(&p, &[Rc::<str>::from("a"), Rc::<str>::from("b")]);
    check(&p, &[Cow::Borrowed("a"), Cow::Owned("b".to_owned())]);
    check(&p, &[Cow::Borrowed(&b"a"[..]), Cow::Owned(b"b".to_vec())]);
    check(&p, &[10_u64, 11]);
    check(&p, &[("a".to_owned(), 1_u8), ("b".to_owned(), 2)]);
    let borrowed: &[&str] = &["a", "b"];
    assert_eq!(p.pop(borrowed).unwrap(), [b"1", b"2"]);
}

#[test]
fn the_keys_of_maps_and_sets_can_be_read_without_a_clone() {
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    use partd::{Dict, Partd};

    let p = Dict::new();
    let values = BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
    p.append(&values).unwrap();
    assert_eq!(p.get_many(values.keys()).unwrap(), [b"1", b"2"]);
    assert_eq!(p.get_many(BTreeSet::from(["a", "b"])).unwrap(), [b"1", b"2"]);
    let one = HashMap::from([(("a", 1_u64), "3")]);
    p.append(&one).unwrap();
    assert_eq!(p.pop(one.keys()).unwrap(), [b"3"]);
    p.delete(values.into_keys().collect::<Vec<String>>()).unwrap();
    assert_eq!(p.keys().unwrap(), []);
}
