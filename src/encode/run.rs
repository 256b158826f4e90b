//! Spreads the work of an encoding layer over threads: the encoding of a batch, and the decoding of
//! frames.
//!
//! Work is split into runs of consecutive steps or frames with about the same number of bytes, each
//! with its own buffer. Small work stays on the calling thread, and is then decoded directly from
//! the store's memory. The threads are those of the rayon task that makes the call, else those of
//! the pool in the options of the store below. No thread waits for others while it holds a lock of
//! this layer or of the store below: a waiting thread may pick up a task that needs the same lock.

use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::encode::codec::{Codec, CodecError, Decoded, too_large};
use crate::encode::frame::{self, Frame};
use crate::encode::layer::Encode;
use crate::encode::step::Step;
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::threads::{self, LentPool, Team};
use crate::{Error, Key, Result};

/// Work on fewer bytes than this, of values or frames, does not pay for waking another thread.
const PARALLEL_MIN_BYTES: usize = 64 << 10;
/// The smallest run in bytes, so that small values make few runs.
const RUN_MIN_BYTES: usize = 16 << 10;
/// Runs per thread, so that a thread that finishes early finds more work.
const RUNS_PER_THREAD: usize = 4;
/// The largest buffer that is kept for reuse.
const KEPT_BUFFER_MAX_BYTES: usize = 64 << 20;
/// The longest error text of another library that is repeated, since such texts may quote their
/// input.
const REASON_MAX_CHARS: usize = 600;

/// The result of encoding a run of steps: the frames, and the range of each.
struct EncodedRun {
    buffer: Vec<u8>,
    frames: Vec<Range<usize>>,
}

/// A key, its frames, and the bytes left of its limit.
struct Split<'a> {
    key: &'a Key,
    frames: Vec<Frame<'a>>,
    bytes_left: AtomicUsize,
}

