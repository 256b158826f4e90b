//! Keys: the bytes a value is filed under, and the injective mapping from tuples to them.
//!
//! A plain key is its own bytes. The parts of a tuple are joined by escapes, as [`partd_format::tuple`]
//! has them.
//!
//! So two different tuples are two different keys, whatever bytes their parts hold, and keys sort
//! as their tuples do, part by part; integers in tuples sort as numbers. A byte string given as a key is taken as it stands; it names
//! the key of a tuple exactly when it *is* the encoding of that tuple, which is what makes
//! [`keys`](crate::Partd::keys) and [`get`](crate::Partd::get) fit together.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

pub use partd_format::tuple::Integer as TupleInteger;
use partd_format::tuple::{NEST, NEXT_PART, Token, Tokens, UNNEST, ZERO};
use smallvec::SmallVec;

/// Bytes that a key holds without an allocation of its own.
const INLINE_LEN_BYTES: usize = 16;

/// The key of a value: any bytes, also none.
///
/// Made from strings, byte strings, integers and tuples of those, nested as deep as you like; borrowed,
/// owned or behind any number of references. An integer alone is its decimal text; inside a tuple it is
/// typed, and sorts as a number. Keys of up to 16 bytes cost no allocation.
///
/// ```
/// use partd::Key;
/// assert_eq!(Key::from("a").as_bytes(), b"a");
/// assert_eq!(Key::from(17), Key::from("17"));
/// assert_ne!(Key::from(("a", "b")), Key::from("a/b"));
/// assert_ne!(Key::from((("a", "b"), "c")), Key::from(("a", ("b", "c"))));
/// assert!(Key::from(("a", 1)) < Key::from(("aa", 0)));
/// assert!(Key::from(("a", 9)) < Key::from(("a", 10)));
/// assert_ne!(Key::from(("a", 1)), Key::from(("a", "1")));
///
/// let columns = [("a", 1), ("b", 2)];
/// assert!(columns.iter().map(Key::from).eq(columns.map(Key::from)));
/// ```
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(SmallVec<[u8; INLINE_LEN_BYTES]>);

impl Key {
    /// The bytes of the key, as the log stores them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes in the key.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the key is the empty key, which is a key like any other.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts of the tuple that the key was made from; one part for a plain key.
    ///
    /// `None` if the bytes are not the encoding of a tuple, which happens only to keys that were made from
    /// bytes that contain zeros, or if tuples are nested more than 64 deep.
    ///
    /// ```
    /// use partd::{Key, TuplePart};
    /// let key = Key::from(("stage", -3, ("part", 7_u64)));
    /// assert_eq!(
    ///     key.parts().unwrap(),
    ///     [
    ///         TuplePart::from("stage"),
    ///         TuplePart::Integer((-3).into()),
    ///         TuplePart::Tuple(vec!["part".into(), TuplePart::Integer(7.into())]),
    ///     ]
    /// );
    /// assert_eq!(Key::from("plain").parts().unwrap(), ["plain".into()]);
    /// ```
    pub fn parts(&self) -> Option<Vec<TuplePart>> {
        // The tuples around the part that is read next, the outermost first.
        let mut outer: Vec<Vec<TuplePart>> = Vec::new();
        let mut parts = Vec::new();
        for token in Tokens::new(&self.0) {
            match token.ok()? {
                Token::Bytes(bytes) => {
                    parts.push(TuplePart::Bytes(bytes.runs().flatten().copied().collect()))
                }
                Token::Integer(integer) => parts.push(TuplePart::Integer(integer)),
                Token::Open => outer.push(std::mem::take(&mut parts)),
                Token::Close => {
                    let tuple = TuplePart::Tuple(std::mem::replace(&mut parts, outer.pop()?));
                    parts.push(tuple);
                }
            }
        }
        Some(parts)
    }

    /// Bytes of heap memory the key takes beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() } else { 0 }
    }
}

impl Clone for Key {
    #[inline]
    fn clone(&self) -> Key {
        // As bytes, in one copy; a derived clone would go element by element.
        Key(SmallVec::from_slice(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Shows the key as Rust writes it: a string literal, or a tuple of them and of integers.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parts) = self.parts()
            && !matches!(parts[..], [TuplePart::Bytes(_)])
        {
            return write_tuple(f, &parts);
        }
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

fn write_tuple(f: &mut fmt::Formatter<'_>, parts: &[TuplePart]) -> fmt::Result {
    f.write_str("(")?;
    for (i, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if i > 0 { ", " } else { "" })?;
    }
    f.write_str(if parts.len() == 1 { ",)" } else { ")" })
}

/// A part of a tuple key, as [`Key::parts`] returns it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TuplePart {
    /// A string or a byte string: both are bytes.
    Bytes(Vec<u8>),
    /// An integer of any type.
    Integer(TupleInteger),
    /// A tuple inside the tuple.
    Tuple(Vec<TuplePart>),
}

impl From<&str> for TuplePart {
    fn from(text: &str) -> TuplePart {
        TuplePart::Bytes(text.into())
    }
}

/// Shows the part as Rust writes it.
impl fmt::Display for TuplePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuplePart::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            TuplePart::Integer(integer) => write!(f, "{integer}"),
            TuplePart::Tuple(parts) => write_tuple(f, parts),
        }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// What a key can be made of, whole or as a part of a tuple. Sealed: strings, byte strings,
/// integers, keys, tuples of those, and references and owners of those.
pub trait KeyPart: Part {}

impl<T: Part + ?Sized> KeyPart for T {}

