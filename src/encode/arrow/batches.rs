//! Iterates over the batches of a key, for values that need not or cannot be joined into one batch.

use std::iter::{Enumerate, FusedIterator};
use std::{fmt, slice, vec};

use crate::encode::arrow::codec::{self, ArrowCodec, NAME};
use crate::encode::arrow::lent::LentFrames;
use crate::encode::frame::{self, BadFrame, Frame, PREFIX_BYTES};
use crate::encode::layer::Encode;
use crate::encode::run::reason;
use crate::lend::{Lend, OwnedChunks};
use crate::{Error, Key, Partd, Result};
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;

/// An iterator over the batches of a key, in the order of the appends. See
/// [`Arrow::batches`](crate::Typed::batches).
///
/// It decodes each batch on demand.
pub struct Batches {
    key: Key,
    /// The frames not decoded yet.
    frames: Frames,
    /// The remaining batches of the last decoded frame.
    decoded: vec::IntoIter<RecordBatch>,
    max_decoded_bytes: usize,
}

/// Frames with their numbers, their offsets in the value, and their bytes.
enum Frames {
    /// Those of a value in memory. A batch must not keep the bytes of all others alive, so it gets
    /// a copy of its own.
    Read(Enumerate<vec::IntoIter<(u64, Buffer)>>),
    /// Those of a lent value, whose bytes the batches share.
    Lent(LentFrames),
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
    let chunks = layer.inner.view(key.clone())?.owned_chunks();
    let frames = Frames::Lent(LentFrames::new(chunks));
    Ok(Batches::of(key, frames, layer.max_decoded_bytes))
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
        let frames: Vec<_> = split(&key, &[&stored])?.into_iter().map(body).collect();
        Ok(Batches::of(key, Frames::Read(frames.into_iter().enumerate()), max_decoded_bytes))
    }

    fn of(key: Key, frames: Frames, max_decoded_bytes: usize) -> Batches {
        Batches { key, frames, decoded: Vec::new().into_iter(), max_decoded_bytes }
    }

    fn next_frame(&mut self) -> Option<Result<(usize, u64, Buffer)>> {
        match &mut self.frames {
            Frames::Read(frames) => {
                let (number, (offset, body)) = frames.next()?;
                Some(Ok((number, offset, Buffer::from(&body[..]))))
            }
            Frames::Lent(frames) => {
                Some(frames.next()?.map_err(|BadFrame { frame, offset, reason }| {
                    bad(&self.key, frame, offset, reason)
                }))
            }
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoded.next() {
                return Some(Ok(batch));
            }
            let decoded = self.next_frame()?.and_then(|(number, offset, body)| {
                decoded(&self.key, number, offset, body, self.max_decoded_bytes)
            });
            match decoded {
                Ok(batches) => self.decoded = batches.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl FusedIterator for Batches {}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("key", &self.key).finish_non_exhaustive()
    }
}
