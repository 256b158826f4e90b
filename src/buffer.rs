//! `Buffer`: a store in memory in front of a slower one, within a limit of memory.
//!
//! Invariant: a key's value is what `slow` holds, then its pending set, then what `fast` holds. So
//! whatever goes to `slow` takes with it, in one batch, all that is buffered of the keys it touches.
//!
//! One lock orders it. Plain appends go into `fast` with the lock shared (`fast` has a lock of its
//! own and keeps the memory limit by itself); whatever moves or removes bytes holds it alone. A
//! long read of `slow` runs outside the lock and is repeated when bytes were moved meanwhile.
//!
//! Only `slow` knows whether a key was set before. A set of a key that has nothing in `fast` waits
//! as *pending*, which is decided when it gets there; sets that follow a pending one are void.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::partd::{Batch, Durability, MemoryStore, Op, Partd};
use crate::{Key, Result};

mod deferred_sets;
mod flush;
mod isolate;

use deferred_sets::DeferredSets;
use isolate::Isolate;

/// Reads of `slow` outside the lock before one is made inside it.
const UNLOCKED_READS: usize = 4;

/// A store that collects appends in memory and moves them to a slower store in large batches.
///
/// `Fast` is a store in memory, such as [`Dict`](crate::Dict); `Slow` is where the bytes end up.
/// The buffer keeps at most `limit_bytes` of memory, as [`MemoryStore::memory_bytes`] counts it, under
/// any number of threads. An append that finds no room first moves the keys with the longest
/// values to `Slow`, until half of the limit is free. A batch that is too large to be buffered, and
/// every removal, goes to `Slow` at once.
///
/// Operations are atomic and linearizable inside the process. Other processes see the bytes,
/// and a crash spares them, after a flush: [`flush`](Buffer::flush), [`sync`](Partd::sync) and
/// [`append_durable`](Partd::append_durable) make one, and so does dropping the buffer, which
/// cannot report an error: call [`flush`](Buffer::flush) before.
///
/// # Errors
///
/// When `Slow` fails, nothing is lost: what could not be moved stays buffered, and the operation
/// that needed the room gets the error and has not happened. It can be repeated. Only where a
/// durable append fails in the sync at its end, it has happened and may not be durable.
///
/// ```
/// use partd::{Buffer, Dict, Partd};
/// let p = Buffer::new(Dict::new(), Dict::new(), 2 << 30);
/// p.append([("x", "Hello ")])?;
/// p.flush()?;
/// p.append([("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # Ok::<(), partd::Error>(())
/// ```
pub struct Buffer<Fast: MemoryStore, Slow: Partd> {
    fast: Fast,
    slow: Slow,
    limit_bytes: u64,
    state: RwLock<State>,
    isolate: Isolate,
}

/// What the lock guards beside the two stores.
#[derive(Default)]
struct State {
    /// Counts the times that the lock was held alone: what the stores hold may have moved.
    epoch: u64,
    deferred: DeferredSets,
    stats: BufferStats,
}

