//! `Typed`: an encoding layer whose values are not bytes.
//!
//! It has the methods of [`Partd`], with values of the codec's types. Each operation is one
//! operation of the [`Encode`] inside it.

use std::fmt;

use crate::encode::codec::{Codec, CodecError, FnCodec};
use crate::encode::layer::Encode;
use crate::encode::step::Step;
use crate::partd::{Durability, Partd};
use crate::{Key, Result};

/// A type that can be passed as a value of type `V`: `V` itself, a reference to it, or, for lists
/// and strings, an owner such as a vector, an array or a `String`.
pub trait AsValue<V: ?Sized> {
    /// Borrows the value.
    fn as_value(&self) -> &V;
}

impl<V> AsValue<V> for V {
    fn as_value(&self) -> &V {
        self
    }
}

impl<V: ?Sized> AsValue<V> for &V {
    fn as_value(&self) -> &V {
        self
    }
}

impl<T> AsValue<[T]> for Vec<T> {
    fn as_value(&self) -> &[T] {
        self
    }
}

impl<T> AsValue<[T]> for &Vec<T> {
    fn as_value(&self) -> &[T] {
        self
    }
}

impl<T, const N: usize> AsValue<[T]> for [T; N] {
    fn as_value(&self) -> &[T] {
        self
    }
}

impl<T, const N: usize> AsValue<[T]> for &[T; N] {
    fn as_value(&self) -> &[T] {
        *self
    }
}

impl AsValue<str> for String {
    fn as_value(&self) -> &str {
        self
    }
}

impl AsValue<str> for &String {
    fn as_value(&self) -> &str {
        self
    }
}

/// A layer that stores values of one type through a [`Codec`], over a store of bytes.
///
/// A read joins the values appended to a key; lists, for example, are concatenated. `Pickle`,
/// `Msgpack` and `Arrow` are such layers. The limits, and what `pop` does if a value cannot be
/// decoded, are those of [`Encode`].
pub struct Typed<C, P> {
    pub(crate) encode: Encode<C, P>,
}

impl<C, P> Typed<C, P> {
    /// Creates a layer that runs a codec over a store.
    #[must_use]
    pub fn with_codec(codec: C, inner: P) -> Typed<C, P> {
        Typed { encode: Encode::with_codec(codec, inner) }
    }

    /// Sets the limit on the decoded value of a key, in bytes.
    ///
    /// The limit protects a reader from frames that are crafted to fill its memory.
    #[must_use]
    pub fn with_max_decoded_bytes(self, bytes: usize) -> Typed<C, P> {
        Typed { encode: self.encode.with_max_decoded_bytes(bytes) }
    }

    /// Returns the codec.
    #[must_use]
    pub fn codec(&self) -> &C {
        self.encode.codec()
    }

    /// Returns the store below, which holds the frames.
    #[must_use]
    pub fn inner(&self) -> &P {
        self.encode.inner()
    }

    /// Removes the layer and returns the store below.
    #[must_use]
    pub fn into_inner(self) -> P {
        self.encode.into_inner()
    }
}

impl<E, D, J, In, Out, P> Typed<FnCodec<E, D, J, In, Out>, P>
where
    E: Fn(&In) -> Result<Vec<u8>, CodecError> + Send + Sync,
    D: Fn(&[u8]) -> Result<Out, CodecError> + Send + Sync,
    J: Fn(Vec<Out>) -> Result<Out, CodecError> + Send + Sync,
    In: ?Sized + Sync,
    Out: Send,
{
    /// Creates a layer from three closures, in the order of the arguments of Python's `Encode`.
    ///
    /// ```
    /// use partd::{Dict, Typed};
    /// // Numbers that are summed up when they are read.
    /// let p = Typed::from_fns(
    ///     |value: &i64| Ok(value.to_string().into_bytes()),
    ///     |frame| Ok(std::str::from_utf8(frame)?.parse::<i64>()?),
    ///     |parts| Ok(parts.iter().sum::<i64>()),
    ///     Dict::new(),
    /// );
    /// p.append([("x", 40), ("y", 1)])?;
    /// p.append([("x", 2)])?;
    /// assert_eq!(p.get("x")?, 42);
    /// assert_eq!(p.get("nothing here")?, 0);
    /// # Ok::<(), partd::Error>(())
    /// ```
    #[must_use]
    pub fn from_fns(
        encode: E,
        decode: D,
        join: J,
        inner: P,
    ) -> Typed<FnCodec<E, D, J, In, Out>, P> {
        Typed::with_codec(FnCodec::new(encode, decode, join), inner)
    }
}

impl<C: Codec, P: Partd> Typed<C, P> {
    /// Appends each value to its key, as one atomic batch.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) if a value cannot be encoded, and the errors
    /// of [`Partd::write`].
    pub fn append<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: AsValue<C::In>,
    {
        self.append_with(pairs, Durability::Plain)
    }

