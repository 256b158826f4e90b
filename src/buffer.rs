//! `Buffer`: a fast store in front of a slower one, within a memory limit.
//!
//! Invariant: a key's value is the value in `slow`, then its deferred set, then the value in
//! `fast`. A batch written to `slow` therefore also carries everything buffered for the keys it
//! touches.
//!
//! One lock orders all operations. Plain appends hold it shared: `fast` has its own lock and keeps
//! the memory limit. Operations that move or remove bytes hold it exclusively. A long read of
//! `slow` runs outside the lock and is repeated if bytes moved in the meantime.
//!
//! Only `slow` can tell whether a key was set before. A set of a key that has nothing in `fast` is
//! *deferred*: `slow` decides it at the next flush of that key. Sets after a deferred set are void.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::partd::{Batch, Chunks, Durability, MemoryStore, Partd};
use crate::threads::LentPool;
use crate::{Key, Result};

mod admission;
mod budget;
mod deferred_sets;
mod fit;
mod flush;
mod isolate;
mod join;
mod view;

use budget::Reservation;
pub use budget::{FixedBudget, MemoryBudget};
use deferred_sets::DeferredSets;
use fit::Fit;
use isolate::Isolate;

/// A layer that collects appends in memory and moves them to a slower store in large batches.
///
/// `Fast` is a store in memory, such as [`Dict`](crate::Dict); `Slow` is where the bytes end up.
/// The buffer holds at most `limit_bytes` of memory, as [`MemoryStore::memory_bytes`] counts it,
/// under any number of threads. An append that finds no room first moves the keys with the longest
/// values to `Slow`, until half of the limit is free; with a [budget](Buffer::with_budget), half of
/// what is reserved. Without a budget, the freed memory is kept for later appends until
/// [`flush`](Buffer::flush) or [`shrink_to`](Buffer::shrink_to). A batch too large to be buffered,
/// and every removal, goes straight to `Slow`.
///
/// If `Slow` can [lend](crate::Lend) values, the buffer can too: [`view`](crate::Lend::view) moves
/// what is buffered for its key to `Slow` first.
///
/// Threads can share a buffer, but its batches are applied one after the other: two threads fill it
/// hardly faster than one. Threads that only append are faster with a buffer each over one store, as in
/// `Buffer::new(Dict::new(), &log, limit_bytes)`. A read then sees what its own buffer holds and what
/// the others have flushed, and batches are no longer atomic across keys. The limits add up; a shared
/// [budget](Buffer::with_budget) bounds all together. A large flush writes several batches to `Slow`
/// at a time, on up to four threads of its own.
///
/// Operations are atomic and linearizable inside the process. After a flush, other processes see
/// the bytes, and they survive a crash. [`flush`](Buffer::flush), [`sync`](Partd::sync) and
/// [`append_durable`](Partd::append_durable) flush, and so does dropping the buffer. A drop cannot
/// report an error, so call [`flush`](Buffer::flush) first.
///
/// # Errors
///
/// If `Slow` fails, nothing is lost: the bytes that could not be moved stay buffered, and the
/// operation that needed the room returns the error without effect and can be repeated. The one
/// exception is a durable append whose final sync fails: it has happened, but may not be durable.
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
    memory: Reservation,
    state: RwLock<State>,
    isolate: Isolate,
}

/// The state that the lock guards, besides the two stores.
#[derive(Default)]
struct State {
    /// The number of times that the lock was held exclusively. If it is unchanged, no bytes moved.
    epoch: u64,
    deferred: DeferredSets,
    stats: BufferStats,
}

