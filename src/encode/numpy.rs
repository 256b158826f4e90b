//! `Numpy`: one-dimensional arrays as raw little-endian elements, with the dtype under a side key,
//! as in the Python partd. An append extends the array.
//!
//! Invariant: one batch writes an array together with its dtype, and one batch removes both. A side
//! key is never a user's key, since keys with the suffix of side keys are refused. A dtype is
//! compared and never evaluated. `element` converts elements to bytes; `dtype` compares dtypes.

mod dtype;
mod element;
mod side;
mod spread;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ndarray::{Array1, ArrayView1};

pub use self::element::Element;
use self::side::{NAME, SUFFIX, beside, side_key, side_keys, with_side_keys};
use self::spread::spread;
use crate::encode::layer::{DEFAULT_MAX_DECODED_BYTES, put_back};
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::{Error, Key, Result};

/// A layer of one-dimensional arrays. The arrays appended to a key are read back as one array.
///
/// It stores the same bytes as the Python partd's `Numpy`: little-endian elements without frames,
/// and, in the same batch, the dtype (`<i8`, `<f4`, `|b1`, `<M8[ns]` …) under the key with the
/// suffix `.dtype`. [`keys`](Numpy::keys) omits those side keys, and a key that ends in `.dtype` is
/// refused. The layer also reads what Python wrote on a big-endian machine, such as `>i8`.
///
/// Elements are integers, floats (`half::f16` among them), complex numbers and `bool`. Dates and
/// durations are `i64` with a unit; see [`datetime64`](Numpy::datetime64). Arrays of Python objects
/// (`|O`) are refused, since reading them means unpickling arbitrary data.
///
/// An append first reads the key's dtype, and fails if the array has another one. This check does
/// not detect two writers that create a key with different dtypes at the same moment.
///
/// ```
/// use ndarray::array;
/// use partd::{Dict, Numpy};
/// let p = Numpy::<f64, _>::new(Dict::new());
/// p.append([("x", &array![1.0, 2.0])])?;
/// p.append([("x", &[3.0])])?;
/// assert_eq!(p.get("x")?, array![1.0, 2.0, 3.0]);
/// assert_eq!(p.dtype("x")?.as_deref(), Some("<f8"));
///
/// let dates = Numpy::datetime64(Dict::new(), "ns")?;
/// dates.append([("x", &array![1_700_000_000_000_000_000])])?;
/// # Ok::<(), partd::Error>(())
/// ```
pub struct Numpy<T, P> {
    inner: P,
    dtype: Cow<'static, str>,
    max_decoded_bytes: usize,
    element: PhantomData<fn(&T) -> T>,
}

impl<T: Element, P> Numpy<T, P> {
    /// Creates a layer that stores arrays of `T`.
    #[must_use]
    pub fn new(inner: P) -> Numpy<T, P> {
        Numpy::with_dtype(inner, Cow::Borrowed(T::DTYPE))
    }

    fn with_dtype(inner: P, dtype: Cow<'static, str>) -> Numpy<T, P> {
        let max_decoded_bytes = DEFAULT_MAX_DECODED_BYTES;
        Numpy { inner, dtype, max_decoded_bytes, element: PhantomData }
    }

    /// Sets the limit on the array of a key, in bytes. The default is 4 GiB.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: usize) -> Numpy<T, P> {
        self.max_decoded_bytes = bytes;
        self
    }
}

