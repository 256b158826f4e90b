//! `Msgpack`: lists of values as MessagePack arrays, by rmp-serde.
//!
//! The Python partd calls this layer `Python`. It falls back to a pickle for a list that
//! MessagePack cannot hold. A pickle cannot be mistaken for an array, since its first byte is that
//! of an empty map. Before rmp-serde sees a frame, `walk` checks it without recursion: every length
//! against the available bytes, the depth against the limit, and that nothing follows the array.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::encode::codec::{self, Codec, CodecError};
use crate::encode::depth;
use crate::encode::typed::Typed;

/// The largest nesting depth of arrays and maps.
const MAX_DEPTH: usize = 128;
/// The bytes that a value counts against the limit, besides its bytes in the frame.
const VALUE_BYTES: usize = 32;
/// The first byte of every pickle of protocol 2 and later.
const PICKLE_FIRST_BYTE: u8 = 0x80;

/// A layer of lists in MessagePack. The lists appended to a key are read back as one list.
///
/// It matches the Python partd's `Python`, which writes a pickle for a list that MessagePack cannot
/// hold. This layer reads such frames if the cargo feature `pickle` is on, and otherwise refuses
/// them with an error that says so. It writes structs as maps, which Python reads as dicts.
///
/// A frame may be nested up to 128 deep. The limit on decoded bytes counts 32 bytes for each value
/// in a frame, besides the bytes of the frame.
///
/// ```
/// use partd::{Dict, Msgpack};
/// let p = Msgpack::<(String, f64), _>::new(Dict::new());
/// p.append([("x", vec![("a".to_owned(), 1.5)])])?;
/// p.append([("x", vec![("b".to_owned(), 2.5)])])?;
/// assert_eq!(p.get("x")?, [("a".to_owned(), 1.5), ("b".to_owned(), 2.5)]);
/// # Ok::<(), partd::Error>(())
/// ```
pub type Msgpack<T, P> = Typed<MsgpackCodec<T>, P>;

/// The codec of [`Msgpack`].
pub struct MsgpackCodec<T>(PhantomData<fn(&T) -> T>);

impl<T, P> Typed<MsgpackCodec<T>, P> {
    /// Creates a layer that stores lists of `T` as MessagePack.
    #[must_use]
    pub fn new(inner: P) -> Msgpack<T, P> {
        Typed::with_codec(MsgpackCodec(PhantomData), inner)
    }
}

impl<T> fmt::Debug for MsgpackCodec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MsgpackCodec")
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync> Codec for MsgpackCodec<T> {
    type In = [T];
    type Out = Vec<T>;

    fn name(&self) -> &'static str {
        "Msgpack"
    }

    fn encode(&self, value: &[T], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        depth::check(value, MAX_DEPTH as u32)?;
        let start = frame.len();
        rmp_serde::encode::write_named(&mut *frame, value)?;
        // Lengths have 32 bits, and the encoder would silently truncate a larger one.
        if u32::try_from(frame.len() - start).is_err() {
            walk_all(&frame[start..])?;
        }
        Ok(())
    }

    fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<Vec<T>, CodecError> {
        Ok(self.decode_counted(frame, max_bytes)?.0)
    }

    fn join(&self, parts: Vec<Vec<T>>) -> Result<Vec<T>, CodecError> {
        Ok(codec::concat(parts))
    }

    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(Vec<T>, usize), CodecError> {
        if frame.first() == Some(&PICKLE_FIRST_BYTE) && frame.len() > 1 {
            return decode_pickle(frame, max_bytes);
        }
        let values = walk_all(frame)?;
        let bytes = frame.len().saturating_add(values.saturating_mul(VALUE_BYTES));
        if bytes > max_bytes {
            return Err(codec::too_large(max_bytes).into());
        }
        let list: Vec<T> = rmp_serde::from_slice(frame).map_err(|error| {
            format!(
                "the frame does not hold a list of {}, the requested type: {error}; read it \
                 through a layer of the type that was appended",
                std::any::type_name::<T>()
            )
        })?;
        Ok((list, bytes))
    }
}

#[cfg(feature = "pickle")]
fn decode_pickle<T: DeserializeOwned>(
    frame: &[u8],
    max_bytes: usize,
) -> Result<(Vec<T>, usize), CodecError> {
    crate::encode::pickle::decode(frame, max_bytes)
}

#[cfg(not(feature = "pickle"))]
fn decode_pickle<T>(_: &[u8], _: usize) -> Result<(Vec<T>, usize), CodecError> {
    Err(pickle_refused())
}

