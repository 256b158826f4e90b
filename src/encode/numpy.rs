//! `Numpy`: one-dimensional arrays as raw little-endian elements, extended by appending, with the
//! dtype under a side key, as the Python partd keeps them.
//!
//! Invariant: an array and its dtype are written in one batch, and deleted, popped and cleared in
//! one. No side key is ever a user's key: keys that end as side keys do are refused. A dtype is
//! compared and never evaluated. How an element becomes bytes is `element`'s business.

mod element;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::thread;

use ndarray::{Array1, ArrayView1};

pub use self::element::Element;
use crate::encode::layer::{DEFAULT_MAX_DECODED_BYTES, put_back};
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::{Error, Key, Result};

/// What is added to a key to name the one that its dtype is under.
const SUFFIX: &[u8] = b".dtype";
/// The layer's name in errors.
const NAME: &str = "Numpy";
/// Fewer bytes than this are copied by one thread.
const PARALLEL_MIN_BYTES: usize = 1 << 20;
/// Units of dates and durations.
const UNITS: [&str; 13] = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"];

/// A layer of one-dimensional arrays: what is appended to a key is one array when it is read.
///
/// The Python partd's `Numpy`, byte for byte: elements little-endian without frames, and the dtype
/// (`<i8`, `<f4`, `|b1`, `<M8[ns]` …) under the key with `.dtype` at its end, in the same batch.
/// [`keys`](Numpy::keys) does not show those side keys, and a key that ends in `.dtype` is refused.
/// What Python wrote on a big-endian machine, `>i8` and the like, is read too.
///
/// Elements are the integers and floats (of 16 bits too, as `half::f16`), complex numbers and
/// `bool`; dates and durations are `i64` with a unit, see [`datetime64`](Numpy::datetime64). Arrays of Python objects (`|O`) are
/// refused: reading them would mean to unpickle whatever stands there.
///
/// An array is appended to a key only if the key's dtype is the same, which is looked up first.
/// Two writers that give a new key different dtypes at the same moment are not told apart.
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
    /// Keeps arrays of `T` in a store.
    pub fn new(inner: P) -> Numpy<T, P> {
        Numpy::with_dtype(inner, Cow::Borrowed(T::DTYPE))
    }

    fn with_dtype(inner: P, dtype: Cow<'static, str>) -> Numpy<T, P> {
        let max_decoded_bytes = DEFAULT_MAX_DECODED_BYTES;
        Numpy { inner, dtype, max_decoded_bytes, element: PhantomData }
    }

    /// Sets the number of bytes that a key's array may have, which is 4 GiB at first.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: usize) -> Numpy<T, P> {
        self.max_decoded_bytes = bytes;
        self
    }
}

impl<P> Numpy<i64, P> {
    /// Keeps dates: numbers of units since 1970, `datetime64` in numpy.
    ///
    /// Units are `Y`, `M`, `W`, `D`, `h`, `m`, `s`, `ms`, `us`, `ns`, `ps`, `fs` and `as`, or a
    /// multiple such as `25s`. "Not a time" is `i64::MIN`.
    pub fn datetime64(inner: P, unit: &str) -> Result<Numpy<i64, P>> {
        Ok(Numpy::with_dtype(inner, format!("<M8[{}]", checked_unit(unit)?).into()))
    }

    /// Keeps durations: numbers of units, `timedelta64` in numpy; units as for
    /// [`datetime64`](Numpy::datetime64).
    pub fn timedelta64(inner: P, unit: &str) -> Result<Numpy<i64, P>> {
        Ok(Numpy::with_dtype(inner, format!("<m8[{}]", checked_unit(unit)?).into()))
    }
}

fn checked_unit(unit: &str) -> Result<&str> {
    let bare = unit.trim_start_matches(|c: char| c.is_ascii_digit());
    let count = &unit[..unit.len() - bare.len()];
    let sound =
        count.is_empty() || (count.parse().is_ok_and(|n: i32| n > 1) && !count.starts_with('0'));
    if sound && UNITS.contains(&bare) {
        return Ok(unit);
    }
    Err(Error::Invalid(format!(
        "{NAME}: there is no unit of time {unit:?}; choose from {}, or a multiple such as 25s",
        UNITS.join(", ")
    )))
}

impl<T: Element, P: Partd> Numpy<T, P> {
    /// Appends each array to the end of its key: all pairs or none.
    pub fn append<'a, K, V>(&self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: Into<ArrayView1<'a, T>>,
    {
        self.append_with(pairs, Durability::Plain)
    }

    /// Appends as [`append`](Numpy::append) does, and is on stable storage when it returns.
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

    /// Sets a key idempotently: the first call since the last delete wins and replaces what was
    /// appended before; later ones do nothing.
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
        // Bytes without a dtype are not an array, and must not become part of one.
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

    /// The key's array: everything appended to it, in order; an empty one where it is missing.
    pub fn get(&self, key: impl Into<Key>) -> Result<Array1<T>> {
        Ok(self.get_many([key.into()])?.pop().unwrap_or_default())
    }

    /// The arrays of many keys, as they were at one moment.
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

