//! Tuples as keys: the mapping is reversible, so it is injective; and keys sort like their tuples.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use partd::{Key, TuplePart};
use partd_fuzz::limit::with_limit;

type B = Vec<u8>;

/// The tested shapes of tuples; Rust's tuples have fixed types.
#[derive(Arbitrary, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tuple {
    Two(B, B),
    Three(B, B, B),
    Four(B, B, B, B),
    First((B, B), B),
    Second(B, (B, B, B)),
    Both((B, B), (B, B)),
    Deep(B, (B, (B, B), B)),
    Single((B,), B),
    Number(i64, B),
}

/// The source of a key, as decoded from it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Bytes(B),
    Integer(i128),
    Tuple(Vec<Node>),
}

impl Tuple {
    fn key(&self) -> Key {
        match self.clone() {
            Tuple::Two(a, b) => Key::from((a, b)),
            Tuple::Three(a, b, c) => Key::from((a, b, c)),
            Tuple::Four(a, b, c, d) => Key::from((a, b, c, d)),
            Tuple::First(a, b) => Key::from((a, b)),
            Tuple::Second(a, b) => Key::from((a, b)),
            Tuple::Both(a, b) => Key::from((a, b)),
            Tuple::Deep(a, b) => Key::from((a, b)),
            Tuple::Single(a, b) => Key::from((a, b)),
            Tuple::Number(a, b) => Key::from((a, b)),
        }
    }

    fn nodes(&self) -> Vec<Node> {
        let leaf = |bytes: B| Node::Bytes(bytes);
        let pair = |(a, b): (B, B)| Node::Tuple(vec![leaf(a), leaf(b)]);
        match self.clone() {
            Tuple::Two(a, b) => vec![leaf(a), leaf(b)],
            Tuple::Three(a, b, c) => vec![leaf(a), leaf(b), leaf(c)],
            Tuple::Four(a, b, c, d) => vec![leaf(a), leaf(b), leaf(c), leaf(d)],
            Tuple::First(a, b) => vec![pair(a), leaf(b)],
            Tuple::Second(a, (b, c, d)) => {
                vec![leaf(a), Node::Tuple(vec![leaf(b), leaf(c), leaf(d)])]
            }
            Tuple::Both(a, b) => vec![pair(a), pair(b)],
            Tuple::Deep(a, (b, c, d)) => {
                vec![leaf(a), Node::Tuple(vec![leaf(b), pair(c), leaf(d)])]
            }
            Tuple::Single((a,), b) => vec![Node::Tuple(vec![leaf(a)]), leaf(b)],
            Tuple::Number(a, b) => vec![Node::Integer(a.into()), leaf(b)],
        }
    }

    /// Whether two tuples have the same shape, so that they sort by their parts.
    fn has_shape_of(&self, other: &Tuple) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn is_flat(&self) -> bool {
        matches!(self, Tuple::Two(..) | Tuple::Three(..) | Tuple::Four(..))
    }

    fn flat(&self) -> Vec<B> {
        let bytes = |node| match node {
            Node::Bytes(bytes) => bytes,
            Node::Integer(_) | Node::Tuple(_) => Vec::new(),
        };
        self.nodes().into_iter().map(bytes).collect()
    }
}

/// Decodes a key, using only the tables of `partd_format::tuple`.
fn decode(bytes: &mut std::slice::Iter<'_, u8>, nested: bool) -> Option<Vec<Node>> {
    let mut parts = Vec::new();
    let mut part = Node::Bytes(Vec::new());
    loop {
        match (bytes.next(), &mut part) {
            (None, _) => {
                parts.push(part);
                return (!nested).then_some(parts);
            }
            (Some(0), part_now) => match (bytes.next()?, part_now) {
                (0xFF, Node::Bytes(part)) => part.push(0),
                (3, now) if *now == Node::Bytes(Vec::new()) => {
                    *now = Node::Tuple(decode(bytes, true)?);
                }
                (2, now) if *now == Node::Bytes(Vec::new()) => {
                    *now = Node::Integer(integer(bytes)?)
                }
                (1, _) => parts.push(std::mem::replace(&mut part, Node::Bytes(Vec::new()))),
                (0, _) if nested => {
                    parts.push(part);
                    return Some(parts);
                }
                _ => return None,
            },
            (Some(byte), Node::Bytes(part)) => part.push(*byte),
            (Some(_), Node::Integer(_) | Node::Tuple(_)) => return None,
        }
    }
}

/// Reads the code and the bytes of an integer.
fn integer(bytes: &mut std::slice::Iter<'_, u8>) -> Option<i128> {
    let code = i128::from(*bytes.next()?) - 0x20;
    let mut number = 0;
    for _ in 0..code.abs() {
        let byte = *bytes.next()?;
        number = number << 8 | i128::from(if code < 0 { !byte } else { byte });
    }
    Some(if code < 0 { -number } else { number })
}

/// Converts the parts that the crate returns for a key.
fn nodes(parts: Vec<TuplePart>) -> Vec<Node> {
    let node = |part| match part {
        TuplePart::Bytes(bytes) => Node::Bytes(bytes),
        TuplePart::Integer(integer) => Node::Integer(integer.try_into().unwrap_or(i128::MIN)),
        TuplePart::Tuple(parts) => Node::Tuple(nodes(parts)),
        _ => panic!("a part of an unknown kind"),
    };
    parts.into_iter().map(node).collect()
}

fuzz_target!(|input: &[u8]| {
    let Ok(tuples) = <(Tuple, Tuple, B)>::arbitrary_take_rest(Unstructured::new(input)) else {
        return;
    };
    let (one, other, bytes) = &tuples;
    // A byte of a part takes two bytes of input; the limit covers the keys and the decoded parts.
    with_limit(input.len(), 1 << 14, || {
        let (key, other_key) = (one.key(), other.key());
        let read = decode(&mut key.as_bytes().iter(), false);
        assert!(read == Some(one.nodes()), "the key does not decode to its tuple");
        assert!(
            key.parts().map(nodes) == Some(one.nodes()),
            "Key::parts does not return the tuple"
        );
        if one.has_shape_of(other) {
            assert!(key.cmp(&other_key) == one.cmp(other), "keys and tuples sort differently");
        } else if one.is_flat() && other.is_flat() {
            assert!(key.cmp(&other_key) == one.flat().cmp(&other.flat()), "keys sort otherwise");
        }
        let plain = Key::from(&bytes[..]);
        // Any bytes decode or are refused, without a panic.
        let _ = (plain.parts(), plain.to_string());
        assert!(plain.as_bytes() == &bytes[..] && plain.len() == bytes.len());
        let only = Key::from((&bytes[..],));
        assert!(
            (only == plain) == !bytes.contains(&0),
            "a one-tuple escapes zero bytes and no others"
        );
        assert!(only.parts() == Some(vec![TuplePart::Bytes(bytes.clone())]));
        assert!(Key::from(((&bytes[..],),)) != only, "a nested one-tuple is the same key");
    });
});