#[cfg(any(test, not(feature = "pickle")))]
fn pickle_refused() -> CodecError {
    "the frame is a pickle, not MessagePack; the Python partd writes one for a list that \
     MessagePack cannot hold. Turn on the cargo feature `pickle` to read it"
        .into()
}

/// The length of a value by its first byte, if the first byte determines it; else 0.
const PLAIN_LEN: [u8; 256] = {
    let mut lens = [0; 256];
    let mut first = 0;
    while first < 256 {
        lens[first] = match first {
            0x00..=0x7F | 0xC0 | 0xC2 | 0xC3 | 0xE0..=0xFF => 1,
            0xA0..=0xBF => 1 + (first as u8 & 0x1F),
            0xCC | 0xD0 => 2,
            0xCD | 0xD1 => 3,
            0xCA | 0xCE | 0xD2 => 5,
            0xCB | 0xCF | 0xD3 => 9,
            _ => 0,
        };
        first += 1;
    }
    lens
};

/// Counts the values of a frame, and checks that nothing follows the array.
fn walk_all(frame: &[u8]) -> Result<usize, CodecError> {
    match walk(frame)? {
        (values, []) => Ok(values),
        (_, rest) => Err(format!("{} bytes follow the end of the array", rest.len()).into()),
    }
}

/// Checks the first value in `bytes` and counts the values in it, itself included. Returns the
/// count and the bytes after the value.
fn walk(bytes: &[u8]) -> Result<(usize, &[u8]), CodecError> {
    let mut values = 0;
    let mut rest = bytes;
    // The number of values left in each open array and map.
    let mut open = vec![1_u64];
    while let Some(left) = open.last_mut() {
        // Fast path: most values hold no others, and their first byte determines their length.
        while *left > 0
            && let Some(&first) = rest.first()
            && let Some(behind) = rest.get(usize::from(PLAIN_LEN[usize::from(first)])..)
            && behind.len() < rest.len()
        {
            rest = behind;
            values += 1;
            *left -= 1;
        }
        let Some(less) = left.checked_sub(1) else {
            open.pop();
            continue;
        };
        *left = less;
        let at = bytes.len() - rest.len();
        let inside = skip_value(&mut rest).ok_or_else(|| {
            format!("the value at byte {at} of the frame is truncated or not MessagePack")
        })?;
        values += 1;
        if inside > 0 {
            if open.len() > MAX_DEPTH {
                return Err(format!("the frame is nested more than {MAX_DEPTH} deep").into());
            }
            open.push(inside);
        }
    }
    Ok((values, rest))
}

/// Skips a value whose length is not in [`PLAIN_LEN`], except for the values inside it, and returns
/// how many those are.
fn skip_value(rest: &mut &[u8]) -> Option<u64> {
    let marker = number(rest, 1)?;
    let (skip, inside) = match marker {
        0x80..=0x8F => (0, 2 * (marker & 0x0F)),
        0x90..=0x9F => (0, marker & 0x0F),
        0xC4 | 0xD9 => (number(rest, 1)?, 0),
        0xC5 | 0xDA => (number(rest, 2)?, 0),
        0xC6 | 0xDB => (number(rest, 4)?, 0),
        0xC7 => (number(rest, 1)? + 1, 0),
        0xC8 => (number(rest, 2)? + 1, 0),
        0xC9 => (number(rest, 4)? + 1, 0),
        0xD4..=0xD8 => (1 + (1 << (marker - 0xD4)), 0),
        0xDC => (0, number(rest, 2)?),
        0xDD => (0, number(rest, 4)?),
        0xDE => (0, 2 * number(rest, 2)?),
        0xDF => (0, 2 * number(rest, 4)?),
        _ => return None,
    };
    *rest = rest.get(usize::try_from(skip).ok()?..)?;
    // Each value takes at least one byte.
    (inside <= rest.len() as u64).then_some(inside)
}

/// Reads a big-endian number of `bytes` bytes.
fn number(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    let (number, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    Some(number.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickle_is_recognised_and_the_error_names_the_feature_that_reads_it() {
        let codec = MsgpackCodec::<i64>(PhantomData);
        let pickle = b"\x80\x04]K\x01a.";
        let decoded = codec.decode(pickle, 1 << 20).map_err(|error| error.to_string());
        let expected = match cfg!(feature = "pickle") {
            true => Ok(vec![1]),
            false => Err(pickle_refused().to_string()),
        };
        assert_eq!(decoded, expected);
        assert!(pickle_refused().to_string().contains("Turn on the cargo feature `pickle`"));
    }
}