    /// The arrays of keys, whose values stand before those of their side keys.
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
                        "{bytes} bytes are no whole number of elements of dtype {}",
                        self.dtype
                    ),
                )
            })
        };
        let bytes = data.iter().flatten().map(|piece| piece.len()).sum();
        let keys: Vec<_> = keys.iter().zip(data).zip(dtypes).collect();
        spread(&keys, bytes, of_key)
    }

    /// Whether the bytes of each element stand in the other order; an error if the dtype differs
    /// in more than that.
    fn is_swapped(&self, key: &Key, stored: &[u8]) -> Result<bool> {
        if stored == self.dtype.as_bytes() {
            return Ok(false);
        }
        match (stored.split_first(), self.dtype.as_bytes().split_first()) {
            (Some((b'>', stored)), Some((b'<', own))) if stored == own => Ok(true),
            _ => Err(self.mismatch(key, stored)),
        }
    }

    fn mismatch(&self, key: &Key, stored: &[u8]) -> Error {
        let own = &self.dtype;
        let shown = stored[..stored.len().min(64)].escape_ascii();
        let stored = match stored {
            b"" => {
                let reason = "there are bytes, but no dtype under the side key `.dtype`: they were \
                              not written by a Numpy layer";
                return bad(key, 0, reason.to_owned());
            }
            b"|O" | b"O" => {
                return bad(
                    key,
                    0,
                    "the key holds Python objects (dtype |O), pickled; they are not read, because \
                     a pickle can run any code. Store them through `Pickle` or `Msgpack`"
                        .to_owned(),
                );
            }
            _ => format!("an array of dtype {shown}"),
        };
        Error::Mismatch {
            layer: NAME,
            key: key.clone(),
            stored,
            wanted: format!("dtype {own}"),
            advice: "use a layer of the stored type, or delete the key first".to_owned(),
        }
    }

    /// Gets and removes arrays with their dtypes as one step.
    ///
    /// What cannot be read as an array of this layer is not removed, unless another writer appends
    /// it at the same moment; then the bytes are written back, and the error says so.
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

    /// Removes keys with their dtypes; missing ones are fine.
    pub fn delete<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        let (_, all) = with_side_keys(keys)?;
        self.inner.delete(all)
    }

    /// Every key, in key order, without the side keys.
    pub fn keys(&self) -> Result<Vec<Key>> {
        let mut keys = self.inner.keys()?;
        keys.retain(|key| !key.as_bytes().ends_with(SUFFIX));
        Ok(keys)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        let key = key.into();
        side_key(&key)?;
        self.inner.contains(key)
    }

    /// The number of elements of the key's array, which are not read for it; 0 where it is missing.
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        let key = key.into();
        let dtype = self.inner.get(side_key(&key)?)?;
        let bytes = self.inner.len_of(key.clone())?;
        let element_bytes = size_of::<T>() as u64;
        if dtype.is_empty() || bytes % element_bytes != 0 {
            // No array, or one that was written between the two looks: reading knows.
            return Ok(self.get(key)?.len() as u64);
        }
        self.is_swapped(&key, &dtype)?;
        Ok(bytes / element_bytes)
    }

    /// The key's dtype as numpy writes it; `None` where the key is missing.
    pub fn dtype(&self, key: impl Into<Key>) -> Result<Option<String>> {
        let stored = self.inner.get(side_key(&key.into())?)?;
        Ok((!stored.is_empty()).then(|| stored.escape_ascii().to_string()))
    }

    /// Removes every key in one step; the store stays usable. Python's partd calls this `drop`.
    pub fn clear(&self) -> Result<()> {
        self.inner.clear()
    }

    /// Brings to stable storage all that was written before the call, by anyone.
    pub fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    /// The store below, which holds the bytes and the side keys.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The store below, without the layer.
    pub fn into_inner(self) -> P {
        self.inner
    }
}

impl<T, P: fmt::Debug> fmt::Debug for Numpy<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(NAME).field("dtype", &self.dtype).field("inner", &self.inner).finish()
    }
}

/// Does something to each item, on several threads where there are many bytes.
///
/// Plain threads, because a store may hold a lock while it lends the bytes: a rayon worker that
/// waits for its share may be given work that wants the same lock.
fn spread<I: Sync, R: Send>(
    items: &[I],
    bytes: usize,
    work: impl Fn(&I) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = match bytes >= PARALLEL_MIN_BYTES {
        true => crate::threads::wanted().min(items.len()),
        false => 1,
    };
    let mut parts = items.chunks(items.len().div_ceil(threads.max(1)).max(1));
    let own = parts.next().unwrap_or(&[]);
    let run = |part: &[I]| part.iter().map(&work).collect::<Result<Vec<R>>>();
    let results: Vec<Result<Vec<R>>> = thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| (part, thread::Builder::new().spawn_scoped(scope, || run(part))))
            .collect();
        let mut results = vec![run(own)];
        for (part, other) in others {
            results.push(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // Where no thread can be had, its work is done here.
                Err(_) => run(part),
            });
        }
        results
    });
    Ok(results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn bad(key: &Key, offset: u64, reason: String) -> Error {
    Error::Decode { layer: NAME, key: key.clone(), frame: 0, offset, reason }
}

/// The key that a key's dtype is under.
fn side_key(key: &Key) -> Result<Key> {
    if key.as_bytes().ends_with(SUFFIX) {
        return Err(Error::Invalid(format!(
            "{NAME}: the key {key} ends in `.dtype`, where this layer keeps dtypes; choose another"
        )));
    }
    Ok(Key::from([key.as_bytes(), SUFFIX].concat()))
}

fn side_keys(keys: &[Key]) -> Result<Vec<Key>> {
    keys.iter().map(side_key).collect()
}

/// The keys, and the keys followed by their side keys.
fn with_side_keys<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Result<(Vec<Key>, Vec<Key>)> {
    let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
    let all = [keys.clone(), side_keys(&keys)?].concat();
    Ok((keys, all))
}