impl<C: Codec, P: Partd> Encode<C, P> {
    /// Encodes the values of a batch and writes the batch to the store below.
    pub(crate) fn write_steps(
        &self,
        steps: &[Step<'_, C::In>],
        durability: Durability,
    ) -> Result<()> {
        self.with_frames(steps, |batch| self.inner.write(batch, durability))
    }

    /// Encodes the values of a batch, and passes `hand_on` a batch of frames for the store below.
    pub(crate) fn with_frames<T>(
        &self,
        steps: &[Step<'_, C::In>],
        hand_on: impl FnOnce(&Batch<'_>) -> Result<T>,
    ) -> Result<T> {
        let sizes: Vec<usize> = steps
            .iter()
            .map(|step| step.key_and_value().map_or(0, |(_, v)| self.codec.value_bytes(v)))
            .collect();
        let pool = self.inner.lent_pool();
        let runs = threads::spread_if(pays(sizes.iter().sum(), pool), pool, |team| {
            team.map(cut(&sizes, team), |range| self.encode_run(&steps[range]))
        });
        let runs: Vec<EncodedRun> = runs.into_iter().collect::<Result<_>>()?;

        let mut frames =
            runs.iter().flat_map(|run| run.frames.iter().map(|range| &run.buffer[range.clone()]));
        let mut batch = Batch::with_capacity(steps.len());
        for step in steps {
            // There is one frame per step with a value, in the same order.
            let frame = step.key_and_value().and_then(|_| frames.next()).unwrap_or(&[]);
            batch.push(match *step {
                Step::Append(key, _) => Op::Append(key.clone(), frame),
                Step::Set(key, _) => Op::Set(key.clone(), frame),
                Step::Delete(key) => Op::Delete(key.clone()),
                Step::Clear => Op::Clear,
                Step::DeletePrefix(prefix) => Op::DeletePrefix(prefix.clone()),
            });
        }
        drop(frames);
        let written = hand_on(&batch);
        drop(batch);
        for EncodedRun { mut buffer, .. } in runs {
            if buffer.capacity() <= KEPT_BUFFER_MAX_BYTES {
                buffer.clear();
                self.buffers.put(buffer);
            }
        }
        written
    }

    fn encode_run(&self, steps: &[Step<'_, C::In>]) -> Result<EncodedRun> {
        let mut buffer = self.buffers.take().unwrap_or_default();
        let mut frames = Vec::with_capacity(steps.len());
        for (key, value) in steps.iter().filter_map(Step::key_and_value) {
            let range = frame::write(&mut buffer, |buffer| self.codec.encode(value, buffer))
                .map_err(|error| Error::Encode {
                    layer: self.codec.name(),
                    key: key.clone(),
                    reason: reason(&error),
                })?;
            frames.push(range);
        }
        Ok(EncodedRun { buffer, frames })
    }

    /// Reads and decodes the values of the keys.
    pub(crate) fn read_values(&self, keys: &[Key]) -> Result<Vec<C::Out>> {
        let mut values = None;
        let mut copies = Vec::new();
        self.inner.visit(keys, &mut |stored| {
            let bytes = stored.iter().flatten().map(|piece| piece.len()).sum();
            if pays(bytes, self.inner.lent_pool()) {
                copies = stored.iter().map(|pieces| pieces.concat()).collect();
            } else {
                values = Some(self.decode(keys, stored, false)?);
            }
            Ok(())
        })?;
        match values {
            Some(values) => Ok(values),
            None => self.decode_values(keys, &copies),
        }
    }

    /// Decodes the values of keys from bytes that were already read.
    pub(crate) fn decode_values(&self, keys: &[Key], stored: &[Vec<u8>]) -> Result<Vec<C::Out>> {
        let pieces: Vec<Chunks<'_>> = stored.iter().map(|value| vec![&value[..]]).collect();
        let bytes = stored.iter().map(Vec::len).sum();
        self.decode(keys, &pieces, pays(bytes, self.inner.lent_pool()))
    }

    /// Applies `len` to each key's decoded value; `None` if nothing is stored. A thread holds one
    /// decoded value at a time.
    pub(crate) fn decoded_lens(
        &self,
        keys: &[Key],
        len: fn(&C::Out) -> u64,
    ) -> Result<Vec<Option<u64>>> {
        let stored = self.inner.read(keys)?;
        let len_of = |(key, stored): (&Key, &Vec<u8>)| match stored.is_empty() {
            true => Ok(None),
            false => {
                let value = self.decode_values(slice::from_ref(key), slice::from_ref(stored))?;
                Ok(value.first().map(len))
            }
        };
        let pool = self.inner.lent_pool();
        threads::spread_if(pays(stored.iter().map(Vec::len).sum(), pool), pool, |team| {
            team.map(keys.iter().zip(&stored).collect(), len_of).into_iter().collect()
        })
    }

    /// Decodes and joins the frames of each value, in parallel runs if `parallel`.
    fn decode(&self, keys: &[Key], stored: &[Chunks<'_>], parallel: bool) -> Result<Vec<C::Out>> {
        let mut splits = Vec::with_capacity(stored.len());
        for (key, pieces) in keys.iter().zip(stored) {
            let frames = frame::split(pieces).map_err(|bad| Error::Decode {
                layer: self.codec.name(),
                key: key.clone(),
                frame: bad.frame,
                offset: bad.offset,
                reason: bad.reason,
            })?;
            splits.push(Split { key, frames, bytes_left: AtomicUsize::new(0) });
        }
        if !parallel {
            return splits
                .iter()
                .map(|split| self.join(split, self.decode_split(split)?))
                .collect();
        }
        for split in &splits {
            split.bytes_left.store(self.max_decoded_bytes, Ordering::Relaxed);
        }
        let (runs, results) = threads::spread(self.inner.lent_pool(), |team| {
            let runs = runs_of(&splits, team);
            let run =
                |(i, range): &(usize, Range<usize>)| self.decode_run(&splits[*i], range.clone());
            let results: Vec<Result<Vec<C::Out>>> = team.map(runs.iter().collect(), run);
            (runs, results)
        });
        let mut parts: Vec<Result<Vec<C::Out>>> =
            splits.iter().map(|split| Ok(Vec::with_capacity(split.frames.len()))).collect();
        for ((i, _), result) in runs.iter().zip(results) {
            match (&mut parts[*i], result) {
                (Ok(parts), Ok(more)) => parts.extend(more),
                (Ok(_), Err(error)) => parts[*i] = Err(error),
                (Err(_), _) => {}
            }
        }
        // Which run fails, and at which frame the limit is exceeded, depends on the scheduling.
        // Decode again from the first frame, so that the error does not.
        let join = |(split, parts): (&Split<'_>, Result<_>)| {
            self.join(split, parts.or_else(|_| self.decode_split(split))?)
        };
        splits.iter().zip(parts).map(join).collect()
    }

    /// Decodes all frames of a value on the calling thread.
    fn decode_split(&self, split: &Split<'_>) -> Result<Vec<C::Out>> {
        split.bytes_left.store(self.max_decoded_bytes, Ordering::Relaxed);
        self.decode_run(split, 0..split.frames.len())
    }

    /// Decodes frames of a value, within the bytes left of its limit.
    fn decode_run(&self, split: &Split<'_>, range: Range<usize>) -> Result<Vec<C::Out>> {
        let bodies: Vec<&[u8]> = split.frames[range.clone()].iter().map(|f| &f.body[..]).collect();
        let limit = split.bytes_left.load(Ordering::Relaxed);
        let Decoded { parts, bytes } = self
            .codec
            .decode_run(&bodies, limit)
            .map_err(|(i, error)| self.bad(split, range.start + i, &error))?;
        let counted = split
            .bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match counted {
            Ok(_) => Ok(parts),
            Err(left) => Err(self.bad(split, range.start, &too_large(left).into())),
        }
    }

    /// Joins the decoded frames of a value.
    fn join(&self, split: &Split<'_>, parts: Vec<C::Out>) -> Result<C::Out> {
        if let Some((first, others)) = parts.split_first() {
            for (i, other) in others.iter().enumerate() {
                let joinable = self.codec.check_joinable(first, other);
                joinable.map_err(|error| self.bad(split, i + 1, &error))?;
            }
        }
        let values = split.frames.len();
        self.codec.join(parts).map_err(|error| Error::Join {
            layer: self.codec.name(),
            key: split.key.clone(),
            values,
            reason: reason(&error),
        })
    }

    fn bad(&self, split: &Split<'_>, frame: usize, error: &CodecError) -> Error {
        Error::Decode {
            layer: self.codec.name(),
            key: split.key.clone(),
            frame,
            offset: split.frames.get(frame).map_or(0, |frame| frame.offset),
            reason: reason(error),
        }
    }
}

/// Returns whether it pays to spread the work on `bytes` over several threads.
fn pays(bytes: usize, lent: Option<&LentPool>) -> bool {
    bytes >= PARALLEL_MIN_BYTES && (lent.is_some() || threads::wanted() > 1)
}

/// Splits a sequence of items with the given sizes into runs of about the same number of bytes.
fn cut(sizes: &[usize], team: Team) -> Vec<Range<usize>> {
    let total: usize = sizes.iter().sum();
    let wanted = match team.is_alone() {
        true => usize::MAX,
        false => (total / (team.threads() * RUNS_PER_THREAD)).max(RUN_MIN_BYTES),
    };
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, size) in sizes.iter().enumerate() {
        bytes += size;
        if bytes >= wanted {
            runs.push(start..i + 1);
            (start, bytes) = (i + 1, 0);
        }
    }
    if start < sizes.len() {
        runs.push(start..sizes.len());
    }
    runs
}

/// Splits the frames of keys into runs of about the same number of bytes, as pairs of key and
/// range.
fn runs_of(splits: &[Split<'_>], team: Team) -> Vec<(usize, Range<usize>)> {
    let sizes: Vec<usize> = splits
        .iter()
        .flat_map(|split| split.frames.iter().map(|f| frame::PREFIX_BYTES + f.body.len()))
        .collect();
    let mut ends = cut(&sizes, team).into_iter().map(|range| range.end).peekable();
    let mut runs = Vec::new();
    let mut before = 0;
    for (i, split) in splits.iter().enumerate() {
        let (mut start, end) = (0, split.frames.len());
        while let Some(cut) = ends.next_if(|&cut| cut - before <= end) {
            if cut - before > start {
                runs.push((i, start..cut - before));
                start = cut - before;
            }
        }
        if end > start {
            runs.push((i, start..end));
        }
        before += end;
    }
    runs
}

/// Returns the text of an error, truncated if it is long.
pub(crate) fn reason(error: &CodecError) -> String {
    let mut text = error.to_string();
    if let Some((end, _)) = text.char_indices().nth(REASON_MAX_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_frame_once_in_order_and_never_cross_keys() {
        let body = vec![0; 5000];
        let key = Key::from("k");
        for counts in [vec![0, 3, 0, 1], vec![100, 1, 0, 200], vec![7; 40], vec![0], vec![]] {
            let splits: Vec<Split<'_>> = counts
                .iter()
                .map(|&n| Split {
                    key: &key,
                    frames: (0..n).map(|_| Frame { offset: 0, body: (&body[..]).into() }).collect(),
                    bytes_left: AtomicUsize::new(0),
                })
                .collect();
            for team in [Team::ALONE, Team::of(3)] {
                let mut next = vec![0; counts.len()];
                for (i, range) in runs_of(&splits, team) {
                    assert_eq!(range.start, next[i]);
                    assert!(!range.is_empty());
                    assert!(next[i + 1..].iter().all(|&frames| frames == 0));
                    next[i] = range.end;
                }
                assert_eq!(next, counts);
            }
        }
    }

    #[test]
    fn a_long_reason_is_truncated() {
        let error: CodecError = "ä".repeat(10_000).into();
        assert_eq!(reason(&error).chars().count(), REASON_MAX_CHARS + 1);
    }
}
