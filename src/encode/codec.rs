//! `Codec`: how a value becomes the bytes of one frame, how a frame becomes a value again, and how
//! the values of many frames become one. Also a codec made of three closures.
//!
//! A codec sees values and frames and nothing else: neither keys, nor stores, nor the length
//! prefix. What it decodes may be hostile, so it is told how many bytes it may make of a frame.

use std::fmt;
use std::marker::PhantomData;

/// Why a codec cannot encode or decode: any error, or a string, that says it in a sentence.
///
/// The layer adds its name, the key, and the frame's number and offset.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values into the bytes of frames and back.
///
/// Bytes in and bytes out (`In = [u8]`, `Out = Vec<u8>`) make [`Encode`](crate::Encode) a
/// [`Partd`](crate::Partd) of its own; other types go through [`Typed`](crate::Typed).
///
/// ```
/// use partd::{Codec, CodecError, Dict, Encode, Partd};
///
/// /// Stores every byte inverted.
/// struct Invert;
///
/// impl Codec for Invert {
///     type In = [u8];
///     type Out = Vec<u8>;
///
///     fn name(&self) -> &'static str {
///         "Invert"
///     }
///     fn encode(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
///         frame.extend(value.iter().map(|byte| !byte));
///         Ok(())
///     }
///     fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<Vec<u8>, CodecError> {
///         if frame.len() > max_bytes {
///             return Err("longer than the limit".into());
///         }
///         Ok(frame.iter().map(|byte| !byte).collect())
///     }
///     fn join(&self, parts: Vec<Vec<u8>>) -> Result<Vec<u8>, CodecError> {
///         Ok(parts.concat())
///     }
///     fn decoded_bytes(&self, value: &Vec<u8>) -> usize {
///         value.len()
///     }
/// }
///
/// let p = Encode::with_codec(Invert, Dict::new());
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
pub trait Codec: Send + Sync {
    /// What is appended.
    type In: ?Sized + Sync;
    /// What comes back: the values of all frames of a key, joined.
    type Out: Send;

    /// The layer's name, as it stands in errors.
    fn name(&self) -> &'static str;

    /// Adds the encoded value to the end of `frame`; what stands there already is not its own.
    fn encode(&self, value: &Self::In, frame: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value of one frame, of at most `max_bytes`: more is an error, found before it is made.
    fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<Self::Out, CodecError>;

    /// One value of many, in order; of none the empty value, which is what a missing key has.
    ///
    /// Called once for each value that is read, as in Python, also where it has only one part.
    fn join(&self, parts: Vec<Self::Out>) -> Result<Self::Out, CodecError>;

    /// Whether the values of two frames of one key can be joined: an error names the later frame.
    ///
    /// Provided, and true; called before [`join`](Codec::join), with the first value and each
    /// other one.
    fn check_joinable(&self, first: &Self::Out, other: &Self::Out) -> Result<(), CodecError> {
        let _ = (first, other);
        Ok(())
    }

    /// Decodes a frame, and says how many bytes of the limit it used up.
    ///
    /// Provided, by [`decoded_bytes`](Codec::decoded_bytes); for codecs that know better.
    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(Self::Out, usize), CodecError> {
        let value = self.decode(frame, max_bytes)?;
        let bytes = self.decoded_bytes(&value);
        Ok((value, bytes))
    }

    /// Decodes consecutive frames; an error names the frame, counted from 0.
    ///
    /// Provided: one part for each frame. Where joining is concatenation, frames may be decoded one
    /// behind the other into fewer parts; [`check_joinable`](Codec::check_joinable) then cannot
    /// tell which frame it is about, and must not fail.
    fn decode_run(
        &self,
        frames: &[&[u8]],
        max_bytes: usize,
    ) -> Result<Decoded<Self::Out>, (usize, CodecError)> {
        let mut run = Decoded { parts: Vec::with_capacity(frames.len()), bytes: 0 };
        for (i, frame) in frames.iter().enumerate() {
            let left = max_bytes - run.bytes;
            let (part, bytes) = self.decode_counted(frame, left).map_err(|error| (i, error))?;
            if bytes > left {
                return Err((i, too_large(left).into()));
            }
            run.bytes += bytes;
            run.parts.push(part);
        }
        Ok(run)
    }

    /// Bytes that a value to be encoded takes: decides what is worth a thread of its own.
    fn value_bytes(&self, value: &Self::In) -> usize {
        size_of_val(value)
    }

    /// Bytes that a decoded value takes, counted against the limit; for bytes, their length.
    fn decoded_bytes(&self, value: &Self::Out) -> usize {
        size_of_val(value)
    }
}

/// What consecutive frames of a value decode to.
#[derive(Clone, Debug)]
pub struct Decoded<Out> {
    /// Their values, in order; fewer than the frames where some are joined already.
    pub parts: Vec<Out>,
    /// Bytes of the limit that they used up.
    pub bytes: usize,
}

/// What is said of a value that is larger than what the frames before it have left of the limit.
pub(crate) fn too_large(left_bytes: usize) -> String {
    format!(
        "decodes to more than the {left_bytes} bytes left of the limit; if the value is to be \
         trusted, raise it by `with_max_decoded_bytes`"
    )
}

/// Joins byte strings; the first one keeps its place in memory.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd",
    feature = "pickle",
    feature = "msgpack"
))]
pub(crate) fn concat<T>(parts: Vec<Vec<T>>) -> Vec<T> {
    let more: usize = parts.iter().skip(1).map(Vec::len).sum();
    let mut parts = parts.into_iter();
    let mut all = parts.next().unwrap_or_default();
    all.reserve_exact(more);
    parts.for_each(|part| all.extend(part));
    all
}

