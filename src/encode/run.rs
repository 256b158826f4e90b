//! How an encoding layer spreads its work: a batch over threads that encode, values over threads
//! that decode their frames.
//!
//! Work is cut into runs of consecutive steps or frames of about the same bytes, each with a
//! buffer of its own. Small work stays on the caller's thread, and is then decoded where it lies
//! in the store. No lock, of this layer or of the store below, is held while other threads are
//! waited for: a thread that waits may be given work that wants the same lock.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::encode::codec::{Codec, CodecError, too_large};
use crate::encode::frame::{self, Frame};
use crate::encode::layer::Encode;
use crate::partd::{Batch, Chunks, Durability, Op, Partd};
use crate::{Error, Key, Result};

/// Work below this many bytes, of values or of frames, is not worth waking another thread.
const PARALLEL_MIN_BYTES: usize = 64 << 10;
/// The least that one run gets, so that runs are few where values are small.
const RUN_MIN_BYTES: usize = 16 << 10;
/// Runs per thread, so that a thread that is done early finds more to do.
const RUNS_PER_THREAD: usize = 4;
/// The largest buffer that is kept for later use.
const KEPT_BUFFER_MAX_BYTES: usize = 64 << 20;
/// Errors of other libraries quote what they found; no more than this much of it is repeated.
const REASON_MAX_CHARS: usize = 600;

/// An [`Op`] whose value is what the codec takes.
pub(crate) enum Step<'a, In: ?Sized> {
    Append(&'a Key, &'a In),
    Set(&'a Key, &'a In),
    Delete(&'a Key),
    Clear,
}

impl<'a, In: ?Sized> Step<'a, In> {
    fn key_and_value(&self) -> Option<(&'a Key, &'a In)> {
        match *self {
            Step::Append(key, value) | Step::Set(key, value) => Some((key, value)),
            Step::Delete(_) | Step::Clear => None,
        }
    }
}

/// What comes of encoding a run of steps: the frames, and where each of them lies.
struct EncodedRun {
    buffer: Vec<u8>,
    frames: Vec<Range<usize>>,
}

/// Makes something of a run of frames, within a number of bytes, and says how many it used.
type RunFn<'f, R> = dyn Fn(&[&[u8]], usize) -> Result<(R, usize), (usize, CodecError)> + Sync + 'f;
/// Makes one thing of what the runs of one key gave.
type JoinFn<'f, R> = dyn Fn(Vec<R>) -> Result<R, CodecError> + 'f;

/// A key, its frames, and the bytes that may still be decoded of it.
struct Split<'a> {
    key: &'a Key,
    frames: Vec<Frame<'a>>,
    bytes_left: AtomicUsize,
}

