//! `Codec` encodes a value into a frame, decodes a frame, and joins the values of many frames into
//! one. `FnCodec` makes a codec of three closures.
//!
//! A codec sees only values and frames, but no keys, stores or length prefixes. Frames may be
//! hostile, so each call gets a limit on the decoded bytes.

use std::fmt;
use std::marker::PhantomData;

/// The error of a codec: any error or string that explains the failure in a sentence.
///
/// The layer adds its name, the key, and the number and offset of the frame.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Converts values to the bytes of frames and back.
///
/// With a codec from bytes to bytes (`In = [u8]`, `Out = Vec<u8>`), [`Encode`](crate::Encode) is
/// itself a [`Partd`](crate::Partd). Codecs of other types go through [`Typed`](crate::Typed).
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
    /// The type of an appended value.
    type In: ?Sized + Sync;
    /// The type of a read value: the values of all frames of a key, joined.
    type Out: Send;

    /// Returns the name of the layer for error messages.
    #[must_use]
    fn name(&self) -> &'static str;

    /// Appends the encoded value to `frame`, and leaves the bytes that are already there unchanged.
    ///
    /// # Errors
    ///
    /// If the value cannot be encoded, or could not be decoded again.
    fn encode(&self, value: &Self::In, frame: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decodes one frame.
    ///
    /// # Errors
    ///
    /// If the frame is malformed, or if its value is larger than `max_bytes`. A codec checks the
    /// size before it allocates the value.
    fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<Self::Out, CodecError>;

    /// Joins values into one, in order. Joining none gives the value of a missing key.
    ///
    /// Called once for each key that is read, even if it has only one part, as in Python.
    ///
    /// # Errors
    ///
    /// If the values cannot be one value.
    fn join(&self, parts: Vec<Self::Out>) -> Result<Self::Out, CodecError>;

    /// Checks that the values of two frames of one key can be joined.
    ///
    /// Called before [`join`](Codec::join), with the first value and each later one. The provided
    /// implementation accepts all values.
    ///
    /// # Errors
    ///
    /// If the two cannot be joined. The layer reports the frame of `other`.
    fn check_joinable(&self, first: &Self::Out, other: &Self::Out) -> Result<(), CodecError> {
        let _ = (first, other);
        Ok(())
    }

    /// Decodes a frame, and returns the bytes that it counts against the limit.
    ///
    /// The provided implementation counts [`decoded_bytes`](Codec::decoded_bytes). Override it if
    /// the codec can count more precisely.
    ///
    /// # Errors
    ///
    /// Those of [`decode`](Codec::decode).
    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(Self::Out, usize), CodecError> {
        let value = self.decode(frame, max_bytes)?;
        let bytes = self.decoded_bytes(&value);
        Ok((value, bytes))
    }

    /// Decodes consecutive frames.
    ///
    /// The provided implementation returns one part for each frame. If joining is concatenation, an
    /// override may decode several frames into one part. [`check_joinable`](Codec::check_joinable)
    /// must then never fail, since a part no longer belongs to one frame.
    ///
    /// # Errors
    ///
    /// Those of [`decode`](Codec::decode), with the number of the frame, from 0.
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

    /// Returns the size of a value to be encoded, in bytes, which decides how the work is split
    /// among threads.
    #[must_use]
    fn value_bytes(&self, value: &Self::In) -> usize {
        size_of_val(value)
    }

    /// Returns the bytes that a decoded value counts against the limit; for bytes, their length.
    #[must_use]
    fn decoded_bytes(&self, value: &Self::Out) -> usize {
        size_of_val(value)
    }
}

/// The result of decoding consecutive frames.
#[derive(Clone, Debug)]
pub struct Decoded<Out> {
    /// The decoded values, in order; fewer than the frames if some are already joined.
    pub parts: Vec<Out>,
    /// The bytes that they count against the limit.
    pub bytes: usize,
}

/// Returns the message for a value that exceeds what earlier frames have left of the limit.
pub(crate) fn too_large(left_bytes: usize) -> String {
    format!(
        "decodes to more than the {left_bytes} bytes left of the limit; if you trust the value, \
         raise the limit with `with_max_decoded_bytes`"
    )
}

/// Joins vectors by appending the others to the first.
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

/// A codec made of three closures. See [`Encode::from_fns`](crate::Encode::from_fns).
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
    /// Creates a codec from a closure that encodes a value, one that decodes a frame, and one that
    /// joins values.
    ///
    /// The closures do not get the limit on decoded bytes. It is checked against the size of each
    /// decoded value: the length of a `Vec<u8>`, the shallow size of any other type.
    #[must_use]
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
