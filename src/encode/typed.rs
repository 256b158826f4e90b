//! `Typed`: the face of an encoding layer whose values are not bytes.
//!
//! It has what every store has, by the same names, with values of the codec's types. Each
//! operation is the one of the [`Encode`] below it. What a value looks like in a frame is the
//! codec's business.

use std::fmt;

use crate::encode::codec::{Codec, CodecError, FnCodec};
use crate::encode::layer::Encode;
use crate::encode::step::Step;
use crate::partd::{Durability, Partd};
use crate::{Key, Result};

/// What serves as a value of type `V`: itself, or a reference; and for lists and texts what holds
/// one, such as a vector or an array.
pub trait AsValue<V: ?Sized> {
    /// The value.
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

/// Values of one type over a store of bytes, through a [`Codec`].
///
/// What is appended to a key is joined when it is read: lists are concatenated, for example.
/// [`Pickle`](crate::Pickle), [`Msgpack`](crate::Msgpack) and [`Arrow`](crate::Arrow) are such
/// layers. The limits and the way of taking are those of [`Encode`].
pub struct Typed<C, P> {
    pub(crate) encode: Encode<C, P>,
}

impl<C, P> Typed<C, P> {
    /// A layer that runs a codec over a store.
    pub fn with_codec(codec: C, inner: P) -> Typed<C, P> {
        Typed { encode: Encode::with_codec(codec, inner) }
    }

    /// Sets the number of bytes that a key's value may have when it is decoded.
    ///
    /// It guards against frames made to fill the memory of who reads them.
    #[must_use]
    pub fn with_max_decoded_bytes(self, bytes: usize) -> Typed<C, P> {
        Typed { encode: self.encode.with_max_decoded_bytes(bytes) }
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        self.encode.codec()
    }

    /// The store below, which holds the frames.
    pub fn inner(&self) -> &P {
        self.encode.inner()
    }

    /// The store below, without the layer.
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
    /// A layer of three closures, in the order in which Python's `Encode` takes them.
    ///
    /// ```
    /// use partd::{Dict, Typed};
    /// // Numbers that are added up when they are read.
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
    /// Appends each value to the end of its key: all pairs or none.
    pub fn append<K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: AsValue<C::In>,
    {
        self.append_with(pairs, Durability::Plain)
    }

    /// Appends as [`append`](Typed::append) does, and is on stable storage when it returns.
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

    /// The key's value: everything appended to it, joined; the empty value where it is missing.
    pub fn get(&self, key: impl Into<Key>) -> Result<C::Out> {
        only(self.encode.read_values(&[key.into()])?, self.codec())
    }

    /// The values of many keys, decoded in parallel, as they were at one moment.
    pub fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<C::Out>> {
        self.encode.read_values(&collect(keys))
    }

    /// Sets a key idempotently: the first call since the last delete wins and replaces what was
    /// appended before; later ones do nothing.
    pub fn iset(&self, key: impl Into<Key>, value: impl AsValue<C::In>) -> Result<()> {
        self.encode.write_steps(&[Step::Set(&key.into(), value.as_value())], Durability::Plain)
    }

    /// Removes keys; missing ones are fine.
    pub fn delete<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        self.inner().delete(keys)
    }

    /// Gets and removes keys as one step; a value that cannot be decoded is not removed, as far as
    /// [`Encode`] can promise it.
    pub fn pop<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<C::Out>> {
        self.encode.take_values(&collect(keys))
    }

    /// Every key, in key order.
    pub fn keys(&self) -> Result<Vec<Key>> {
        self.inner().keys()
    }

    /// Whether the key is there.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        self.inner().contains(key)
    }

    /// Removes every key in one step; the store stays usable. Python's partd calls this `drop`.
    pub fn clear(&self) -> Result<()> {
        self.inner().clear()
    }

    /// Brings to stable storage all that was written before the call, by anyone.
    pub fn sync(&self) -> Result<()> {
        self.inner().sync()
    }
}

impl<T: Send, C: Codec<Out = Vec<T>>, P: Partd> Typed<C, P> {
    /// The number of values in the key's list, which is decoded for it; 0 where it is missing.
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        self.len_by(key.into(), |list| list.len() as u64)
    }
}

impl<C: Codec, P: Partd> Typed<C, P> {
    /// What `len` says of the key's value; 0 where it is missing.
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

/// The one value of a read of one key.
fn only<C: Codec>(mut values: Vec<C::Out>, codec: &C) -> Result<C::Out> {
    match values.pop() {
        Some(value) => Ok(value),
        // A store that answers nothing for a key has nothing for it.
        None => codec
            .join(Vec::new())
            .map_err(|error| crate::Error::Invalid(format!("{}: {error}", codec.name()))),
    }
}