mod sealed {
    use super::Key;

    /// How something becomes a key, and a part of the key of the tuple around it.
    pub trait Part {
        /// The key, where it is the whole key.
        fn to_key(&self) -> Key;

        /// Writes it as a part.
        fn escape_into(&self, key: &mut Key);

        /// The key of a tuple with this part alone.
        fn to_only_part(&self) -> Key {
            self.to_key()
        }
    }
}

use sealed::Part;

/// A byte string is a key with these bytes.
impl Part for [u8] {
    #[inline]
    fn to_key(&self) -> Key {
        Key(SmallVec::from_slice(self))
    }

    fn escape_into(&self, key: &mut Key) {
        for (i, run) in self.split(|&b| b == 0).enumerate() {
            if i > 0 {
                key.0.extend_from_slice(&ZERO);
            }
            key.0.extend_from_slice(run);
        }
    }
}

impl Part for str {
    #[inline]
    fn to_key(&self) -> Key {
        self.as_bytes().to_key()
    }

    fn escape_into(&self, key: &mut Key) {
        self.as_bytes().escape_into(key);
    }
}

/// A key inside a tuple is a part with the key's bytes.
impl Part for Key {
    #[inline]
    fn to_key(&self) -> Key {
        self.clone()
    }

    fn escape_into(&self, key: &mut Key) {
        self.as_bytes().escape_into(key);
    }
}

/// A reference is what it refers to, at any depth: so the elements of `&[&str]` are keys.
impl<T: Part + ?Sized> Part for &T {
    #[inline]
    fn to_key(&self) -> Key {
        (**self).to_key()
    }

    fn escape_into(&self, key: &mut Key) {
        (**self).escape_into(key);
    }

    fn to_only_part(&self) -> Key {
        (**self).to_only_part()
    }
}

impl<T: KeyPart + ?Sized> From<&T> for Key {
    #[inline]
    fn from(part: &T) -> Key {
        part.to_key()
    }
}

macro_rules! key_from_owner {
    ($(($($generic:tt)*) $type:ty),* $(,)?) => {$(
        impl<$($generic)*> Part for $type {
            #[inline]
            fn to_key(&self) -> Key {
                self[..].to_key()
            }

            fn escape_into(&self, key: &mut Key) {
                self[..].escape_into(key);
            }
        }

        impl<$($generic)*> From<$type> for Key {
            #[inline]
            fn from(owner: $type) -> Key {
                owner.to_key()
            }
        }
    )*};
}

key_from_owner!(
    () String,
    () Vec<u8>,
    (const N: usize) [u8; N],
    () Box<str>,
    () Box<[u8]>,
    () Rc<str>,
    () Rc<[u8]>,
    () Arc<str>,
    () Arc<[u8]>,
    ('a) Cow<'a, str>,
    ('a) Cow<'a, [u8]>,
);

macro_rules! key_from_integer {
    ($($type:ty),*) => {$(
        impl Part for $type {
            fn to_key(&self) -> Key {
                use std::io::Write;
                let mut key = Key::default();
                // Writing to memory cannot fail.
                let _ = write!(key.0, "{self}");
                key
            }

            fn escape_into(&self, key: &mut Key) {
                let (bytes, len) = TupleInteger::from(*self).encode();
                key.0.extend_from_slice(&bytes[..len]);
            }

            fn to_only_part(&self) -> Key {
                let mut key = Key::default();
                self.escape_into(&mut key);
                key
            }
        }

        impl From<$type> for Key {
            fn from(number: $type) -> Key {
                number.to_key()
            }
        }
    )*};
}

key_from_integer!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

macro_rules! key_from_tuple {
    ($first:ident $($rest:ident)+) => {
        impl<$first: Part, $($rest: Part),+> Part for ($first, $($rest,)+) {
            fn to_key(&self) -> Key {
                let mut key = Key::default();
                #[allow(non_snake_case)]
                let ($first, $($rest,)+) = self;
                $first.escape_into(&mut key);
                $(
                    key.0.extend_from_slice(&NEXT_PART);
                    $rest.escape_into(&mut key);
                )+
                key
            }

            fn escape_into(&self, key: &mut Key) {
                #[allow(non_snake_case)]
                let ($first, $($rest,)+) = self;
                key.0.extend_from_slice(&NEST);
                $first.escape_into(key);
                $(
                    key.0.extend_from_slice(&NEXT_PART);
                    $rest.escape_into(key);
                )+
                key.0.extend_from_slice(&UNNEST);
            }
        }

        impl<$first: KeyPart, $($rest: KeyPart),+> From<($first, $($rest,)+)> for Key {
            fn from(tuple: ($first, $($rest,)+)) -> Key {
                tuple.to_key()
            }
        }
    };
}

key_from_tuple!(A B);
key_from_tuple!(A B C);
key_from_tuple!(A B C D);
key_from_tuple!(A B C D E);
key_from_tuple!(A B C D E F);
key_from_tuple!(A B C D E F G);
key_from_tuple!(A B C D E F G H);

/// A tuple of one part, as the whole key, is the key of that part; an integer is typed all the same.
impl<A: Part> Part for (A,) {
    fn to_key(&self) -> Key {
        self.0.to_only_part()
    }

    fn escape_into(&self, key: &mut Key) {
        key.0.extend_from_slice(&NEST);
        self.0.escape_into(key);
        key.0.extend_from_slice(&UNNEST);
    }
}

impl<A: KeyPart> From<(A,)> for Key {
    fn from(tuple: (A,)) -> Key {
        tuple.to_key()
    }
}
