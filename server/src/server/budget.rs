//! The memory that requests and answers may take, of one connection and of all together.
//!
//! Invariant: what is held is at most the limit, plus what one connection holds beyond it. That one
//! gets what it asks for, so that messages of many connections that are all half there cannot block
//! each other for good; its own limit and the time for a message bound it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::net::account::Account;
use crate::net::error::ChannelError;

/// What each connection may hold without being counted: less than one read of its socket takes.
pub(crate) const FREE_BYTES: u64 = 128 << 10;

/// The memory of all connections.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    /// A connection holds more than there was room for.
    has_overflow: bool,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, state: Mutex::default(), freed: Condvar::new() })
    }

    /// Bytes that are held, without those that are not counted.
    pub(crate) fn held(&self) -> u64 {
        self.state().held
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can come between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    /// The most that this connection may hold.
    limit: u64,
    /// What is counted in the budget: the bytes of input, and those of a request's bookkeeping.
    counted: u64,
    input: u64,
    is_overflow: bool,
}

impl Charge {
    pub(crate) fn new(budget: &Arc<Budget>, limit: u64) -> Charge {
        Charge { budget: Arc::clone(budget), limit, counted: 0, input: 0, is_overflow: false }
    }

    /// Holds so much beside the input, until the connection asks for more input. It is the same
    /// account: another one would wait for a connection beyond the limit, which may be this one.
    pub(crate) fn hold_beside(
        &mut self,
        bytes: u64,
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        self.settle(self.input.saturating_add(bytes), deadline)
    }

    /// Another account of the same budget that holds `bytes` for an answer, if there is room now.
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
}

impl Account for Charge {
    fn hold(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError> {
        self.input = bytes;
        self.settle(bytes, deadline)
    }
}

impl Charge {
    /// Has so much counted; waits where there is no room.
    fn settle(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError> {
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
                            "there was no room in memory beside the requests of others",
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
    fn what_is_dropped_is_free_again_and_one_may_go_beyond_the_limit() {
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
    fn a_connection_beyond_the_limit_does_not_wait_for_itself() {
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
    fn a_connection_that_waits_goes_on_when_another_gives_back() {
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
