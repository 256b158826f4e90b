//! The flush: moves buffered keys to the slow store.
//!
//! Invariant: bytes leave memory only after the slow store has accepted them, and the exclusive
//! lock is held throughout. The memory for the batches of a flush is a small part of what the
//! buffer may hold, however many keys move.
//!
//! A large flush writes several batches at a time, on the threads of the buffer's pool: appends wait
//! for the flush meanwhile, so their threads leave processors idle. A layer below that encodes values
//! may then hold several large ones at a time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::{Buffer, DeferredSets, State};
use crate::partd::{Batch, Chunks, Durability, MemoryStore, Op, Partd};
use crate::{Error, Key, Result, threads};

/// Neighbouring pieces of a value that are shorter than this are merged.
const SMALL_PIECE_BYTES: usize = 16 << 10;
/// The maximum number of keys in one batch, and the bytes after which a batch ends.
const BATCH_MAX_KEYS: u64 = 8192;
const BATCH_MAX_BYTES: u64 = 32 << 20;
/// Several batches are written at a time only if each may reach this size.
const BESIDE_MIN_BYTES: usize = 1 << 20;
/// A buffer that may hold less than this flushes as if it could hold this much.
const FLUSH_MIN_BYTES: u64 = 64 << 10;

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// Moves the heaviest keys to the slow store until the buffer holds at most `target_bytes`;
    /// moves all keys if that is 0.
    pub(super) fn drain(&self, state: &mut State, target_bytes: u64) -> Result<()> {
        let before = state.stats.slow_batches;
        let held_bytes = self.held_bytes(state);
        let result = self.isolate.run_for(held_bytes, || self.drain_keys(state, target_bytes));
        state.stats.flushes += u64::from(state.stats.slow_batches > before);
        result
    }

    /// Moves the heaviest keys to the slow store, and gives back what is spare, until the buffer
    /// takes at most `bytes`.
    pub(super) fn shrink(&self, state: &mut State, bytes: u64) -> Result<()> {
        let mut target_bytes = bytes;
        loop {
            let drained = self.drain(state, target_bytes);
            self.fast.release_spare();
            let excess_bytes = self.total_bytes(state).saturating_sub(bytes);
            if drained.is_err() || excess_bytes == 0 || target_bytes == 0 {
                return drained;
            }
            // Not all that is spare could be given back.
            target_bytes = target_bytes.saturating_sub(excess_bytes);
        }
    }

    fn drain_keys(&self, state: &mut State, target_bytes: u64) -> Result<()> {
        // Keep a few deferred sets, since they make later sets of the same keys void. Many would
        // only take up memory.
        if state.deferred.memory_bytes() > target_bytes / 4 {
            let keys: Vec<Key> = state.deferred.keys().collect();
            self.move_down(state, &keys)?;
        }
        loop {
            let held_bytes = self.held_bytes(state);
            if target_bytes > 0 && held_bytes <= target_bytes {
                return Ok(());
            }
            // Move the keys in parts, so that the list of keys stays small.
            let part_bytes = self.flush_bytes() / 4;
            let excess_bytes =
                if target_bytes == 0 { part_bytes } else { held_bytes - target_bytes };
            let keys = self.fast.heaviest(excess_bytes.min(part_bytes))?;
            if keys.is_empty() {
                return Ok(());
            }
            self.move_down(state, &keys)?;
        }
    }

    /// Moves the keys that have a deferred set, with everything buffered for them.
    pub(super) fn apply_deferred(&self, state: &mut State, keys: &[Key]) -> Result<()> {
        let mut keys: Vec<Key> =
            keys.iter().filter(|key| state.deferred.has(key)).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        self.move_keys(state, &keys)
    }

    /// Moves everything buffered for the keys to the slow store, isolated if that is much. `keys`
    /// has no duplicates.
    pub(super) fn move_keys(&self, state: &mut State, keys: &[Key]) -> Result<()> {
        let appended: u64 = self.fast.lens(keys)?.into_iter().flatten().sum();
        let bytes = appended + state.deferred.memory_bytes();
        self.isolate.run_for(bytes, || self.move_down(state, keys))
    }

    /// Moves everything buffered for the keys to the slow store, in batches of which several may be
    /// written at a time. `keys` has no duplicates.
    fn move_down(&self, state: &mut State, keys: &[Key]) -> Result<()> {
        // A key costs a batch a few hundred bytes besides its value.
        let max_keys = (self.flush_bytes() / 2048).min(BATCH_MAX_KEYS);
        let (max_bytes, is_worth) = match self.batch_end_bytes() / threads::wanted_of(None) {
            share if share >= BESIDE_MIN_BYTES => (share, true),
            _ => (self.batch_end_bytes(), false),
        };
        for keys in keys.chunks(max_keys as usize) {
            let (mut moved, mut panicked) = (Vec::new(), None);
            let result = self.fast.visit(keys, &mut |values| {
                let deferred = &state.deferred;
                let ranges = ranges(keys, values, deferred, max_bytes);
                // A flush of this many bytes always runs in the pool of `Isolate`.
                threads::spread_if(is_worth && ranges.len() > 1, None, |team| {
                    let done = Mutex::new((&mut moved, &mut panicked));
                    let done = || done.lock().unwrap_or_else(PoisonError::into_inner);
                    team.in_order(ranges, |_, range| {
                        let (keys, values) = (&keys[range.clone()], &values[range]);
                        let write = || self.move_batch(deferred, keys, values, max_bytes);
                        match catch_unwind(AssertUnwindSafe(write)) {
                            Ok(written) => done().0.push((keys, written?)),
                            Err(panic) => {
                                *done().1 = Some(panic);
                                return Err(Error::Invalid("the slow store has panicked".into()));
                            }
                        }
                        Ok(())
                    })
                })
            });
            let mut forgotten = Batch::with_capacity(keys.len());
            for (keys, bytes) in moved {
                for key in keys {
                    forgotten.delete(key);
                }
                state.stats.slow_bytes += bytes;
                state.stats.slow_batches += 1;
            }
            // Even after a panic, what the slow store has accepted must not stay in memory.
            let forgot = self.forget(state, &forgotten);
            if let Some(panic) = panicked {
                resume_unwind(panic);
            }
            result.and(forgot)?;
        }
        Ok(())
    }

    /// Writes the values of some keys to the slow store in one batch, and returns their bytes.
    fn move_batch(
        &self,
        deferred: &DeferredSets,
        keys: &[Key],
        values: &[Chunks<'_>],
        max_bytes: usize,
    ) -> Result<u64> {
        let mut scratch = Vec::new();
        merge_small_pieces(values, max_bytes, &mut scratch);
        let mut batch = Batch::with_capacity(keys.len());
        carry(&mut batch, keys.iter().zip(values), deferred, &scratch);
        self.slow.write(&batch, Durability::Plain)?;
        Ok(batch.value_bytes())
    }

    /// Returns the bytes of which a flush may take a small fraction: those that the buffer may hold
    /// now, not its limit, since the budget may have granted far less.
    fn flush_bytes(&self) -> u64 {
        self.memory.allowed_bytes().max(FLUSH_MIN_BYTES)
    }

    /// Returns the bytes that a flush writes at a time, in one batch or in several. It also limits the
    /// bytes copied for them.
    fn batch_end_bytes(&self) -> usize {
        (self.flush_bytes() / 16).min(BATCH_MAX_BYTES) as usize
    }

    /// Writes a batch to the slow store, together with everything buffered for its keys.
    pub(super) fn write_through(&self, state: &mut State, batch: &Batch<'_>) -> Result<()> {
        if let Some(last) = batch.ops().iter().rposition(|op| matches!(op, Op::Clear)) {
            let mut cleared = Batch::with_capacity(batch.ops().len() - last);
            for op in &batch.ops()[last..] {
                cleared.push(op.clone());
            }
            self.write_slow(state, &cleared)?;
            state.deferred.clear();
            return self.fast.write(Batch::new().clear(), Durability::Plain);
        }
        // The buffered bytes of a key need not be moved if the first operation on it is a delete.
        let mut seen = HashSet::<&Key, RandomState>::default();
        let mut prefixes = Prefixes::default();
        let (mut carried, mut dropped) = (Vec::new(), Batch::new());
        for op in batch.ops() {
            if let Op::DeletePrefix(prefix) = op {
                prefixes.insert(prefix);
                dropped.push(op.clone());
            }
            let Some(key) = op.key().filter(|key| seen.insert(*key)) else { continue };
            if matches!(op, Op::Delete(_)) {
                dropped.delete(key);
            } else if !prefixes.begin(key) {
                carried.push(key.clone());
            }
        }
        drop(seen);
        let buffered = self.fast.present(&carried)?;
        let mut buffered = buffered.iter();
        carried.retain(|key| buffered.next() == Some(&true) || state.deferred.has(key));
        if carried.is_empty() {
            self.write_slow(state, batch)?;
        } else {
            let mut scratch = Vec::new();
            self.fast.visit(&carried, &mut |values| {
                merge_small_pieces(values, self.batch_end_bytes(), &mut scratch);
                let mut whole = Batch::with_capacity(carried.len() + batch.ops().len());
                carry(&mut whole, carried.iter().zip(values), &state.deferred, &scratch);
                for op in batch.ops() {
                    whole.push(op.clone());
                }
                let bytes = whole.value_bytes();
                self.isolate.run_for(bytes, || self.slow.write(&whole, Durability::Plain))?;
                state.stats.slow_bytes += bytes;
                state.stats.slow_batches += 1;
                Ok(())
            })?;
        }
        for key in carried {
            dropped.delete(key);
        }
        self.forget(state, &dropped)
    }

    fn write_slow(&self, state: &mut State, batch: &Batch<'_>) -> Result<()> {
        let bytes = batch.value_bytes();
        self.isolate.run_for(bytes, || self.slow.write(batch, Durability::Plain))?;
        state.stats.slow_bytes += bytes;
        state.stats.slow_batches += 1;
        Ok(())
    }

    /// Drops everything buffered for the keys and prefixes that the batch deletes.
    fn forget(&self, state: &mut State, deletes: &Batch<'_>) -> Result<()> {
        for op in deletes.ops() {
            match op {
                Op::DeletePrefix(prefix) => state.deferred.remove_with(prefix),
                op => op.key().into_iter().for_each(|key| state.deferred.remove(key)),
            }
        }
        self.fast.write(deletes, Durability::Plain)
    }
}

