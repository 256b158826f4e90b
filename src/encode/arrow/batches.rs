//! Iterates over the batches of a key, for values that need not or cannot be joined into one batch.

use std::borrow::Cow;
use std::iter::{Enumerate, FusedIterator};
use std::{fmt, slice, vec};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use bytes::Bytes;

use crate::encode::arrow::codec::{self, ArrowCodec, NAME};
use crate::encode::frame::{self, BadFrame, Frame, PREFIX_BYTES};
use crate::encode::layer::Encode;
use crate::encode::run::reason;
use crate::lend::{Lend, OwnedChunks};
use crate::{Error, Key, Partd, Result};

/// An iterator over the batches of a key, in the order of the appends. See
/// [`Arrow::batches`](crate::Typed::batches).
///
/// It decodes each batch on demand.
pub struct Batches {
    key: Key,
    /// The frames not decoded yet: their numbers, their offsets in the value, and their bytes.
    frames: Enumerate<vec::IntoIter<(u64, Buffer)>>,
    /// Whether the batches share the bytes of the frames.
    shares: bool,
    /// The remaining batches of the last decoded frame.
    decoded: vec::IntoIter<RecordBatch>,
    max_decoded_bytes: usize,
}

/// Reads the batches of a key.
pub(super) fn read<P: Partd>(layer: &Encode<ArrowCodec, P>, key: Key) -> Result<Batches> {
    let stored = layer.inner.read(slice::from_ref(&key))?;
    Batches::new(key, stored, layer.max_decoded_bytes)
}

/// Lends the batches of a key.
pub(super) fn lend<P>(layer: &Encode<ArrowCodec, P>, key: Key) -> Result<Batches>
where
    P: Lend<View: OwnedChunks>,
{
    let view = layer.inner.view(key.clone())?;
    let chunks = view.owned_chunks();
    let pieces: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
    let mut rest = &chunks[..];
    let mut share = |body: &[u8]| {
        // The frames are in the order of the chunks, and several may be in one.
        let holds = |chunk: &Bytes| chunk.as_ptr_range().contains(&body.as_ptr());
        rest = &rest[rest.iter().position(holds)?..];
        Some(Buffer::from(rest.first()?.slice_ref(body)))
    };
    let frames = split(&key, &pieces)?.into_iter().map(|frame| {
        let buffer = match frame.body {
            Cow::Borrowed(body) => share(body).unwrap_or_else(|| Buffer::from(body)),
            // A `Buffer` may have split the frame.
            Cow::Owned(body) => Buffer::from(body),
        };
        (frame.offset, buffer)
    });
    let frames: Vec<_> = frames.collect();
    Ok(Batches::of(key, frames, true, layer.max_decoded_bytes))
}

/// Removes a key if all its frames can be decoded, and returns its batches.
pub(super) fn take<P: Partd>(layer: &Encode<ArrowCodec, P>, key: Key) -> Result<Batches> {
    let max_bytes = layer.max_decoded_bytes;
    let check = |stored: &[Vec<u8>]| {
        let check_one = |stored: &Vec<u8>| {
            let mut frames = split(&key, &[stored])?.into_iter().enumerate();
            frames.try_for_each(|(i, Frame { offset, body })| {
                decoded(&key, i, offset, Buffer::from(&body[..]), max_bytes).map(drop)
            })
        };
        stored.iter().try_for_each(check_one)
    };
    let stored = layer.take_checked(slice::from_ref(&key), &check)?;
    Batches::new(key, stored, max_bytes)
}

/// Splits a key's value, given in pieces, into its frames.
fn split<'a>(key: &Key, pieces: &[&'a [u8]]) -> Result<Vec<Frame<'a>>> {
    frame::split(pieces)
        .map_err(|BadFrame { frame, offset, reason }| bad(key, frame, offset, reason))
}

/// Decodes the batches of one frame.
fn decoded(
    key: &Key,
    frame: usize,
    offset: u64,
    body: Buffer,
    max_bytes: usize,
) -> Result<Vec<RecordBatch>> {
    match codec::decode(body, max_bytes) {
        Ok((_, batches, _)) => Ok(batches),
        Err(error) => Err(bad(key, frame, offset, reason(&error))),
    }
}

fn bad(key: &Key, frame: usize, offset: u64, reason: String) -> Error {
    Error::Decode { layer: NAME, key: key.clone(), frame, offset, reason }
}

impl Batches {
    fn new(key: Key, mut stored: Vec<Vec<u8>>, max_decoded_bytes: usize) -> Result<Batches> {
        let stored = Buffer::from(stored.pop().unwrap_or_default());
        let body = |frame: Frame<'_>| {
            let start = frame.offset as usize + PREFIX_BYTES;
            (frame.offset, stored.slice_with_length(start, frame.body.len()))
        };
        let frames = split(&key, &[&stored])?.into_iter().map(body).collect();
        // A batch must not keep the bytes of all others alive.
        Ok(Batches::of(key, frames, false, max_decoded_bytes))
    }

    fn of(key: Key, frames: Vec<(u64, Buffer)>, shares: bool, max_decoded_bytes: usize) -> Batches {
        let (frames, decoded) = (frames.into_iter().enumerate(), Vec::new().into_iter());
        Batches { key, frames, shares, decoded, max_decoded_bytes }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoded.next() {
                return Some(Ok(batch));
            }
            let (i, (offset, body)) = self.frames.next()?;
            let body = if self.shares { body } else { Buffer::from(&body[..]) };
            match decoded(&self.key, i, offset, body, self.max_decoded_bytes) {
                Ok(batches) => self.decoded = batches.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl FusedIterator for Batches {}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("key", &self.key)
            .field("frames_left", &self.frames.len())
            .finish_non_exhaustive()
    }
}
