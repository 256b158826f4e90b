//! `Encode`: the layer that runs a codec between its caller and a store of bytes.
//!
//! What is appended becomes one frame; what is read is taken apart into frames, decoded and
//! joined. Every operation here is one operation of the store below, but for taking, which looks
//! before it takes. How the work is spread over threads is `run`'s business, what stands in a
//! frame the codec's.

use std::fmt;

use crate::encode::codec::{Codec, CodecError, FnCodec};
use crate::encode::pool::Pool;
use crate::encode::step::Step;
use crate::partd::{Batch, Durability, MemoryStore, Op, Partd};
use crate::{Error, Key, Result};

/// Bytes that a key's value may have when it is decoded, unless set.
pub const DEFAULT_MAX_DECODED_BYTES: usize = 4 << 30;

/// A store of what a [`Codec`] makes of values, over a store of bytes.
///
/// Over bytes it is a [`Partd`] itself; the compressions ([`Zlib`](crate::Zlib) and its like) are
/// such layers. Each value that is appended or set is one frame: its encoded length as 8 bytes
/// little-endian, then the encoded bytes, as the Python partd writes them. Batches stay atomic.
///
/// # Limits
///
/// A key whose value decodes to more than [`DEFAULT_MAX_DECODED_BYTES`] (4 GiB) is an error; see
/// [`with_max_decoded_bytes`](Encode::with_max_decoded_bytes). Frames of one value that are
/// decoded at the same time see the limit each, so what is held before the error comes is at most
/// the limit for each thread.
///
/// # What costs more than on the store itself
///
/// [`lens`](Partd::lens), and with it `len_of`, has to decode; [`contains`](Partd::contains) does
/// not.
///
/// # Taking
///
/// [`take`](Partd::take) reads and decodes before it takes, so a value that cannot be decoded stays
/// where it is. Only if another writer appends something undecodable between the two does taking
/// fail after the fact; then the bytes are appended back as they were, and the error says so.
pub struct Encode<C, P> {
    pub(crate) codec: C,
    pub(crate) inner: P,
    pub(crate) max_decoded_bytes: usize,
    /// Buffers to encode into, empty.
    pub(crate) buffers: Pool<Vec<u8>>,
}

impl<C, P> Encode<C, P> {
    /// A layer that runs a codec over a store.
    pub fn with_codec(codec: C, inner: P) -> Encode<C, P> {
        let buffers = Pool::new();
        Encode { codec, inner, max_decoded_bytes: DEFAULT_MAX_DECODED_BYTES, buffers }
    }

    /// Sets the number of bytes that a key's value may have when it is decoded.
    ///
    /// It guards against frames made to fill the memory of who reads them.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: usize) -> Encode<C, P> {
        self.max_decoded_bytes = bytes;
        self
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// The store below, which holds the frames.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The store below, without the layer.
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
    /// A layer of three closures, in the order in which Python's `Encode` takes them.
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
    /// For values that are not bytes see [`Typed::from_fns`](crate::Typed::from_fns).
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
    /// Takes the keys and decodes what they held: see "Taking" above.
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

    /// Takes the bytes of the keys if they pass a check, before they are taken and as they were
    /// taken.
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

    /// Appends to the store below what was taken from it but cannot be decoded.
    fn put_back(&self, keys: &[Key], taken: &[Vec<u8>], error: Error) -> Error {
        let mut batch = Batch::with_capacity(keys.len());
        for (key, value) in keys.iter().zip(taken).filter(|(_, value)| !value.is_empty()) {
            batch.append(key, value);
        }
        put_back(error, self.inner.write(&batch, Durability::Plain))
    }
}

/// Says in an error what became of the bytes that were taken before it came.
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

    /// The decoded lengths; what is stored has to be decoded to know them.
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        loop {
            let lens = self.decoded_lens(keys, |value| value.len() as u64)?;
            // Without frames a key may be missing, or hold nothing: the store below knows.
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
            // Something was appended in between: look again, at one moment.
        }
    }

    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.inner.present(keys)
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.inner.keys()
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn check(&self, durability: Durability) -> Result<()> {
        self.inner.check(durability)
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

    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        self.with_frames(&steps_of(batch), |frames| self.inner.write_within(frames, limit_bytes))
    }

    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        self.inner.heaviest(bytes)
    }
}

/// The operations of a batch of bytes, as the codec takes them.
fn steps_of<'a>(batch: &'a Batch<'_>) -> Vec<Step<'a, [u8]>> {
    let step = |op: &'a Op<'_>| match op {
        Op::Append(key, value) => Step::Append(key, *value),
        Op::Set(key, value) => Step::Set(key, *value),
        Op::Delete(key) => Step::Delete(key),
        Op::Clear => Step::Clear,
    };
    batch.ops().iter().map(step).collect()
}