/// The prefixes that a batch has deleted so far.
#[derive(Default)]
struct Prefixes<'b> {
    prefixes: HashSet<&'b [u8], RandomState>,
    /// The lengths of the prefixes, of which there are few.
    lens: BTreeSet<usize>,
}

impl<'b> Prefixes<'b> {
    fn insert(&mut self, prefix: &'b Key) {
        self.prefixes.insert(prefix.as_bytes());
        self.lens.insert(prefix.len());
    }

    /// Returns whether the key begins with one of the prefixes.
    fn begin(&self, key: &Key) -> bool {
        self.lens.range(..=key.len()).any(|&len| self.prefixes.contains(&key.as_bytes()[..len]))
    }
}

/// Splits values into ranges, each of which ends with the value that reaches `max_bytes`.
fn ranges(
    keys: &[Key],
    values: &[Chunks<'_>],
    deferred: &DeferredSets,
    max_bytes: usize,
) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (number, (key, pieces)) in keys.iter().zip(values).enumerate() {
        bytes += run_bytes(pieces) + deferred.get(key).map_or(0, <[u8]>::len);
        if bytes >= max_bytes || number + 1 == values.len() {
            ranges.push(start..number + 1);
            (start, bytes) = (number + 1, 0);
        }
    }
    ranges
}