/// What a [`Buffer`] has passed on to its slow store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStats {
    /// Bytes of values that were written to the slow store.
    pub slow_bytes: u64,
    /// Batches that were written to the slow store.
    pub slow_batches: u64,
    /// Times that the buffer was emptied, wholly or to the half.
    pub flushes: u64,
}

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// A buffer that holds at most `limit_bytes` in `fast` before it moves them to `slow`.
    ///
    /// What either store holds already belongs to the buffer from now on; nothing else may
    /// write to `fast`. The bookkeeping while bytes are moved comes on top, a part of the limit.
    pub fn new(fast: Fast, slow: Slow, limit_bytes: u64) -> Buffer<Fast, Slow> {
        Buffer { fast, slow, limit_bytes, state: RwLock::default(), isolate: Isolate::new() }
    }

    /// The memory that the buffer may hold, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The store in memory.
    pub fn fast(&self) -> &Fast {
        &self.fast
    }

    /// The slow store.
    pub fn slow(&self) -> &Slow {
        &self.slow
    }

    /// The memory that the buffer holds, in bytes: keys, values, and sets that are not settled.
    pub fn memory_bytes(&self) -> u64 {
        self.held_bytes(&self.shared())
    }

    /// What has gone to the slow store so far.
    pub fn stats(&self) -> BufferStats {
        self.shared().stats
    }

    /// Moves all that is buffered to the slow store.
    ///
    /// # Errors
    ///
    /// Those of the slow store; what could not be moved stays buffered.
    pub fn flush(&self) -> Result<()> {
        self.drain(&mut self.alone(), 0)
    }

    /// Gives the slow store back what was taken from it.
    fn put_back(&self, keys: &[Key], values: &[Vec<u8>]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in keys.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            batch.append(key, value);
        }
        self.isolate.run(|| self.slow.write(&batch, Durability::Plain))
    }

    fn shared(&self) -> RwLockReadGuard<'_, State> {
        // A store that panics leaves the bytes where they were, and the state is changed after it.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, State> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.epoch += 1;
        state
    }

    /// The lock, shared, with no set pending for any of the keys: the stores hold all of them.
    fn settled(&self, keys: &[Key]) -> Result<RwLockReadGuard<'_, State>> {
        loop {
            let state = self.shared();
            if !state.deferred.has_any(keys) {
                return Ok(state);
            }
            drop(state);
            self.settle(&mut self.alone(), keys)?;
        }
    }

    /// Puts a batch of appends into `fast`; sets may be in it where one is pending already.
    fn buffer(&self, state: &State, batch: &Batch<'_>) -> Result<Fit> {
        let mut void_sets = 0;
        for op in batch.ops() {
            match op {
                Op::Append(..) => {}
                Op::Set(key, _) if state.deferred.has(key) => void_sets += 1,
                Op::Set(..) => return Ok(Fit::NotShared),
                Op::Delete(_) | Op::Clear => return Ok(Fit::Never),
            }
        }
        let limit_bytes = self.limit_bytes.saturating_sub(state.deferred.memory_bytes());
        let fits = if void_sets == 0 {
            self.fast.write_within(batch, limit_bytes)?
        } else {
            let mut appends = Batch::with_capacity(batch.ops().len() - void_sets);
            for op in batch.ops().iter().filter(|op| matches!(op, Op::Append(..))) {
                appends.push(op.clone());
            }
            self.fast.write_within(&appends, limit_bytes)?
        };
        Ok(if fits { Fit::Buffered } else { Fit::NoRoom })
    }

    /// Puts a batch of appends and sets into the buffer, where its sets may become pending.
    fn buffer_alone(&self, state: &mut State, batch: &Batch<'_>) -> Result<Fit> {
        let Some(new) = self.new_deferred(state, batch)? else { return Ok(Fit::Never) };
        let deferred_bytes = state.deferred.memory_bytes_with(&new);
        if self.fast.memory_bytes() + deferred_bytes > self.limit_bytes {
            return Ok(Fit::NoRoom);
        }
        for &(key, value) in &new {
            state.deferred.insert(key, value);
        }
        let fit = self.buffer(state, batch);
        if !matches!(fit, Ok(Fit::Buffered)) {
            new.iter().for_each(|(key, _)| state.deferred.remove(key));
        }
        fit
    }

    /// The sets of a batch that would become pending; none where the batch cannot be buffered:
    /// it removes something, or sets what has been appended to in the buffer.
    fn new_deferred<'b>(&self, state: &State, batch: &'b Batch<'_>) -> Result<Option<Sets<'b>>> {
        let mut seen = HashMap::<&Key, bool, RandomState>::default();
        let mut new = Vec::new();
        for op in batch.ops() {
            match op {
                Op::Append(key, _) => drop(seen.entry(key).or_insert(false)),
                Op::Set(key, _) if state.deferred.has(key) => {}
                Op::Set(key, value) => match seen.insert(key, true) {
                    None => new.push((key, *value)),
                    Some(true) => {}
                    Some(false) => return Ok(None),
                },
                Op::Delete(_) | Op::Clear => return Ok(None),
            }
        }
        let keys: Vec<Key> = new.iter().map(|(key, _)| Key::clone(key)).collect();
        let buffered = self.fast.present(&keys)?;
        Ok((!buffered.contains(&true)).then_some(new))
    }

    fn held_bytes(&self, state: &State) -> u64 {
        self.fast.memory_bytes() + state.deferred.memory_bytes()
    }

    /// What `read` finds in the slow store about the keys, and the lock, shared, with which it is true.
    ///
    /// The lock is taken after a read and not for it: a long one stops no flush, and a rayon worker
    /// that waits for its share of it and takes on another task meanwhile holds no lock.
    fn read_slow<T: Send>(
        &self,
        keys: &[Key],
        read: impl Fn(&Slow) -> Result<T> + Sync,
    ) -> Result<(T, RwLockReadGuard<'_, State>)> {
        for _ in 0..UNLOCKED_READS {
            let epoch = self.settled(keys)?.epoch;
            let found = read(&self.slow)?;
            let state = self.shared();
            if state.epoch == epoch {
                return Ok((found, state));
            }
        }
        let state = self.settled(keys)?;
        Ok((self.isolate.run(|| read(&self.slow))?, state))
    }
}

