//! The old protocol, of Python's partd 1.4.2: a command word, then one frame for each key and
//! value.
//!
//! In the old protocol a tuple is its parts, joined with `-|-`. Such a key becomes the tuple
//! [`Key`] with the same parts, so that Rust and Python clients of one server use the same keys:
//! Python's `("a", 1)` is `Key::from(("a", "1"))`.

use partd::Key;

/// Separates the parts of a tuple.
pub(crate) const SEPARATOR: &[u8] = b"-|-";

/// A command of the old protocol, with its frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a, 'f> {
    Syn,
    Append(&'f [&'a [u8]]),
    Iset(&'a [u8], &'a [u8]),
    Get(&'f [&'a [u8]]),
    Delete(&'f [&'a [u8]]),
    Drop,
    Close,
}

/// Decodes a command. The error text contains no bytes that the client sent.
pub(crate) fn decode<'a, 'f>(frames: &'f [&'a [u8]]) -> Result<Command<'a, 'f>, &'static str> {
    let Some((command, arguments)) = frames.split_first() else {
        return Err("a message without frames");
    };
    match (*command, arguments) {
        (b"syn", _) => Ok(Command::Syn),
        (b"append", pairs) if pairs.len() % 2 == 0 => Ok(Command::Append(pairs)),
        (b"append", _) => Err("an append whose last key has no value"),
        (b"iset", [key, value]) => Ok(Command::Iset(key, value)),
        (b"iset", _) => Err("an iset without exactly one key and one value"),
        (b"get", keys) => Ok(Command::Get(keys)),
        (b"delete", keys) => Ok(Command::Delete(keys)),
        (b"drop", []) => Ok(Command::Drop),
        (b"close", []) => Ok(Command::Close),
        (b"drop" | b"close", _) => Err("a drop or close with arguments"),
        _ => Err("an unknown command"),
    }
}

/// Splits a key of the old protocol into its parts.
fn split(mut key: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = key.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        parts.push(&key[..at]);
        key = &key[at + SEPARATOR.len()..];
    }
    parts.push(key);
    parts
}

/// Returns the key of the store for a key of the old protocol.
///
/// [`Key`] converts tuples of at most eight parts; a key with more parts keeps its bytes.
pub(crate) fn to_key(wire: &[u8]) -> Key {
    match *split(wire).as_slice() {
        [a, b] => (a, b).into(),
        [a, b, c] => (a, b, c).into(),
        [a, b, c, d] => (a, b, c, d).into(),
        [a, b, c, d, e] => (a, b, c, d, e).into(),
        [a, b, c, d, e, f] => (a, b, c, d, e, f).into(),
        [a, b, c, d, e, f, g] => (a, b, c, d, e, f, g).into(),
        [a, b, c, d, e, f, g, h] => (a, b, c, d, e, f, g, h).into(),
        _ => wire.into(),
    }
}

/// Returns the key of the old protocol for a key of the store, or the reason why there is none.
pub(crate) fn from_key(key: &Key) -> Result<Vec<u8>, &'static str> {
    let bytes = key.as_bytes();
    let mut wire = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        match (byte, rest.as_slice().first()) {
            (0, Some(1)) => {
                wire.extend_from_slice(SEPARATOR);
                rest.next();
            }
            (0, Some(0xFF)) => {
                wire.push(0);
                rest.next();
            }
            _ => wire.push(byte),
        }
    }
    // Either the joined parts or the unchanged bytes: whichever the server converts back to this
    // key.
    let wire = [wire, bytes.to_vec()].into_iter().find(|wire| to_key(wire) == *key);
    wire.ok_or("it contains -|-, which separates the parts of a tuple there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_of_python_become_tuple_keys_and_back() {
        assert_eq!(to_key(b"x"), Key::from("x"));
        assert_eq!(to_key(b"a-|-b-|-1"), Key::from(("a", "b", "1")));
        assert_eq!(to_key(b"-|-"), Key::from(("", "")));
        assert_eq!(to_key(b"a\0-|-b"), Key::from((&b"a\0"[..], "b")));
        let ten = [&b"p"[..]; 10].join(SEPARATOR);
        assert_eq!(to_key(&ten), Key::from(&ten));
        for wire in [&ten, &b""[..], b"x", b"a-|-b", b"-|--|-", b"a\0-|-\0", b"\0\0", b"\xff\0x"] {
            assert_eq!(from_key(&to_key(wire)).as_deref(), Ok(wire));
        }
    }

    #[test]
    fn keys_that_the_old_protocol_would_confuse_are_refused() {
        for key in [Key::from("a-|-b"), Key::from((("a-|-", "b"), "c")), Key::from(("a-|-b", "c"))]
        {
            assert!(from_key(&key).is_err(), "{key}");
        }
        let nested = Key::from((("a", "b"), "c"));
        assert_eq!(from_key(&nested).as_deref(), Ok(nested.as_bytes()));
    }

    #[test]
    fn commands_are_decoded_and_wrong_ones_refused() {
        assert_eq!(decode(&[b"syn", b"whatever"]), Ok(Command::Syn));
        assert_eq!(decode(&[b"iset", b"k", b"v"]), Ok(Command::Iset(b"k", b"v")));
        let keys: [&[u8]; 3] = [b"get", b"k", b"l"];
        assert_eq!(decode(&keys), Ok(Command::Get(&keys[1..])));
        let wrong: [&[&[u8]]; 5] =
            [&[], &[b"append", b"k"], &[b"iset", b"k"], &[b"what"], &[b"drop", b"x"]];
        for wrong in wrong {
            assert!(decode(wrong).is_err());
        }
    }
}
