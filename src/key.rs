//! Keys: the bytes a value is filed under, and the injective mapping from tuples to them.
//!
//! A plain key is its own bytes. A tuple joins its parts by an escape in the manner of
//! the tuple layer of FoundationDB and of `orderedcode`: it keeps order and loses nothing.
//!
//! | bytes | meaning |
//! |---|---|
//! | `00 FF` | a zero byte inside a part |
//! | `00 01` | the next part begins |
//! | `00 03` … `00 00` | a tuple inside a tuple |
//!
//! So two different tuples are two different keys, whatever bytes their parts hold, and keys sort
//! as their tuples do, part by part. A byte string given as a key is taken as it stands; it names
//! the key of a tuple exactly when it *is* the encoding of that tuple, which is what makes
//! [`keys`](crate::Partd::keys) and [`get`](crate::Partd::get) fit together.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

/// Bytes that a key holds without an allocation of its own.
const INLINE_LEN_BYTES: usize = 16;

/// The key of a value: any bytes, also none.
///
/// Made from strings, byte strings, integers (their decimal text) and tuples of those, nested as
/// deep as you like; borrowed, owned or behind any number of references. Keys of up to 16 bytes cost
/// no allocation.
///
/// ```
/// use partd::Key;
/// assert_eq!(Key::from("a").as_bytes(), b"a");
/// assert_eq!(Key::from(17), Key::from("17"));
/// assert_ne!(Key::from(("a", "b")), Key::from("a/b"));
/// assert_ne!(Key::from((("a", "b"), "c")), Key::from(("a", ("b", "c"))));
/// assert!(Key::from(("a", 1)) < Key::from(("aa", 0)));
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

/// Shows the key as a string literal would: printable ASCII as it is, everything else escaped.
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
    }
}

use sealed::Part;

const ZERO: [u8; 2] = [0, 0xFF];
const NEXT_PART: [u8; 2] = [0, 1];
const NEST: [u8; 2] = [0, 3];
const UNNEST: [u8; 2] = [0, 0];

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
                // Decimal text holds no zero byte: nothing to escape.
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

/// A tuple of one part, where it is the whole key, is the key of that part.
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