/// Splits the pieces of a value into runs: neighbouring small pieces form one run.
fn runs<'v, 'a>(pieces: &'v [&'a [u8]]) -> impl Iterator<Item = &'v [&'a [u8]]> {
    pieces.chunk_by(|a, b| a.len().max(b.len()) < SMALL_PIECE_BYTES)
}

/// Copies the runs of small pieces into `scratch`, one after another, up to the first that would
/// exceed `max_bytes`.
fn merge_small_pieces(values: &[Chunks<'_>], max_bytes: usize, scratch: &mut Vec<u8>) {
    scratch.clear();
    let small = || {
        let mut bytes = 0;
        let runs = values.iter().flat_map(|pieces| runs(pieces)).filter(|run| run.len() > 1);
        runs.take_while(move |run| {
            bytes += run_bytes(run);
            bytes <= max_bytes
        })
    };
    scratch.reserve_exact(small().map(run_bytes).sum());
    small().flatten().for_each(|piece| scratch.extend_from_slice(piece));
}

fn run_bytes(run: &[&[u8]]) -> usize {
    run.iter().map(|piece| piece.len()).sum()
}

/// Adds everything buffered for some keys to a batch. `scratch` holds the first runs of small pieces;
/// the pieces of the others are added one by one.
fn carry<'a>(
    batch: &mut Batch<'a>,
    buffered: impl Iterator<Item = (&'a Key, &'a Chunks<'a>)>,
    deferred: &'a DeferredSets,
    mut scratch: &'a [u8],
) {
    for (key, pieces) in buffered {
        if let Some(value) = deferred.get(key) {
            batch.set(key, value);
        } else if pieces.is_empty() {
            // The key exists with an empty value.
            batch.append(key, &[]);
        }
        for run in runs(pieces) {
            if run.len() > 1
                && let Some(merged) = scratch.split_off(..run_bytes(run))
            {
                batch.append(key, merged);
            } else {
                for piece in run {
                    batch.append(key, piece);
                }
            }
        }
    }
}
