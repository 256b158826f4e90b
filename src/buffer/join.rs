//! Reads that join what the slow store and the fast store have of each value.

use super::Buffer;
use crate::partd::{Chunks, MemoryStore, Partd};
use crate::{Key, Result};

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// Returns the values of the keys.
    pub(super) fn read_joined(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        // More bytes may come before the lock is taken; the vectors then grow.
        let room = self.fast.known_lens(keys);
        let (mut values, _state) = self.read_slow(keys, |slow| slow.read_with_room(keys, &room))?;
        self.fast.visit(keys, &mut |fast| {
            for (value, pieces) in values.iter_mut().zip(fast) {
                value.reserve_exact(pieces.iter().map(|piece| piece.len()).sum());
                pieces.iter().for_each(|piece| value.extend_from_slice(piece));
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// Lends the values of the keys: a copy of what the slow store has, and the pieces of the fast
    /// store. The shared lock is held during `visit`.
    pub(super) fn visit_joined(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let (values, _state) = self.read_slow(keys, |slow| slow.read(keys))?;
        self.fast.visit(keys, &mut |fast| {
            let joined = values.iter().zip(fast).map(|(value, pieces)| {
                let slow = (!value.is_empty()).then_some(&value[..]);
                slow.into_iter().chain(pieces.iter().copied()).collect()
            });
            visit(&joined.collect::<Vec<Chunks<'_>>>())
        })
    }
}