/// Counters of what a [`Buffer`] has written to its slow store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStats {
    /// Bytes of values written to the slow store.
    pub slow_bytes: u64,
    /// Batches written to the slow store.
    pub slow_batches: u64,
    /// Flushes, of everything or down to a part of the limit.
    pub flushes: u64,
}

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// Creates a buffer that holds at most `limit_bytes` in `fast` before it moves them to `slow`.
    ///
    /// Keys that the stores already hold become part of the buffer. Nothing else may write to
    /// `fast` from then on. A flush needs memory beyond the limit, a small fraction of it.
    #[must_use]
    pub fn new(fast: Fast, slow: Slow, limit_bytes: u64) -> Buffer<Fast, Slow> {
        Buffer::with_reservation(fast, slow, Reservation::new(limit_bytes, None))
    }

    /// Creates a buffer that reserves the memory it holds from `budget`, at most `limit_bytes`.
    ///
    /// If the budget refuses to grow, the buffer moves its largest values to `slow`. It does so
    /// here if `fast` already holds more than the budget grants; if that fails, the next append
    /// that needs room reports the error. [`flush`](Buffer::flush) and
    /// [`shrink_to`](Buffer::shrink_to) return what they free to the budget, and dropping the
    /// buffer returns the rest.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use partd::{Buffer, Dict, FixedBudget, Partd};
    /// let budget = Arc::new(FixedBudget::new(1 << 20));
    /// let one = Buffer::with_budget(Dict::new(), Dict::new(), 1 << 20, Arc::clone(&budget));
    /// let two = Buffer::with_budget(Dict::new(), Dict::new(), 1 << 20, Arc::clone(&budget));
    /// one.append([("x", vec![1; 300_000])])?;
    /// two.append([("x", vec![2; 300_000])])?;
    /// assert!(budget.used_bytes() >= 600_000);
    /// one.shrink_to(0)?;
    /// assert!(budget.used_bytes() < 500_000);
    /// assert_eq!(one.get("x")?, vec![1; 300_000]);
    /// # Ok::<(), partd::Error>(())
    /// ```
    #[must_use]
    pub fn with_budget(
        fast: Fast,
        slow: Slow,
        limit_bytes: u64,
        budget: impl MemoryBudget + 'static,
    ) -> Buffer<Fast, Slow> {
        let memory = Reservation::new(limit_bytes, Some(Box::new(budget)));
        let buffer = Buffer::with_reservation(fast, slow, memory);
        let held_bytes = buffer.fast.memory_bytes();
        while buffer.memory.allowed_bytes() < held_bytes && buffer.memory.grow(held_bytes) {}
        let allowed_bytes = buffer.memory.allowed_bytes();
        if allowed_bytes < held_bytes {
            // Values that cannot be moved stay, and the next append that needs room tries again.
            let _ = buffer.shrink_to(allowed_bytes);
        }
        buffer
    }

    fn with_reservation(fast: Fast, slow: Slow, memory: Reservation) -> Buffer<Fast, Slow> {
        Buffer { fast, slow, memory, state: RwLock::default(), isolate: Isolate::new() }
    }

    /// Returns the memory limit in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.memory.limit_bytes()
    }

    /// Returns the store in memory.
    #[must_use]
    pub fn fast(&self) -> &Fast {
        &self.fast
    }

    /// Returns the slow store.
    #[must_use]
    pub fn slow(&self) -> &Slow {
        &self.slow
    }

    /// Returns the memory that the buffer takes, in bytes: keys, values, deferred sets, and what it
    /// keeps for the appends to come.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.total_bytes(&self.shared())
    }

    /// Returns what was written to the slow store so far.
    #[must_use]
    pub fn stats(&self) -> BufferStats {
        self.shared().stats
    }

    /// Moves everything buffered to the slow store.
    ///
    /// # Errors
    ///
    /// Those of the slow store. The bytes that could not be moved stay buffered.
    pub fn flush(&self) -> Result<()> {
        self.shrink_to(0)
    }

    /// Moves the largest values to the slow store until the buffer holds at most `bytes`.
    ///
    /// An engine calls it when it needs the memory elsewhere; the bytes go back to the budget. It
    /// waits for the buffer's lock, under which other threads call the budget, so the caller must
    /// hold no lock that the budget takes.
    ///
    /// # Errors
    ///
    /// Those of the slow store; the bytes that could not be moved stay buffered.
    pub fn shrink_to(&self, bytes: u64) -> Result<()> {
        let mut state = self.alone();
        let result = self.shrink(&mut state, bytes);
        self.release(&state, 0);
        result
    }

    /// Buffers a batch, flushing first if there is no room, or writes it to the slow store.
    fn write_exclusive(&self, state: &mut State, batch: &Batch<'_>) -> Result<Fit> {
        if batch.value_bytes() <= self.limit_bytes() / 2 {
            match self.buffer_exclusive(state, batch)? {
                Fit::Buffered => return Ok(Fit::Buffered),
                Fit::NoRoom => {
                    self.drain(state, self.memory.allowed_bytes() / 2)?;
                    if self.buffer_exclusive(state, batch)? == Fit::Buffered {
                        return Ok(Fit::Buffered);
                    }
                    // The spare memory may be in blocks that are too small.
                    self.fast.release_spare();
                    if self.buffer_exclusive(state, batch)? == Fit::Buffered {
                        return Ok(Fit::Buffered);
                    }
                }
                Fit::NotShared | Fit::Never => {}
            }
        }
        self.write_through(state, batch)?;
        Ok(Fit::Never)
    }

    fn take_exclusive(&self, state: &mut State, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.apply_deferred(state, keys)?;
        let mut values = self.isolate.run(|| self.slow.take(keys))?;
        let fast = match self.fast.take(keys) {
            Ok(fast) => fast,
            Err(error) => {
                // The fast store still holds the later bytes of each key.
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

    /// Appends values to the slow store again, from which they were taken.
    fn put_back(&self, keys: &[Key], values: &[Vec<u8>]) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in keys.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            batch.append(key, value);
        }
        self.isolate.run(|| self.slow.write(&batch, Durability::Plain))
    }

    fn shared(&self) -> RwLockReadGuard<'_, State> {
        // The state changes only after a call to a store returns, or has panicked and the panic was
        // caught, so a panic leaves it whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, State> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.epoch += 1;
        state
    }

    /// Returns the shared lock, with no set deferred for any of the keys.
    fn without_deferred(&self, keys: &[Key]) -> Result<RwLockReadGuard<'_, State>> {
        loop {
            let state = self.shared();
            if !state.deferred.has_any(keys) {
                return Ok(state);
            }
            drop(state);
            let mut state = self.alone();
            let settled = self.apply_deferred(&mut state, keys);
            self.release(&state, self.memory.step_bytes());
            settled?;
        }
    }

    /// Moves everything buffered to the slow store. Without a budget, keeps the memory for the appends
    /// to come.
    fn drain_all(&self, state: &mut State) -> Result<()> {
        let drained = self.drain(state, 0);
        self.release(state, 0);
        drained
    }

    /// Returns to the budget what is reserved beyond the memory taken plus `more_bytes`.
    fn release(&self, state: &State, more_bytes: u64) {
        if self.memory.has_budget() {
            // Spare memory is for the other consumers. Releasing it may visit every key, so allow
            // `more_bytes` of it.
            if self.fast.spare_bytes() > more_bytes {
                self.fast.release_spare();
            }
            self.memory.release_above(self.total_bytes(state).saturating_add(more_bytes));
        }
    }

    /// Returns the memory that the buffer takes.
    fn total_bytes(&self, state: &State) -> u64 {
        self.fast.memory_bytes() + state.deferred.memory_bytes()
    }

    /// Returns the memory of what is buffered, without what is spare.
    fn held_bytes(&self, state: &State) -> u64 {
        self.total_bytes(state).saturating_sub(self.fast.spare_bytes())
    }
}