impl<C: Codec, P: Partd> Encode<C, P> {
    /// Encodes the values of a batch and writes it to the store below.
    pub(crate) fn write_steps(
        &self,
        steps: &[Step<'_, C::In>],
        durability: Durability,
    ) -> Result<()> {
        let sizes: Vec<usize> = steps
            .iter()
            .map(|step| step.key_and_value().map_or(0, |(_, v)| self.codec.value_bytes(v)))
            .collect();
        let runs: Vec<Result<EncodedRun>> = if pays(sizes.iter().sum()) {
            cut(&sizes).into_par_iter().map(|range| self.encode_run(&steps[range])).collect()
        } else {
            vec![self.encode_run(steps)]
        };
        let runs: Vec<EncodedRun> = runs.into_iter().collect::<Result<_>>()?;

        let mut frames =
            runs.iter().flat_map(|run| run.frames.iter().map(|range| &run.buffer[range.clone()]));
        let mut batch = Batch::with_capacity(steps.len());
        for step in steps {
            // There is one frame for each step that has a value, in the same order.
            let frame = step.key_and_value().and_then(|_| frames.next()).unwrap_or(&[]);
            batch.push(match *step {
                Step::Append(key, _) => Op::Append(key.clone(), frame),
                Step::Set(key, _) => Op::Set(key.clone(), frame),
                Step::Delete(key) => Op::Delete(key.clone()),
                Step::Clear => Op::Clear,
            });
        }
        drop(frames);
        let written = self.inner.write(&batch, durability);
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

    /// The decoded values of the keys.
    pub(crate) fn read_values(&self, keys: &[Key]) -> Result<Vec<C::Out>> {
        self.fold_stored(keys, &|frames, limit| self.decode_run(frames, limit), &|parts| {
            self.join(parts)
        })
    }

    /// The decoded values of keys whose bytes were read before.
    pub(crate) fn decode_values(&self, keys: &[Key], values: &[Vec<u8>]) -> Result<Vec<C::Out>> {
        self.fold_copies(keys, values, &|frames, limit| self.decode_run(frames, limit), &|parts| {
            self.join(parts)
        })
    }

    /// The lengths of the decoded values, one frame at a time; `None` where there are no frames.
    pub(crate) fn decoded_lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        let len = |frames: &[&[u8]], limit: usize| {
            let mut sum = 0_usize;
            for (i, frame) in frames.iter().enumerate() {
                let left = limit.saturating_sub(sum);
                let value = self.codec.decode(frame, left).map_err(|error| (i, error))?;
                sum = sum.saturating_add(self.codec.decoded_bytes(&value));
            }
            Ok((Some(sum as u64), sum))
        };
        self.fold_stored(keys, &len, &|sums| {
            Ok(sums.into_iter().fold(None, |all, sum| Some(all.unwrap_or(0) + sum?)))
        })
    }

    fn decode_run(
        &self,
        frames: &[&[u8]],
        limit: usize,
    ) -> Result<(C::Out, usize), (usize, CodecError)> {
        let value = self.codec.decode_run(frames, limit)?;
        let bytes = self.codec.decoded_bytes(&value);
        Ok((value, bytes))
    }

    fn join(&self, mut parts: Vec<C::Out>) -> Result<C::Out, CodecError> {
        match parts.pop() {
            Some(only) if parts.is_empty() => Ok(only),
            last => {
                parts.extend(last);
                self.codec.join(parts)
            }
        }
    }

    /// Folds the values of the keys as they lie in the store below: see [`fold`](Encode::fold).
    fn fold_stored<R: Send>(
        &self,
        keys: &[Key],
        run: &RunFn<'_, R>,
        join: &JoinFn<'_, R>,
    ) -> Result<Vec<R>> {
        let mut folded = None;
        let mut copies = Vec::new();
        self.inner.visit(keys, &mut |values| {
            if pays(values.iter().flatten().map(|piece| piece.len()).sum()) {
                copies = values.iter().map(|pieces| pieces.concat()).collect();
            } else {
                folded = Some(self.fold(keys, values, false, run, join)?);
            }
            Ok(())
        })?;
        match folded {
            Some(folded) => Ok(folded),
            None => self.fold_copies(keys, &copies, run, join),
        }
    }

    fn fold_copies<R: Send>(
        &self,
        keys: &[Key],
        values: &[Vec<u8>],
        run: &RunFn<'_, R>,
        join: &JoinFn<'_, R>,
    ) -> Result<Vec<R>> {
        let pieces: Vec<Chunks<'_>> = values.iter().map(|value| vec![&value[..]]).collect();
        let parallel = pays(values.iter().map(Vec::len).sum());
        self.fold(keys, &pieces, parallel, run, join)
    }

    /// Makes something of each run of consecutive frames of each value, and one thing of those.
    fn fold<R: Send>(
        &self,
        keys: &[Key],
        values: &[Chunks<'_>],
        parallel: bool,
        run: &RunFn<'_, R>,
        join: &JoinFn<'_, R>,
    ) -> Result<Vec<R>> {
        let mut splits = Vec::with_capacity(values.len());
        for (key, pieces) in keys.iter().zip(values) {
            let frames = frame::split(pieces).map_err(|bad| Error::Decode {
                layer: self.codec.name(),
                key: key.clone(),
                frame: bad.frame,
                offset: bad.offset,
                reason: bad.reason,
            })?;
            let bytes_left = AtomicUsize::new(self.max_decoded_bytes);
            splits.push(Split { key, frames, bytes_left });
        }
        let runs = runs_of(&splits, parallel);
        let work = |(i, range): &(usize, Range<usize>)| self.run_one(&splits[*i], range, run);
        let results: Vec<Result<R>> = match parallel {
            true => runs.par_iter().map(work).collect(),
            false => runs.iter().map(work).collect(),
        };

        let mut parts: Vec<Vec<R>> = splits.iter().map(|_| Vec::new()).collect();
        for ((i, _), result) in runs.iter().zip(results) {
            parts[*i].push(result?);
        }
        let join_one = |(split, parts)| join(parts).map_err(|error| self.bad(split, 0, &error));
        splits.iter().zip(parts).map(join_one).collect()
    }

    fn run_one<R>(&self, split: &Split<'_>, range: &Range<usize>, run: &RunFn<'_, R>) -> Result<R> {
        let bodies: Vec<&[u8]> = split.frames[range.clone()].iter().map(|f| &f.body[..]).collect();
        let limit = split.bytes_left.load(Ordering::Relaxed);
        let (result, bytes) =
            run(&bodies, limit).map_err(|(i, error)| self.bad(split, range.start + i, &error))?;
        let counted = split
            .bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match counted {
            Ok(_) => Ok(result),
            Err(_) => Err(self.bad(split, range.start, &too_large(self.max_decoded_bytes).into())),
        }
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

/// Whether so many bytes are worth more than one thread, and there is more than one.
fn pays(bytes: usize) -> bool {
    bytes >= PARALLEL_MIN_BYTES && rayon::current_num_threads() > 1
}

/// Cuts a sequence of things of the given sizes into runs of about the same bytes.
fn cut(sizes: &[usize]) -> Vec<Range<usize>> {
    let total: usize = sizes.iter().sum();
    let wanted = (total / (rayon::current_num_threads() * RUNS_PER_THREAD)).max(RUN_MIN_BYTES);
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

/// Runs of frames, as pairs of key and range: all frames of a key, or, in parallel, pieces of
/// about the same bytes.
fn runs_of(splits: &[Split<'_>], parallel: bool) -> Vec<(usize, Range<usize>)> {
    let all: Vec<(usize, Range<usize>)> = splits
        .iter()
        .enumerate()
        .filter(|(_, split)| !split.frames.is_empty())
        .map(|(i, split)| (i, 0..split.frames.len()))
        .collect();
    if !parallel {
        return all;
    }
    let sizes: Vec<usize> = splits
        .iter()
        .flat_map(|split| split.frames.iter().map(|f| frame::PREFIX_BYTES + f.body.len()))
        .collect();
    let mut ends = cut(&sizes).into_iter().map(|range| range.end).peekable();
    let mut runs = Vec::new();
    let mut before = 0;
    for (i, Range { mut start, end }) in all {
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

/// The sentence of an error, cut where it gets long.
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
    fn runs_cover_every_frame_once_in_order_and_none_reaches_into_the_next_key() {
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
            for parallel in [false, true] {
                let mut next = vec![0; counts.len()];
                for (i, range) in runs_of(&splits, parallel) {
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
    fn a_long_reason_is_cut() {
        let error: CodecError = "ä".repeat(10_000).into();
        assert_eq!(reason(&error).chars().count(), REASON_MAX_CHARS + 1);
    }
}
