//! `Encode`: the layer that runs a codec over a store of bytes.
//!
//! An appended value becomes one frame. A read splits the stored bytes into frames, decodes and
//! joins them. Each operation is one operation of the store below, except that `take` reads before
//! it takes, and that `lens` reads the values. `run` spreads the work over threads.

use std::fmt;

use crate::encode::codec::{Codec, CodecError, FnCodec};
use crate::encode::pool::Pool;
use crate::encode::step::Step;
use crate::partd::{Batch, Durability, MemoryStore, Op, Partd};
use crate::threads::LentPool;
use crate::{Error, Key, Result};

/// The default limit on the decoded value of a key, in bytes.
pub const DEFAULT_MAX_DECODED_BYTES: usize = 4 << 30;

/// A layer that stores values through a [`Codec`], over a store of bytes.
///
/// With a codec for bytes it is itself a [`Partd`]; the compressions, such as `Zlib`, are such
/// layers. Each value that is appended or set becomes one frame: the encoded length as 8 bytes
/// little-endian, then the encoded bytes, as in the Python partd. Batches stay atomic.
///
/// ```
/// # #[cfg(feature = "zlib")] {
/// use partd::{Dict, Partd, Zlib};
///
/// let p = Zlib::new(Dict::new()).with_max_decoded_bytes(1 << 20);
/// p.append([("x", "a".repeat(1000)), ("x", "b".repeat(1000))])?;
/// assert_eq!(p.len_of("x")?, 2000);
/// assert!(p.inner().len_of("x")? < 100); // the frames in the store below
/// # }
/// # Ok::<(), partd::Error>(())
/// ```
///
/// # Limits
///
/// Reading a key whose value decodes to more than [`DEFAULT_MAX_DECODED_BYTES`] (4 GiB) is an
/// error; [`with_max_decoded_bytes`](Encode::with_max_decoded_bytes) changes the limit. Several
/// threads may decode frames of one value at the same time. Each of them may use up to the limit
/// before the read fails.
///
/// # Costs compared with the underlying store
///
/// [`lens`](Partd::lens), and so `len_of`, decodes the values. [`contains`](Partd::contains) does
/// not.
///
/// # Taking
///
/// [`take`](Partd::take) reads and decodes before it removes, so a value that cannot be decoded
/// stays in the store. If another writer appends undecodable bytes in between, `take` fails after
/// the removal. It then appends the bytes back unchanged, and the error says so.
pub struct Encode<C, P> {
    pub(crate) codec: C,
    pub(crate) inner: P,
    pub(crate) max_decoded_bytes: usize,
    /// Empty buffers to encode into.
    pub(crate) buffers: Pool<Vec<u8>>,
}

impl<C, P> Encode<C, P> {
    /// Creates a layer that runs a codec over a store.
    #[must_use]
    pub fn with_codec(codec: C, inner: P) -> Encode<C, P> {
        let buffers = Pool::new();
        Encode { codec, inner, max_decoded_bytes: DEFAULT_MAX_DECODED_BYTES, buffers }
    }

    /// Sets the limit on the decoded value of a key, in bytes.
    ///
    /// The limit protects a reader from frames that are crafted to fill its memory.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: usize) -> Encode<C, P> {
        self.max_decoded_bytes = bytes;
        self
    }

    /// Returns the codec.
    #[must_use]
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Returns the store below, which holds the frames.
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

impl<E, D, J, In, Out, P> Encode<FnCodec<E, D, J, In, Out>, P>
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
    /// use partd::{Dict, Encode, Partd};
    /// let p = Encode::from_fns(
    ///     |value: &[u8]| Ok(value.to_ascii_uppercase()),
    ///     |frame| Ok(frame.to_ascii_lowercase()),
    ///     |parts| Ok(parts.join(&b' ')),
    ///     Dict::new(),
    /// );
    /// p.append([("x", "hello"), ("x", "world")])?;
    /// assert_eq!(p.get("x")?, b"hello world");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// For values that are not bytes, see [`Typed::from_fns`](crate::Typed::from_fns).
    #[must_use]
    pub fn from_fns(
        encode: E,
        decode: D,
        join: J,
        inner: P,
    ) -> Encode<FnCodec<E, D, J, In, Out>, P> {
        Encode::with_codec(FnCodec::new(encode, decode, join), inner)
    }
}

impl<C: Codec, P: fmt::Debug> fmt::Debug for Encode<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.codec.name())
            .field("inner", &self.inner)
            .field("max_decoded_bytes", &self.max_decoded_bytes)
            .finish_non_exhaustive()
    }
}

