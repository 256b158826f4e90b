//! Views through a buffer: the bytes buffered for the keys move to the slow store, which then lends
//! the whole values.
//!
//! A view made of both stores would have to pin memory of the fast one, outside of every limit and
//! budget. The move costs one write of the buffered bytes, which a flush would make later anyway.

use super::join::UNLOCKED_READS;
use super::{Buffer, State};
use crate::lend::Lend;
use crate::partd::MemoryStore;
use crate::{Key, Result};

impl<Fast: MemoryStore, Slow: Lend> Buffer<Fast, Slow> {
    /// Makes sure that nothing is buffered for the keys, and returns the epoch in which that held.
    fn lowered(&self, keys: &[Key]) -> Result<u64> {
        let state = self.shared();
        if !state.deferred.has_any(keys) && !self.fast.present(keys)?.contains(&true) {
            return Ok(state.epoch);
        }
        drop(state);
        let mut state = self.alone();
        self.lower(&mut state, keys)?;
        Ok(state.epoch)
    }

    /// Moves everything buffered for the keys to the slow store.
    fn lower(&self, state: &mut State, keys: &[Key]) -> Result<()> {
        let buffered = keys.iter().zip(self.fast.present(keys)?);
        let buffered = buffered.filter(|(key, present)| *present || state.deferred.has(key));
        let mut keys: Vec<Key> = buffered.map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let moved = self.move_keys(state, &keys);
        self.release(state, self.memory.step_bytes());
        moved
    }
}

impl<Fast: MemoryStore, Slow: Lend> Lend for Buffer<Fast, Slow> {
    type View = Slow::View;

    fn lend(&self, keys: &[Key]) -> Result<Vec<Slow::View>> {
        // The slow store checks the values outside the lock. If bytes moved meanwhile, the views
        // are taken again, since a move of several keys is not one step of the slow store. Appends
        // that are still in `fast` came later than the views.
        for _ in 0..UNLOCKED_READS {
            let epoch = self.lowered(keys)?;
            let views = self.slow.lend(keys)?;
            if self.shared().epoch == epoch {
                return Ok(views);
            }
        }
        let mut state = self.alone();
        self.lower(&mut state, keys)?;
        self.isolate.run(|| self.slow.lend(keys))
    }
}
