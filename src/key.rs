//! Keys, and the injective encoding of tuples as keys.
//!
//! The key of a string or byte string is its own bytes. A tuple joins its parts with escapes, as
//! FoundationDB's tuple layer and `orderedcode` do; the encoding keeps the order of the tuples.
//!
//! | bytes | meaning |
//! |---|---|
//! | `00 FF` | a zero byte inside a part |
//! | `00 01` | the start of the next part |
//! | `00 03` … `00 00` | a tuple inside a tuple |
//!
//! Different tuples are therefore different keys, whatever bytes their parts hold, and keys sort as
//! their tuples do, part by part. A byte string is used unchanged as a key. It equals the key of a
//! tuple only if it is the encoding of that tuple, so a key that [`keys`](crate::Partd::keys)
//! returns can be passed to [`get`](crate::Partd::get).

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

/// The longest key that needs no heap allocation, in bytes.
const INLINE_LEN_BYTES: usize = 16;

/// The key of a value: a byte string, possibly empty.
///
/// A key converts from strings, byte strings, integers (as their decimal text) and tuples of those,
/// nested to any depth. Each of them may be owned, in a `Box`, `Rc`, `Arc` or `Cow`, or behind any
/// number of references. Keys of up to 16 bytes need no heap allocation.
///
/// ```
/// use partd::Key;
/// assert_eq!(Key::from("a").as_bytes(), b"a");
/// assert_eq!(Key::from(17), Key::from("17"));
/// assert_ne!(Key::from(("a", "b")), Key::from("a/b"));
/// assert_ne!(Key::from((("a", "b"), "c")), Key::from(("a", ("b", "c"))));
/// assert!(Key::from(("a", 1)) < Key::from(("aa", 0)));
///
/// // References convert too, so `get_many(&names)` needs no clone of the names.
/// let names = vec![String::from("a"), String::from("b")];
/// assert!(names.iter().map(Key::from).eq(["a", "b"].map(Key::from)));
/// ```
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(SmallVec<[u8; INLINE_LEN_BYTES]>);

impl Key {
    /// Returns the bytes of the key.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the length of the key in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the key is the empty key, which is a valid key.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the heap memory that the key owns, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() } else { 0 }
    }
}

impl Clone for Key {
    #[inline]
    fn clone(&self) -> Key {
        // One copy of the bytes; a derived clone copies element by element.
        Key(SmallVec::from_slice(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Formats the key as a string literal: printable ASCII unchanged, everything else escaped.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
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

/// A type that converts into a [`Key`], alone or as a part of a tuple.
///
/// Implemented for strings, byte strings, integers, keys, tuples of those, and references to and
/// owners of those. The trait is sealed.
pub trait KeyPart: Part {}

impl<T: Part + ?Sized> KeyPart for T {}

mod sealed {
    use super::Key;

    /// The encodings of a value as a whole key and as a part of a tuple.
    pub trait Part {
        /// Returns the value as a whole key.
        fn to_key(&self) -> Key;

        /// Appends the value to `key` as a part of a tuple.
        fn escape_into(&self, key: &mut Key);
    }
}

use sealed::Part;

const ZERO: [u8; 2] = [0, 0xFF];
const NEXT_PART: [u8; 2] = [0, 1];
const NEST: [u8; 2] = [0, 3];
const UNNEST: [u8; 2] = [0, 0];

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

/// A key inside a tuple is encoded as a byte string.
impl Part for Key {
    #[inline]
    fn to_key(&self) -> Key {
        self.clone()
    }

    fn escape_into(&self, key: &mut Key) {
        self.as_bytes().escape_into(key);
    }
}

/// A reference at any depth encodes as its target, so the elements of `&[&str]` are keys.
impl<T: Part + ?Sized> Part for &T {
    #[inline]
    fn to_key(&self) -> Key {
        (**self).to_key()
    }

    fn escape_into(&self, key: &mut Key) {
        (**self).escape_into(key);
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
                // Writing to a vector cannot fail.
                let _ = write!(key.0, "{self}");
                key
            }

            fn escape_into(&self, key: &mut Key) {
                // Decimal text has no zero bytes to escape.
                key.0.extend_from_slice(self.to_key().as_bytes());
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

/// As a whole key, a tuple of one part is the key of that part.
impl<A: Part> Part for (A,) {
    fn to_key(&self) -> Key {
        self.0.to_key()
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
