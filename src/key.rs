//! Keys, and the injective encoding of tuples as keys.
//!
//! The key of a string or byte string is its own bytes. A tuple joins its parts with escapes, in
//! the encoding of [`partd_format::tuple`], which keeps the order of the tuples.
//!
//! Different tuples are therefore different keys, whatever bytes their parts hold, and keys sort as
//! their tuples do, part by part; integers in tuples sort as numbers. A byte string is used
//! unchanged as a key. It equals the key of a tuple only if it is the encoding of that tuple: the
//! string `"a"` and the tuple `("a",)` are the same key. A key that
//! [`keys`](crate::Partd::keys) returns can therefore be passed to [`get`](crate::Partd::get).
//!
//! `conversions` makes keys of owned values, integers and tuples; `part` decodes tuples.

mod conversions;
mod part;

use std::borrow::Borrow;
use std::fmt;

pub use partd_format::tuple::Integer as TupleInteger;
use partd_format::tuple::{NEXT_PART, ZERO};
use smallvec::SmallVec;

pub use self::part::TuplePart;

/// The longest key that needs no heap allocation, in bytes.
const INLINE_LEN_BYTES: usize = 16;

/// The key of a value: a byte string, possibly empty.
///
/// A key converts from strings, byte strings, integers and tuples of those, nested to any depth. An
/// integer alone is its decimal text; inside a tuple it is typed and sorts as a number. Strings and
/// byte strings may also be in a `Box`, `Rc`, `Arc` or `Cow`, and everything may be behind any
/// number of references. Keys of up to 16 bytes need no heap allocation.
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

    /// Returns the prefix of all tuple keys that begin with the parts of `tuple` and have more.
    ///
    /// A string or an integer stands for the tuple of that part, so `7` is the prefix of the keys
    /// `(7, …)`. A `Key` must be the key of a tuple. The bytes of a tuple alone would not do:
    /// `("job", "a")` is also a prefix of `("job", "ab")`.
    ///
    /// ```
    /// use partd::Key;
    /// let begins = |key: Key, prefix: &Key| key.as_bytes().starts_with(prefix.as_bytes());
    /// let prefix = Key::tuple_prefix(("job", "a"));
    /// assert!(begins(Key::from(("job", "a", 1)), &prefix));
    /// assert!(!begins(Key::from(("job", "ab", 1)), &prefix));
    /// assert_eq!(Key::tuple_prefix(7), Key::tuple_prefix((7,)));
    /// ```
    #[must_use]
    pub fn tuple_prefix(tuple: impl KeyPart) -> Key {
        let mut prefix = tuple.to_tuple();
        prefix.0.extend_from_slice(&NEXT_PART);
        prefix
    }

    /// Returns a key with the bytes of `prefix` followed by those of `rest`.
    pub(crate) fn concat(prefix: &Key, rest: &Key) -> Key {
        let mut key = prefix.clone();
        key.0.extend_from_slice(&rest.0);
        key
    }

    /// Replaces the key by another and keeps the heap memory that it owns.
    pub(crate) fn assign(&mut self, part: &impl KeyPart) {
        self.0.clear();
        part.write_key(self);
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key or a part of one",
    note = "a key is made from a string, bytes, an integer, or a tuple of those"
)]
pub trait KeyPart: Part {}

impl<T: Part + ?Sized> KeyPart for T {}

mod sealed {
    use super::Key;

    /// The encodings of a value as a whole key and as a part of a tuple.
    pub trait Part {
        /// Appends the bytes of the value as a whole key to `key`, which is empty.
        fn write_key(&self, key: &mut Key);

        /// Returns the value as a whole key.
        fn to_key(&self) -> Key {
            let mut key = Key::default();
            self.write_key(&mut key);
            key
        }

        /// Appends the value to `key` as a part of a tuple.
        fn escape_into(&self, key: &mut Key);

        /// Returns the key of this tuple, or of the one-part tuple of a value that is not a tuple.
        fn to_tuple(&self) -> Key {
            let mut key = Key::default();
            self.escape_into(&mut key);
            key
        }
    }
}

use sealed::Part;

impl Part for [u8] {
    fn write_key(&self, key: &mut Key) {
        key.0.extend_from_slice(self);
    }

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
    fn write_key(&self, key: &mut Key) {
        self.as_bytes().write_key(key);
    }

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
    fn write_key(&self, key: &mut Key) {
        self.as_bytes().write_key(key);
    }

    #[inline]
    fn to_key(&self) -> Key {
        self.clone()
    }

    fn escape_into(&self, key: &mut Key) {
        self.as_bytes().escape_into(key);
    }

    fn to_tuple(&self) -> Key {
        self.clone()
    }
}

/// A reference at any depth encodes as its target, so the elements of `&[&str]` are keys.
impl<T: Part + ?Sized> Part for &T {
    fn write_key(&self, key: &mut Key) {
        (**self).write_key(key);
    }

    #[inline]
    fn to_key(&self) -> Key {
        (**self).to_key()
    }

    fn escape_into(&self, key: &mut Key) {
        (**self).escape_into(key);
    }

    fn to_tuple(&self) -> Key {
        (**self).to_tuple()
    }
}

impl<T: KeyPart + ?Sized> From<&T> for Key {
    #[inline]
    fn from(part: &T) -> Key {
        part.to_key()
    }
}