impl<T: Element, P: Partd> Numpy<T, P> {
    /// Appends each array to its key, as one atomic batch.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if a key has another dtype,
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) if it holds bytes without a dtype,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it ends in `.dtype`, and the errors of
    /// the store.
    pub fn append<'a, K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: Into<ArrayView1<'a, T>>,
    {
        self.append_with(pairs, Durability::Plain)
    }

    /// Appends as [`append`](Numpy::append) does, and returns once the batch is on stable storage.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Numpy::append) and [`Partd::append_durable`].
    pub fn append_durable<'a, K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: Into<ArrayView1<'a, T>>,
    {
        self.append_with(pairs, Durability::Durable)
    }

    fn append_with<'a, K: Into<Key>, V: Into<ArrayView1<'a, T>>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
        durability: Durability,
    ) -> Result<()> {
        let pairs = pairs.into_iter().map(|(key, array)| (key.into(), array.into())).collect();
        self.write(pairs, |key, bytes| Op::Append(key, bytes), durability)
    }

    /// Sets a key idempotently: the first set since the last delete replaces the key's array, and
    /// later ones do nothing.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Numpy::append).
    pub fn iset<'a>(&self, key: impl Into<Key>, array: impl Into<ArrayView1<'a, T>>) -> Result<()>
    where
        T: 'a,
    {
        self.write(
            vec![(key.into(), array.into())],
            |key, bytes| Op::Set(key, bytes),
            Durability::Plain,
        )
    }

    fn write(
        &self,
        pairs: Vec<(Key, ArrayView1<'_, T>)>,
        op: fn(Key, &[u8]) -> Op<'_>,
        durability: Durability,
    ) -> Result<()> {
        let keys: Vec<Key> = pairs.iter().map(|(key, _)| key.clone()).collect();
        let sides = side_keys(&keys)?;
        let mut new = Vec::new();
        for (key, stored) in keys.iter().zip(self.inner.read(&sides)?) {
            match stored.as_slice() {
                b"" => new.push(key.clone()),
                own if own == self.dtype.as_bytes() => {}
                other => return Err(self.mismatch(key, other)),
            }
        }
        // Bytes without a dtype are not an array and must not become part of one.
        let lens = if new.is_empty() { Vec::new() } else { self.inner.lens(&new)? };
        if let Some((key, _)) = new.iter().zip(lens).find(|(_, len)| len.is_some_and(|n| n > 0)) {
            return Err(self.mismatch(key, b""));
        }
        let bytes: Vec<Cow<'_, [u8]>> =
            pairs.iter().map(|(_, array)| element::to_bytes(array)).collect();
        let mut batch = Batch::with_capacity(2 * pairs.len());
        for ((key, side), bytes) in keys.into_iter().zip(sides).zip(&bytes) {
            batch.push(Op::Set(side, self.dtype.as_bytes()));
            batch.push(op(key, bytes));
        }
        self.inner.write(&batch, durability)
    }

    /// Reads the key's array: everything appended to it, in order; empty if the key is missing.
    ///
    /// # Errors
    ///
    /// Those of [`get_many`](Numpy::get_many).
    pub fn get(&self, key: impl Into<Key>) -> Result<Array1<T>> {
        Ok(self.get_many([key.into()])?.pop().unwrap_or_default())
    }

    /// Reads the arrays of many keys, as they were at one moment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if a key has another dtype,
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) if its bytes are not an array or exceed the
    /// limit, and the errors of [`Partd::read`].
    pub fn get_many<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Array1<T>>> {
        let (keys, all) = with_side_keys(keys)?;
        let mut arrays = Vec::new();
        self.inner.visit(&all, &mut |values| {
            arrays = self.arrays(&keys, values)?;
            Ok(())
        })?;
        Ok(arrays)
    }

    /// Decodes the arrays of keys. `values` has the values of the keys, then those of the side
    /// keys.
    fn arrays(&self, keys: &[Key], values: &[Chunks<'_>]) -> Result<Vec<Array1<T>>> {
        let (data, dtypes) = values.split_at(keys.len().min(values.len()));
        let of_key = |&((key, data), dtype): &((&Key, &Chunks<'_>), &Chunks<'_>)| {
            let bytes: usize = data.iter().map(|piece| piece.len()).sum();
            let dtype = dtype.concat();
            if bytes == 0 && dtype.is_empty() {
                return Ok(Array1::default(0));
            }
            if bytes > self.max_decoded_bytes {
                let max = self.max_decoded_bytes;
                return Err(bad(key, 0, crate::encode::codec::too_large(max)));
            }
            let swapped = self.is_swapped(key, &dtype)?;
            element::from_bytes(data, swapped).map_err(|rest| {
                bad(
                    key,
                    (bytes - rest) as u64,
                    format!(
                        "{bytes} bytes are not a whole number of elements of dtype {}",
                        self.dtype
                    ),
                )
            })
        };
        let bytes = data.iter().flatten().map(|piece| piece.len()).sum();
        let keys: Vec<_> = keys.iter().zip(data).zip(dtypes).collect();
        spread(&keys, bytes, of_key)
    }

    /// Reads and removes arrays with their dtypes in one step.
    ///
    /// # Errors
    ///
    /// Those of [`get_many`](Numpy::get_many) and [`Partd::take`]. A value that is not an array of
    /// this layer stays in the store. If another writer appends such bytes at the same moment, they
    /// are removed and written back, and the error says so.
    pub fn pop<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Array1<T>>> {
        let (keys, all) = with_side_keys(keys)?;
        let arrays_of = |values: &[Vec<u8>]| {
            let pieces: Vec<Chunks<'_>> = values.iter().map(|value| vec![&value[..]]).collect();
            self.arrays(&keys, &pieces)
        };
        arrays_of(&self.inner.read(&all)?)?;
        let taken = self.inner.take(&all)?;
        arrays_of(&taken).map_err(|error| {
            let mut batch = Batch::with_capacity(all.len());
            for (key, value) in all.iter().zip(&taken).rev().filter(|(_, v)| !v.is_empty()) {
                match key.as_bytes().ends_with(SUFFIX) {
                    true => batch.set(key, value),
                    false => batch.append(key, value),
                };
            }
            put_back(error, self.inner.write(&batch, Durability::Plain))
        })
    }

    /// Removes keys with their dtypes. A missing key is not an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a key ends in `.dtype`, and the errors
    /// of the store.
    pub fn delete<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        let (_, all) = with_side_keys(keys)?;
        self.inner.delete(all)
    }

    /// Removes every key that begins with `prefix`, byte by byte, with its dtype, in one step. See
    /// [`Partd::delete_prefix`].
    ///
    /// A side key may begin with a prefix that its key does not have: `x.dtype` begins with `x.`.
    /// To keep the array of such a key, the call first reads its dtype, and writes it back in the
    /// step that deletes. If another writer deletes the key between the two, its dtype alone
    /// remains.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn delete_prefix(&self, prefix: impl Into<Key>) -> Result<()> {
        let prefix = prefix.into();
        let kept = beside(&prefix);
        let dtype = match &kept {
            Some(side) => self.inner.get(side)?,
            None => Vec::new(),
        };
        let mut batch = Batch::new();
        batch.delete_prefix(prefix);
        if let Some(side) = kept.filter(|_| !dtype.is_empty()) {
            batch.set(side, &dtype);
        }
        self.inner.write(&batch, Durability::Plain)
    }

    /// Returns every key in key order, without the side keys.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn keys(&self) -> Result<Vec<Key>> {
        self.keys_with_prefix(Key::default())
    }

    /// Returns the keys that begin with `prefix`, byte by byte, in key order, without the side keys.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn keys_with_prefix(&self, prefix: impl Into<Key>) -> Result<Vec<Key>> {
        let mut keys = self.inner.keys_with_prefix(prefix)?;
        keys.retain(|key| !key.as_bytes().ends_with(SUFFIX));
        Ok(keys)
    }

    /// Returns whether the key exists.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the key ends in `.dtype`, and the
    /// errors of the store.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        let key = key.into();
        side_key(&key)?;
        self.inner.contains(key)
    }

    /// Returns the number of elements of the key's array without reading it; 0 if the key is
    /// missing.
    ///
    /// # Errors
    ///
    /// Those of [`get_many`](Numpy::get_many).
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        let key = key.into();
        let dtype = self.inner.get(side_key(&key)?)?;
        let bytes = self.inner.len_of(key.clone())?;
        let element_bytes = size_of::<T>() as u64;
        if dtype.is_empty() || bytes % element_bytes != 0 {
            // Either there is no array, or one was written between the two calls. `get` reads both
            // parts at one moment.
            return Ok(self.get(key)?.len() as u64);
        }
        self.is_swapped(&key, &dtype)?;
        Ok(bytes / element_bytes)
    }

    /// Returns the key's dtype as numpy writes it; `None` if the key is missing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the key ends in `.dtype`, and the
    /// errors of the store.
    pub fn dtype(&self, key: impl Into<Key>) -> Result<Option<String>> {
        let stored = self.inner.get(side_key(&key.into())?)?;
        Ok((!stored.is_empty()).then(|| stored.escape_ascii().to_string()))
    }

    /// Removes every key in one step. The store stays usable. Python's partd calls this `drop`.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub fn clear(&self) -> Result<()> {
        self.inner.clear()
    }

    /// Brings everything written before the call, by any handle, to stable storage.
    ///
    /// # Errors
    ///
    /// Those of [`Partd::sync`].
    pub fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    /// Returns the store below, which holds the bytes and the side keys.
    #[must_use]
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Removes the layer and returns the store below.
    #[must_use]
    pub fn into_inner(self) -> P {
        self.inner
    }
}

impl<T, P: fmt::Debug> fmt::Debug for Numpy<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(NAME).field("dtype", &self.dtype).field("inner", &self.inner).finish()
    }
}

fn bad(key: &Key, offset: u64, reason: String) -> Error {
    Error::Decode { layer: NAME, key: key.clone(), frame: 0, offset, reason }
}
