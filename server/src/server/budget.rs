//! The memory budget of requests and answers: for one connection, and for all of them together.
//!
//! Invariant: all connections together hold at most the limit, except that one of them at a time
//! may exceed it. Without this exception, connections that have each received half of a message
//! could block each other for ever. The connection's own limit and the timeout for a message bound
//! the excess.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::net::account::Account;
use crate::net::error::ChannelError;

/// How much each connection may hold uncounted: enough for one read of its socket.
pub(crate) const FREE_BYTES: u64 = 128 << 10;

/// The most memory of sent answers that is kept for the next ones, in bytes. In new memory, every
/// 4 KiB cost a page fault, which takes longer than copying as many bytes.
const SPARE_MAX_BYTES: usize = 16 << 20;
/// Less memory than this is not worth keeping.
const SPARE_MIN_BYTES: usize = 64 << 10;

/// The memory budget of all connections.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    state: Mutex<State>,
    freed: Condvar,
    /// The memory of answers that were sent.
    spare: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    /// Whether a connection exceeds the limit.
    has_overflow: bool,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Budget> {
        let (state, freed, spare) = (Mutex::default(), Condvar::new(), Mutex::default());
        Arc::new(Budget { limit, state, freed, spare })
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes that are kept for answers.
    #[cfg(test)]
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spare().iter().map(Vec::capacity).sum()
    }

    /// Frees half of the memory that is kept for answers, that used longest ago first. Called once a
    /// second, so that an idle server soon has none.
    pub(crate) fn tick(&self) {
        let mut spare = self.spare();
        let half = spare.len().div_ceil(2);
        let freed: Vec<_> = spare.drain(..half).collect();
        drop(spare);
        drop(freed);
    }

    /// Returns the counted bytes that all connections hold.
    pub(crate) fn held(&self) -> u64 {
        self.state().held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that changes the state can panic halfway, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that one connection holds. Released on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    /// The most bytes that this connection may hold.
    limit: u64,
    /// The bytes counted in the budget: the input, and the operations of the current request.
    counted: u64,
    input: u64,
    is_overflow: bool,
}

impl Charge {
    pub(crate) fn new(budget: &Arc<Budget>, limit: u64) -> Charge {
        Charge { budget: Arc::clone(budget), limit, counted: 0, input: 0, is_overflow: false }
    }

    /// Holds `bytes` in addition to the input, until the next [`hold`](Account::hold).
    ///
    /// A separate charge could deadlock: it would wait for the connection that exceeds the limit,
    /// which may be this one.
    pub(crate) fn hold_beside(
        &mut self,
        bytes: u64,
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        self.set_counted(self.input.saturating_add(bytes), deadline)
    }

    /// Makes a separate charge that holds `bytes` for an answer, or returns `None` if there is no
    /// room now.
    pub(crate) fn answer(&self, bytes: u64) -> Option<Charge> {
        let mut charge = Charge::new(&self.budget, self.limit);
        if bytes > FREE_BYTES {
            let mut state = self.budget.state();
            let fits = state.held.saturating_add(bytes) <= self.budget.limit
                && self.counted.saturating_add(bytes) <= self.limit;
            if !fits {
                return None;
            }
            state.held += bytes;
            charge.counted = bytes;
        }
        Some(charge)
    }

    /// Returns empty memory with room for `bytes`, perhaps that of an earlier answer. All of that is
    /// then counted.
    pub(crate) fn memory(&mut self, bytes: usize) -> Vec<u8> {
        if bytes >= SPARE_MIN_BYTES {
            let mut spare = self.budget.spare();
            if let Some(position) = spare.iter().rposition(|memory| memory.capacity() >= bytes) {
                let capacity = spare[position].capacity() as u64;
                let mut state = self.budget.state();
                let held = state.held - self.counted + capacity;
                if held <= self.budget.limit && capacity <= self.limit {
                    (state.held, self.counted) = (held, capacity);
                    return spare.swap_remove(position);
                }
            }
        }
        Vec::with_capacity(bytes)
    }

    /// Keeps the memory of an answer that was sent, if there is room for it.
    pub(crate) fn keep(&self, mut memory: Vec<u8>) {
        memory.clear();
        let mut spare = self.budget.spare();
        let kept: usize = spare.iter().map(Vec::capacity).sum();
        if (SPARE_MIN_BYTES..=SPARE_MAX_BYTES.saturating_sub(kept)).contains(&memory.capacity()) {
            spare.push(memory);
        }
    }
}

impl Account for Charge {
    fn hold(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError> {
        self.input = bytes;
        self.set_counted(bytes, deadline)
    }
}

impl Charge {
    /// Sets the counted bytes. Waits until `deadline` if there is no room.
    fn set_counted(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError> {
        let bytes = if bytes <= FREE_BYTES { 0 } else { bytes };
        if bytes == self.counted {
            return Ok(());
        }
        if bytes > self.limit {
            return Err(ChannelError::NoRoom("more bytes in flight than one client may have"));
        }
        let mut state = self.budget.state();
        if bytes < self.counted {
            state.held -= self.counted - bytes;
            self.counted = bytes;
            if self.is_overflow && state.held <= self.budget.limit {
                state.has_overflow = false;
                self.is_overflow = false;
            }
            self.budget.freed.notify_all();
            return Ok(());
        }
        loop {
            let held = state.held + (bytes - self.counted);
            if held > self.budget.limit && !self.is_overflow {
                if state.has_overflow {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ChannelError::NoRoom(
                            "the requests of other clients left no room in memory",
                        ));
                    }
                    let waited = self.budget.freed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                state.has_overflow = true;
                self.is_overflow = true;
            }
            state.held = held;
            self.counted = bytes;
            return Ok(());
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.held -= self.counted;
        if self.is_overflow {
            state.has_overflow = false;
        }
        drop(state);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_dropped_charge_is_released_and_one_connection_may_exceed_the_limit() {
        let budget = Budget::new(4 * MIB);
        let now = Instant::now();
        let mut first = Charge::new(&budget, 8 * MIB);
        let mut second = Charge::new(&budget, 8 * MIB);
        let mut third = Charge::new(&budget, 8 * MIB);
        first.hold(3 * MIB, now).unwrap();
        second.hold(6 * MIB, now).unwrap();
        assert!(matches!(third.hold(MIB, now), Err(ChannelError::NoRoom(_))));
        assert!(matches!(second.hold(9 * MIB, now), Err(ChannelError::NoRoom(_))));
        assert!(third.answer(MIB).is_none());
        third.hold(FREE_BYTES, now).unwrap();
        drop(second);
        third.hold(MIB, now).unwrap();
        drop((first, third));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_connection_that_exceeds_the_limit_does_not_wait_for_itself() {
        let budget = Budget::new(MIB);
        let mut charge = Charge::new(&budget, 8 * MIB);
        charge.hold(2 * MIB, Instant::now()).unwrap();
        charge.hold_beside(MIB, Instant::now()).unwrap();
        assert_eq!(budget.held(), 3 * MIB);
        assert!(charge.hold_beside(7 * MIB, Instant::now()).is_err());
        charge.hold(0, Instant::now()).unwrap();
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_waiting_connection_continues_when_another_releases_memory() {
        let budget = Budget::new(MIB);
        let mut first = Charge::new(&budget, 8 * MIB);
        first.hold(2 * MIB, Instant::now()).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut second = Charge::new(&budget, 8 * MIB);
                second.hold(MIB, Instant::now() + Duration::from_secs(30))
            });
            first.hold(0, Instant::now()).unwrap();
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(budget.held(), 0);
    }
}
