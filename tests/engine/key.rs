//! Different tuples are different keys, and keys sort like their tuples, whatever their bytes.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use partd::Key;
use proptest::collection::vec;
use proptest::prelude::*;

/// The source of a key. Of two parts, empty bytes sort before a tuple, and a tuple before other
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Tuple(Vec<Part>),
}

impl Ord for Part {
    fn cmp(&self, other: &Part) -> Ordering {
        match (self, other) {
            (Part::Bytes(a), Part::Bytes(b)) => a.cmp(b),
            (Part::Tuple(a), Part::Tuple(b)) => a.cmp(b),
            (Part::Bytes(a), Part::Tuple(_)) if a.is_empty() => Ordering::Less,
            (Part::Bytes(_), Part::Tuple(_)) => Ordering::Greater,
            (Part::Tuple(_), Part::Bytes(_)) => other.cmp(self).reverse(),
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

/// Tuples of many shapes, each as parts and as the key made from it.
fn tuple() -> impl Strategy<Value = (Part, Key)> {
    let parts = (bytes(), bytes(), bytes(), bytes());
    (0..12, parts).prop_map(|(shape, (a, b, c, d))| {
        let part = |bytes: &Vec<u8>| Part::Bytes(bytes.clone());
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
            _ => (tuple(&[tuple(&[tuple(&[pa])]), pb]), Key::from((((a,),), b))),
        }
    })
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
    fn keys_of_bytes_are_the_bytes_and_compare_like_them((a, b) in (bytes(), bytes())) {
        let (key_a, key_b) = (Key::from(&a), Key::from(&b));
        prop_assert_eq!(key_a.as_bytes(), &a);
        prop_assert_eq!(key_a.len(), a.len());
        prop_assert_eq!(key_a.is_empty(), a.is_empty());
        prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
        prop_assert_eq!(a == b, key_a == key_b);
    }

    #[test]
    fn a_key_is_the_same_inline_and_on_the_heap(bytes in vec(any::<u8>(), 0..40)) {
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
    fn integers_are_their_decimal_text(number in any::<i128>(), small in any::<u8>()) {
        prop_assert_eq!(Key::from(number), Key::from(number.to_string()));
        prop_assert_eq!(Key::from(small), Key::from(small.to_string()));
        prop_assert_eq!(Key::from(number as i64), Key::from((number as i64).to_string()));
        prop_assert_eq!(Key::from((number, small)), Key::from((number.to_string(), small.to_string())));
    }

    #[test]
    fn the_source_type_of_a_key_does_not_matter(text in "[a-z\\x00/]{0,20}") {
        let key = Key::from(&text[..]);
        prop_assert_eq!(&key, &Key::from(text.clone()));
        prop_assert_eq!(&key, &Key::from(text.as_bytes()));
        prop_assert_eq!(&key, &Key::from(text.clone().into_bytes()));
        prop_assert_eq!(Key::from((&text[..], 1)), Key::from((text.as_bytes(), "1")));
        prop_assert_eq!(Key::from((&key, 1)), Key::from((text, "1")));
    }
}

#[test]
fn a_key_is_shown_as_a_literal() {
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
        (&(&(&text,),)).into(),
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
}

#[test]
fn get_many_accepts_slices_of_all_kinds_of_keys() {
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
    let borrowed: &[&str] = &["a", "b"];
    assert_eq!(p.pop(borrowed).unwrap(), [b"1", b"2"]);
}
