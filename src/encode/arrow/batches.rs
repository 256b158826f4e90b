//! Iterates over the batches of a key, for values that need not or cannot be joined into one batch.

use std::iter::{Enumerate, FusedIterator};
use std::ops::Range;
use std::{fmt, slice, vec};

use arrow_array::RecordBatch;

use crate::encode::arrow::codec::{self, ArrowCodec, NAME};
use crate::encode::frame::{self, BadFrame, Frame, PREFIX_BYTES};
use crate::encode::layer::Encode;
use crate::encode::run::reason;
use crate::{Error, Key, Partd, Result};

/// An iterator over the batches of a key, in the order of the appends. See
/// [`Arrow::batches`](crate::Typed::batches).
///
/// It decodes each batch on demand.
pub struct Batches {
    key: Key,
    stored: Vec<u8>,
    /// The numbers and byte ranges of the frames not decoded yet.
    frames: Enumerate<vec::IntoIter<Range<usize>>>,
    /// The remaining batches of the last decoded frame.
    decoded: vec::IntoIter<RecordBatch>,
    max_decoded_bytes: usize,
}

/// Reads the batches of a key.
pub(super) fn read<P: Partd>(layer: &Encode<ArrowCodec, P>, key: Key) -> Result<Batches> {
    let stored = layer.inner.read(slice::from_ref(&key))?;
    Batches::new(key, stored, layer.max_decoded_bytes)
}

/// Removes a key if all its frames can be decoded, and returns its batches.
pub(super) fn take<P: Partd>(layer: &Encode<ArrowCodec, P>, key: Key) -> Result<Batches> {
    let max_bytes = layer.max_decoded_bytes;
    let check = |stored: &[Vec<u8>]| {
        let check_one = |stored: &Vec<u8>| {
            let mut frames = frames(&key, stored)?.into_iter().enumerate();
            frames.try_for_each(|(i, body)| decoded(&key, stored, i, body, max_bytes).map(drop))
        };
        stored.iter().try_for_each(check_one)
    };
    let stored = layer.take_checked(slice::from_ref(&key), &check)?;
    Batches::new(key, stored, max_bytes)
}

/// Returns the ranges of the frames in a key's value, without their prefixes.
fn frames(key: &Key, stored: &[u8]) -> Result<Vec<Range<usize>>> {
    let frames = frame::split(&[stored])
        .map_err(|BadFrame { frame, offset, reason }| bad(key, frame, offset, reason))?;
    let range = |frame: Frame<'_>| {
        let start = frame.offset as usize + PREFIX_BYTES;
        start..start + frame.body.len()
    };
    Ok(frames.into_iter().map(range).collect())
}

/// Decodes the batches of one frame.
fn decoded(
    key: &Key,
    stored: &[u8],
    frame: usize,
    body: Range<usize>,
    max_bytes: usize,
) -> Result<Vec<RecordBatch>> {
    let offset = (body.start - PREFIX_BYTES) as u64;
    match codec::decode(&stored[body], max_bytes) {
        Ok((_, batches, _)) => Ok(batches),
        Err(error) => Err(bad(key, frame, offset, reason(&error))),
    }
}

fn bad(key: &Key, frame: usize, offset: u64, reason: String) -> Error {
    Error::Decode { layer: NAME, key: key.clone(), frame, offset, reason }
}

impl Batches {
    fn new(key: Key, mut stored: Vec<Vec<u8>>, max_decoded_bytes: usize) -> Result<Batches> {
        let stored = stored.pop().unwrap_or_default();
        let frames = frames(&key, &stored)?.into_iter().enumerate();
        let decoded = Vec::new().into_iter();
        Ok(Batches { key, stored, frames, decoded, max_decoded_bytes })
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoded.next() {
                return Some(Ok(batch));
            }
            let (i, body) = self.frames.next()?;
            match decoded(&self.key, &self.stored, i, body, self.max_decoded_bytes) {
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