    /// Appends as [`append`](Typed::append) does, and returns once the batch is on stable storage.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Typed::append) and [`Partd::append_durable`].
    pub fn append_durable<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: AsValue<C::In>,
    {
        self.append_with(pairs, Durability::Durable)
    }

    fn append_with<K: Into<Key>, V: AsValue<C::In>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
        durability: Durability,
    ) -> Result<()> {
        let pairs: Vec<(Key, V)> = pairs.into_iter().map(|(k, v)| (k.into(), v)).collect();
        let steps: Vec<Step<'_, C::In>> =
            pairs.iter().map(|(key, value)| Step::Append(key, value.as_value())).collect();
        self.encode.write_steps(&steps, durability)
    }

    /// Reads the key's value: everything appended to it, joined; the empty value if it is missing.
    ///
    /// # Errors
    ///
    /// Those of [`get_many`](Typed::get_many).
    pub fn get(&self, key: impl Into<Key>) -> Result<C::Out> {
        only(self.encode.read_values(&[key.into()])?, self.codec())
    }

    /// Reads the values of many keys as they were at one moment, and decodes them in parallel.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) if a value cannot be decoded or exceeds the
    /// limit, [`ErrorKind::Join`](crate::ErrorKind::Join) if the values of a key cannot be joined,
    /// and the errors of [`Partd::read`].
    pub fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<C::Out>> {
        self.encode.read_values(&collect(keys))
    }

    /// Sets a key idempotently: the first set since the last delete replaces the key's value, and
    /// later ones do nothing.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Typed::append).
    pub fn iset(&self, key: impl Into<Key>, value: impl AsValue<C::In>) -> Result<()> {
        self.encode.write_steps(&[Step::Set(&key.into(), value.as_value())], Durability::Plain)
    }

    /// Removes keys. A missing key is not an error.
    ///
    /// # Errors
    ///
    /// Those of [`Partd::write`].
    pub fn delete<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.inner().delete(keys)
    }

    /// Removes every key that begins with `prefix`, byte by byte, in one step. See
    /// [`Partd::delete_prefix`].
    ///
    /// # Errors
    ///
    /// Those of [`Partd::write`].
    pub fn delete_prefix(&self, prefix: impl Into<Key>) -> Result<()> {
        self.inner().delete_prefix(prefix)
    }

    /// Reads and removes keys in one step.
    ///
    /// # Errors
    ///
    /// Those of [`get_many`](Typed::get_many) and [`Partd::take`]. A value that cannot be decoded
    /// is not removed, within the limits that [`Encode`](Encode#taking) describes.
    pub fn pop<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<C::Out>> {
        self.encode.take_values(&collect(keys))
    }

    /// Returns every key, in key order.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn keys(&self) -> Result<Vec<Key>> {
        self.inner().keys()
    }

    /// Returns the keys that begin with `prefix`, byte by byte, in key order.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn keys_with_prefix(&self, prefix: impl Into<Key>) -> Result<Vec<Key>> {
        self.inner().keys_with_prefix(prefix)
    }

    /// Returns whether the key exists.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        self.inner().contains(key)
    }

    /// Removes every key in one step. The store stays usable. Python's partd calls this `drop`.
    ///
    /// # Errors
    ///
    /// Those of [`Partd::write`].
    pub fn clear(&self) -> Result<()> {
        self.inner().clear()
    }

    /// Brings everything written before the call, by any handle, to stable storage.
    ///
    /// # Errors
    ///
    /// Those of [`Partd::sync`].
    pub fn sync(&self) -> Result<()> {
        self.inner().sync()
    }
}

impl<T: Send, C: Codec<Out = Vec<T>>, P: Partd> Typed<C, P> {
    /// Returns the number of values in the key's list; 0 if the key is missing. It decodes the
    /// list.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Typed::get).
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        self.len_by(key.into(), |list| list.len() as u64)
    }
}

impl<C: Codec, P: Partd> Typed<C, P> {
    /// Applies `len` to the key's decoded value; 0 if the key is missing.
    pub(crate) fn len_by(&self, key: Key, len: fn(&C::Out) -> u64) -> Result<u64> {
        Ok(self.encode.decoded_lens(&[key], len)?.first().copied().flatten().unwrap_or(0))
    }
}

impl<C: Codec, P: fmt::Debug> fmt::Debug for Typed<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode.fmt(f)
    }
}

fn collect<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Vec<Key> {
    keys.into_iter().map(Into::into).collect()
}

/// Returns the only value of a read of one key.
fn only<C: Codec>(mut values: Vec<C::Out>, codec: &C) -> Result<C::Out> {
    match values.pop() {
        Some(value) => Ok(value),
        // A store that returns no value has none for the key.
        None => codec
            .join(Vec::new())
            .map_err(|error| crate::Error::Invalid(format!("{}: {error}", codec.name()))),
    }
}