/// A codec made of three closures: see [`Encode::from_fns`](crate::Encode::from_fns).
pub struct FnCodec<E, D, J, In: ?Sized, Out> {
    encode: E,
    decode: D,
    join: J,
    types: PhantomData<fn(&In) -> Out>,
}

impl<E, D, J, In, Out> FnCodec<E, D, J, In, Out>
where
    E: Fn(&In) -> Result<Vec<u8>, CodecError> + Send + Sync,
    D: Fn(&[u8]) -> Result<Out, CodecError> + Send + Sync,
    J: Fn(Vec<Out>) -> Result<Out, CodecError> + Send + Sync,
    In: ?Sized + Sync,
    Out: Send,
{
    /// Makes a codec of a closure that encodes a value, one that decodes a frame, and one that
    /// joins values.
    ///
    /// The limit on decoded bytes cannot be told to a closure: it is held against the sizes of the
    /// values that it returns, shallow ones where they are not bytes.
    pub fn new(encode: E, decode: D, join: J) -> FnCodec<E, D, J, In, Out> {
        FnCodec { encode, decode, join, types: PhantomData }
    }
}

impl<E, D, J, In: ?Sized, Out> fmt::Debug for FnCodec<E, D, J, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnCodec")
    }
}

impl<E, D, J, In, Out> Codec for FnCodec<E, D, J, In, Out>
where
    E: Fn(&In) -> Result<Vec<u8>, CodecError> + Send + Sync,
    D: Fn(&[u8]) -> Result<Out, CodecError> + Send + Sync,
    J: Fn(Vec<Out>) -> Result<Out, CodecError> + Send + Sync,
    In: ?Sized + Sync,
    Out: Send + 'static,
{
    type In = In;
    type Out = Out;

    fn name(&self) -> &'static str {
        "Encode"
    }
    fn encode(&self, value: &In, frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.extend_from_slice(&(self.encode)(value)?);
        Ok(())
    }
    fn decode(&self, frame: &[u8], _: usize) -> Result<Out, CodecError> {
        (self.decode)(frame)
    }
    fn join(&self, parts: Vec<Out>) -> Result<Out, CodecError> {
        (self.join)(parts)
    }
    fn decoded_bytes(&self, value: &Out) -> usize {
        (value as &dyn std::any::Any).downcast_ref::<Vec<u8>>().map_or(size_of_val(value), Vec::len)
    }
}