impl<C: Codec, P: Partd> Encode<C, P> {
    /// Takes the keys and decodes their values. See "Taking" above.
    pub(crate) fn take_values(&self, keys: &[Key]) -> Result<Vec<C::Out>> {
        let seen = self.inner.read(keys)?;
        let values = self.decode_values(keys, &seen)?;
        let taken = self.inner.take(keys)?;
        if taken == seen {
            return Ok(values);
        }
        drop((seen, values));
        self.decode_values(keys, &taken).map_err(|error| self.put_back(keys, &taken, error))
    }

    /// Takes the bytes of the keys if they pass `check`, before the removal and, if they changed,
    /// after it.
    #[cfg(feature = "arrow")]
    pub(crate) fn take_checked(
        &self,
        keys: &[Key],
        check: &dyn Fn(&[Vec<u8>]) -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        let seen = self.inner.read(keys)?;
        check(&seen)?;
        let taken = self.inner.take(keys)?;
        if taken != seen {
            drop(seen);
            check(&taken).map_err(|error| self.put_back(keys, &taken, error))?;
        }
        Ok(taken)
    }

    /// Appends taken bytes that cannot be decoded back to the store below.
    fn put_back(&self, keys: &[Key], taken: &[Vec<u8>], error: Error) -> Error {
        let mut batch = Batch::with_capacity(keys.len());
        for (key, value) in keys.iter().zip(taken).filter(|(_, value)| !value.is_empty()) {
            batch.append(key, value);
        }
        put_back(error, self.inner.write(&batch, Durability::Plain))
    }
}

/// Adds to an error what happened to the bytes that were taken before it occurred.
pub(crate) fn put_back(mut error: Error, written: Result<()>) -> Error {
    let outcome = match written {
        Ok(()) => "; the bytes taken were written back".to_owned(),
        Err(lost) => format!("; the bytes taken could not be written back: {lost}"),
    };
    if let Error::Decode { reason: text, .. }
    | Error::Join { reason: text, .. }
    | Error::Mismatch { advice: text, .. } = &mut error
    {
        text.push_str(&outcome);
    }
    error
}

impl<C, P> Partd for Encode<C, P>
where
    C: Codec<In = [u8], Out = Vec<u8>>,
    P: Partd,
{
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.write_steps(&steps_of(batch), durability)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.read_values(keys)
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.take_values(keys)
    }

    /// Returns the decoded lengths, and decodes the values to do so.
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        loop {
            let lens = self.decoded_lens(keys, |value| value.len() as u64)?;
            // A key without frames is either missing or empty; ask the store below.
            let (bare, bare_keys): (Vec<usize>, Vec<Key>) = (lens.iter().zip(keys).enumerate())
                .filter(|(_, (len, _))| len.is_none())
                .map(|(i, (_, key))| (i, key.clone()))
                .unzip();
            let stored = match bare_keys.is_empty() {
                true => Vec::new(),
                false => self.inner.lens(&bare_keys)?,
            };
            if stored.iter().flatten().all(|&len| len == 0) {
                let mut lens = lens;
                for (i, len) in bare.into_iter().zip(stored) {
                    lens[i] = len;
                }
                return Ok(lens);
            }
            // Another writer appended in between. Retry, so that all lengths are of one moment.
        }
    }

    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.inner.present(keys)
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.inner.keys()
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        self.inner.keys_with(prefix)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn check(&self, durability: Durability) -> Result<()> {
        self.inner.check(durability)
    }

    fn lent_pool(&self) -> Option<&LentPool> {
        self.inner.lent_pool()
    }
}

impl<C, P> MemoryStore for Encode<C, P>
where
    C: Codec<In = [u8], Out = Vec<u8>>,
    P: MemoryStore,
{
    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }

    fn spare_bytes(&self) -> u64 {
        self.inner.spare_bytes()
    }

    fn release_spare(&self) {
        self.inner.release_spare();
    }

    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        self.with_frames(&steps_of(batch), |frames| self.inner.write_within(frames, limit_bytes))
    }

    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        self.inner.heaviest(bytes)
    }
}

/// Converts the operations of a batch of bytes to steps for the codec.
fn steps_of<'a>(batch: &'a Batch<'_>) -> Vec<Step<'a, [u8]>> {
    let step = |op: &'a Op<'_>| match op {
        Op::Append(key, value) => Step::Append(key, *value),
        Op::Set(key, value) => Step::Set(key, *value),
        Op::Delete(key) => Step::Delete(key),
        Op::Clear => Step::Clear,
        Op::DeletePrefix(prefix) => Step::DeletePrefix(prefix),
    };
    batch.ops().iter().map(step).collect()
}