impl<Fast: MemoryStore, Slow: Partd> Partd for Buffer<Fast, Slow> {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        // Refuse early: do not buffer bytes that `slow` will never accept, and do not write a
        // durable batch that cannot be made durable.
        self.check(durability)?;
        if durability == Durability::Durable {
            let mut state = self.alone();
            self.drain_all(&mut state)?;
            self.write_through(&mut state, batch)?;
            // Sync outside the lock, so that several threads can share one sync.
            drop(state);
            return self.slow.sync();
        }
        if self.buffer_shared(batch)? == Fit::Buffered {
            return Ok(());
        }
        let mut state = self.alone();
        let written = self.write_exclusive(&mut state, batch);
        // After a buffered batch, keep the memory that the flush has freed: more appends
        // follow.
        if !matches!(written, Ok(Fit::Buffered)) {
            self.release(&state, self.memory.step_bytes());
        }
        written.map(drop)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.read_joined(keys)
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let mut state = self.alone();
        let taken = self.take_exclusive(&mut state, keys);
        self.release(&state, self.memory.step_bytes());
        taken
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
        self.keys_with(&Key::default())
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        let (mut keys, state) = self.read_slow(&[], |slow| slow.keys_with(prefix))?;
        keys.extend(self.fast.keys_with(prefix)?);
        keys.extend(state.deferred.keys_with(prefix));
        drop(state);
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        self.drain_all(&mut self.alone())?;
        self.slow.sync()
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        self.visit_joined(keys, visit)
    }

    fn check(&self, durability: Durability) -> Result<()> {
        self.slow.check(durability)
    }

    fn lent_pool(&self) -> Option<&LentPool> {
        self.slow.lent_pool()
    }
}

impl<Fast: MemoryStore, Slow: Partd> Drop for Buffer<Fast, Slow> {
    fn drop(&mut self) {
        // A drop cannot return the error; the documentation says to call `flush` first.
        let _ = self.flush();
    }
}

impl<Fast: MemoryStore, Slow: Partd> fmt::Debug for Buffer<Fast, Slow> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared();
        f.debug_struct("Buffer")
            .field("memory", &self.memory)
            .field("memory_bytes", &self.total_bytes(&state))
            .field("stats", &state.stats)
            .finish_non_exhaustive()
    }
}
