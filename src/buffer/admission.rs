//! Admission of a batch to the memory of a buffer, within the limit and the budget.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::fit::Fit;
use super::{Buffer, State};
use crate::partd::{Batch, MemoryStore, Op, Partd};
use crate::{Key, Result};

/// The sets of a batch: keys and values.
type Sets<'b> = Vec<(&'b Key, &'b [u8])>;

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// Puts a batch of appends into `fast`. It may set keys that already have a deferred set.
    fn buffer(&self, state: &State, batch: &Batch<'_>) -> Result<Fit> {
        let mut void_sets = 0;
        for op in batch.ops() {
            match op {
                Op::Append(..) => {}
                Op::Set(key, _) if state.deferred.has(key) => void_sets += 1,
                Op::Set(..) => return Ok(Fit::NotShared),
                Op::Delete(_) | Op::Clear | Op::DeletePrefix(_) => return Ok(Fit::Never),
            }
        }
        let limit_bytes = self.memory.allowed_bytes().saturating_sub(state.deferred.memory_bytes());
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

    /// Puts a batch of appends and sets into the buffer, and defers its sets if necessary.
    fn buffer_alone(&self, state: &mut State, batch: &Batch<'_>) -> Result<Fit> {
        let Some(new) = self.new_deferred(state, batch)? else { return Ok(Fit::Never) };
        let deferred_bytes = state.deferred.memory_bytes_with(&new);
        let exceeds = || self.fast.memory_bytes() + deferred_bytes > self.memory.allowed_bytes();
        if exceeds() {
            // Deferred sets cannot use the memory that the fast store keeps.
            self.fast.release_spare();
            if exceeds() {
                return Ok(Fit::NoRoom);
            }
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

    /// Puts a batch into the buffer under the shared lock. Reserves more memory for it as long as
    /// the budget grants some.
    pub(super) fn buffer_shared(&self, batch: &Batch<'_>) -> Result<Fit> {
        let state = self.shared();
        loop {
            let fit = self.buffer(&state, batch)?;
            if fit != Fit::NoRoom || !self.grow(&state, batch) {
                return Ok(fit);
            }
        }
    }

    /// Puts a batch into the buffer under the exclusive lock, and defers its sets if necessary.
    pub(super) fn buffer_exclusive(&self, state: &mut State, batch: &Batch<'_>) -> Result<Fit> {
        loop {
            let fit = self.buffer_alone(state, batch)?;
            if fit != Fit::NoRoom || !self.grow(state, batch) {
                return Ok(fit);
            }
        }
    }

    /// Reserves more memory for the batch. Returns whether the budget granted any. Reserves nothing
    /// if the batch would not fit in the whole limit either.
    fn grow(&self, state: &State, batch: &Batch<'_>) -> bool {
        /// A new key's share of a table and of the lists around it.
        const KEY_BYTES: u64 = 256;
        let value_bytes = batch.value_bytes();
        if self.held_bytes(state).saturating_add(value_bytes) > self.limit_bytes() {
            return false;
        }
        let batch_bytes = value_bytes + value_bytes / 4 + batch.ops().len() as u64 * KEY_BYTES;
        // The spare memory may be in blocks that are too small, so ask for one step at least.
        let needed_bytes = self.held_bytes(state) + batch_bytes;
        let next_step_bytes = self.memory.allowed_bytes() + self.memory.step_bytes();
        self.memory.grow(needed_bytes.max(next_step_bytes))
    }

    /// Returns the sets of a batch that would be deferred, or `None` if the batch cannot be
    /// buffered: it removes something, or it sets a key that has appends in the buffer.
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
                Op::Delete(_) | Op::Clear | Op::DeletePrefix(_) => return Ok(None),
            }
        }
        let keys: Vec<Key> = new.iter().map(|(key, _)| Key::clone(key)).collect();
        let buffered = self.fast.present(&keys)?;
        Ok((!buffered.contains(&true)).then_some(new))
    }
}
