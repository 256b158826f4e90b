//! Reads that join what the slow store and the fast store have of each value.

use std::sync::RwLockReadGuard;

use super::{Buffer, State};
use crate::partd::{Chunks, MemoryStore, Partd};
use crate::{Key, Result, threads};

/// The number of attempts to read `slow` outside the lock; the next one is made under it.
pub(super) const UNLOCKED_READS: usize = 4;
/// Below this many bytes of the fast store, one thread copies them.
const PARALLEL_MIN_BYTES: usize = 1 << 20;
/// The keys are divided into more parts than there are threads, since their values differ in length.
const PARTS_PER_THREAD: usize = 8;
/// The most bytes that are lent under the lock.
const LENT_MAX_BYTES: usize = 4 << 20;

impl<Fast: MemoryStore, Slow: Partd> Buffer<Fast, Slow> {
    /// Returns the values of the keys.
    pub(super) fn read_joined(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        // More bytes may come before the lock is taken; the vectors then grow.
        let room = self.fast.known_lens(keys);
        let (mut values, _state) = self.read_slow(keys, |slow| slow.read_with_room(keys, &room))?;
        self.add_fast(keys, &mut values)?;
        Ok(values)
    }

    /// Lends the values of the keys: a copy of what the slow store has, and the pieces of the fast
    /// store. The shared lock is held during `visit`, unless `visit` may take long because there is
    /// much to lend; then it gets copies.
    pub(super) fn visit_joined(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let mut visit_copies = |values: Vec<Vec<u8>>| {
            visit(&values.iter().map(|value| vec![&value[..]]).collect::<Vec<Chunks<'_>>>())
        };
        let fast_bytes: usize = self.fast.known_lens(keys).iter().sum();
        if fast_bytes > LENT_MAX_BYTES {
            return visit_copies(self.read_joined(keys)?);
        }
        let (mut values, state) = self.read_slow(keys, |slow| slow.read(keys))?;
        if values.iter().map(Vec::len).sum::<usize>() + fast_bytes > LENT_MAX_BYTES {
            self.add_fast(keys, &mut values)?;
            drop(state);
            return visit_copies(values);
        }
        self.fast.visit(keys, &mut |fast| {
            let joined = values.iter().zip(fast).map(|(value, pieces)| {
                let slow = (!value.is_empty()).then_some(&value[..]);
                slow.into_iter().chain(pieces.iter().copied()).collect()
            });
            visit(&joined.collect::<Vec<Chunks<'_>>>())
        })
    }

    /// Adds what the fast store has of each value, many bytes on several threads. The caller holds the
    /// lock. The tasks of the pool take no lock, so they may run on any of its waiting threads.
    fn add_fast(&self, keys: &[Key], values: &mut [Vec<u8>]) -> Result<()> {
        self.fast.visit(keys, &mut |fast| {
            let bytes: usize = fast.iter().flatten().map(|piece| piece.len()).sum();
            if bytes < PARALLEL_MIN_BYTES {
                values.iter_mut().zip(fast).for_each(add);
                return Ok(());
            }
            self.isolate.run(|| {
                threads::spread(None, |team| {
                    let some = values.len().div_ceil(team.threads() * PARTS_PER_THREAD);
                    let parts = values.chunks_mut(some).zip(fast.chunks(some)).collect();
                    team.in_order(parts, |_, (values, fast): (&mut [Vec<u8>], &[Chunks<'_>])| {
                        values.iter_mut().zip(fast).for_each(add);
                        Ok(())
                    })
                })
            })
        })
    }

    /// Calls `read` on the slow store, and returns the result with the shared lock under which it
    /// is current.
    ///
    /// The lock is taken after the read, so a long read blocks no flush. A rayon worker that waits
    /// for the read may run another task, and holds no lock meanwhile.
    pub(super) fn read_slow<T: Send>(
        &self,
        keys: &[Key],
        read: impl Fn(&Slow) -> Result<T> + Sync,
    ) -> Result<(T, RwLockReadGuard<'_, State>)> {
        for _ in 0..UNLOCKED_READS {
            let epoch = self.without_deferred(keys)?.epoch;
            let found = read(&self.slow)?;
            let state = self.shared();
            if state.epoch == epoch {
                return Ok((found, state));
            }
        }
        let state = self.without_deferred(keys)?;
        Ok((self.isolate.run(|| read(&self.slow))?, state))
    }
}

/// Adds the pieces of the fast store to what the slow store has of a value.
fn add((value, pieces): (&mut Vec<u8>, &Chunks<'_>)) {
    value.reserve_exact(pieces.iter().map(|piece| piece.len()).sum());
    pieces.iter().for_each(|piece| value.extend_from_slice(piece));
}