/// Sets of a batch: keys and values.
type Sets<'b> = Vec<(&'b Key, &'b [u8])>;

/// Whether a batch is in the buffer now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It is.
    Buffered,
    /// It would be if there were room.
    NoRoom,
    /// It cannot be with the lock shared: a set would have to become pending.
    NotShared,
    /// It has to go to the slow store.
    Never,
}

impl<Fast: MemoryStore, Slow: Partd> Partd for Buffer<Fast, Slow> {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        // What `slow` will never take must not be buffered, nor written and then not promised.
        self.check(durability)?;
        if durability == Durability::Durable {
            let mut state = self.alone();
            self.drain(&mut state, 0)?;
            self.write_through(&mut state, batch)?;
            // Outside the lock, so that the syncs of several threads can be one.
            drop(state);
            return self.slow.sync();
        }
        if self.buffer(&self.shared(), batch)? == Fit::Buffered {
            return Ok(());
        }
        let mut state = self.alone();
        if batch.value_bytes() <= self.limit_bytes / 2 {
            match self.buffer_alone(&mut state, batch)? {
                Fit::Buffered => return Ok(()),
                Fit::NoRoom => {
                    self.drain(&mut state, self.limit_bytes / 2)?;
                    if self.buffer_alone(&mut state, batch)? == Fit::Buffered {
                        return Ok(());
                    }
                }
                Fit::NotShared | Fit::Never => {}
            }
        }
        self.write_through(&mut state, batch)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let (mut values, _state) = self.read_slow(keys, |slow| slow.read(keys))?;
        self.fast.visit(keys, &mut |fast| {
            for (value, pieces) in values.iter_mut().zip(fast) {
                value.reserve_exact(pieces.iter().map(|piece| piece.len()).sum());
                pieces.iter().for_each(|piece| value.extend_from_slice(piece));
            }
            Ok(())
        })?;
        Ok(values)
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let mut state = self.alone();
        self.settle(&mut state, keys)?;
        let mut values = self.isolate.run(|| self.slow.take(keys))?;
        let fast = match self.fast.take(keys) {
            Ok(fast) => fast,
            Err(error) => {
                // What the fast store holds still comes behind them.
                self.put_back(keys, &values)?;
                return Err(error);
            }
        };
        for (value, buffered) in values.iter_mut().zip(fast) {
            if value.is_empty() {
                *value = buffered;
            } else {
                value.extend_from_slice(&buffered);
            }
        }
        Ok(values)
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        let (slow, _state) = self.read_slow(keys, |slow| slow.lens(keys))?;
        let both = slow.into_iter().zip(self.fast.lens(keys)?).map(|lens| match lens {
            (Some(slow), Some(fast)) => Some(slow + fast),
            (slow, fast) => slow.or(fast),
        });
        Ok(both.collect())
    }

    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        let (slow, _state) = self.read_slow(keys, |slow| slow.present(keys))?;
        let both = slow.into_iter().zip(self.fast.present(keys)?);
        Ok(both.map(|(slow, fast)| slow || fast).collect())
    }

    fn keys(&self) -> Result<Vec<Key>> {
        let (mut keys, state) = self.read_slow(&[], Slow::keys)?;
        keys.extend(self.fast.keys()?);
        keys.extend(state.deferred.keys());
        drop(state);
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        self.flush()?;
        self.slow.sync()
    }

    fn check(&self, durability: Durability) -> Result<()> {
        self.slow.check(durability)
    }
}

impl<Fast: MemoryStore, Slow: Partd> Drop for Buffer<Fast, Slow> {
    fn drop(&mut self) {
        // The documentation says so: whoever wants the error calls `flush`.
        let _ = self.flush();
    }
}

impl<Fast: MemoryStore, Slow: Partd> fmt::Debug for Buffer<Fast, Slow> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared();
        f.debug_struct("Buffer")
            .field("limit_bytes", &self.limit_bytes)
            .field("held_bytes", &self.held_bytes(&state))
            .field("stats", &state.stats)
            .finish_non_exhaustive()
    }
}
