//! The memory that a buffer may hold: its own limit, and a budget that it shares with others.
//!
//! Invariant: under the buffer's lock, the memory held is at most the memory reserved. The one
//! exception: `fast` already holds more than the budget grants when the buffer is created, and the
//! slow store fails to take the rest.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory that several consumers share, such as the memory pool of a query engine.
///
/// A [`Buffer`](crate::Buffer) reserves memory before it holds it, in steps of a part of its limit.
/// If the budget refuses, the buffer moves its largest values to its slow store, and writes a batch
/// that still does not fit directly to the slow store.
///
/// # Deadlocks
///
/// A buffer calls these methods under its lock. They must not wait for another thread, and must not
/// call any buffer of this budget. To get memory back, the budget refuses to grow, and its owner
/// calls [`shrink_to`](crate::Buffer::shrink_to) later, from a thread that holds no lock that these
/// methods take.
pub trait MemoryBudget: Send + Sync {
    /// Reserves `bytes` more bytes, or returns `false` and reserves nothing.
    fn try_grow(&self, bytes: u64) -> bool;

    /// Gives back `bytes` bytes that were reserved before. Must not fail.
    fn shrink(&self, bytes: u64);
}

impl<B: MemoryBudget + ?Sized> MemoryBudget for Arc<B> {
    fn try_grow(&self, bytes: u64) -> bool {
        (**self).try_grow(bytes)
    }

    fn shrink(&self, bytes: u64) {
        (**self).shrink(bytes);
    }
}

/// A budget of a fixed number of bytes. Several buffers share it in an [`Arc`].
#[derive(Debug)]
pub struct FixedBudget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl FixedBudget {
    /// Creates a budget of `limit_bytes`, all of them free.
    #[must_use]
    pub fn new(limit_bytes: u64) -> FixedBudget {
        FixedBudget { limit_bytes, used_bytes: AtomicU64::new(0) }
    }

    /// Returns the bytes that are reserved.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl MemoryBudget for FixedBudget {
    fn try_grow(&self, bytes: u64) -> bool {
        let grown = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit_bytes);
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }

    fn shrink(&self, bytes: u64) {
        // A caller that gives back more than it reserved must not make the count wrap around.
        let left = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }
}

/// The memory that a buffer has reserved from its budget, within its own limit.
pub(super) struct Reservation {
    limit_bytes: u64,
    /// `None` if the limit is the only bound.
    budget: Option<Box<dyn MemoryBudget>>,
    reserved_bytes: AtomicU64,
}

impl Reservation {
    pub(super) fn new(limit_bytes: u64, budget: Option<Box<dyn MemoryBudget>>) -> Reservation {
        Reservation { limit_bytes, budget, reserved_bytes: AtomicU64::new(0) }
    }

    /// Returns the buffer's own limit in bytes.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Returns whether the memory is shared with others.
    pub(super) fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Returns the bytes that the buffer may hold now.
    pub(super) fn allowed_bytes(&self) -> u64 {
        match self.budget {
            Some(_) => self.reserved_bytes.load(Ordering::Relaxed).min(self.limit_bytes),
            None => self.limit_bytes,
        }
    }

    /// Returns the step in which memory is reserved: small compared with the limit, but large
    /// enough that the budget is rarely asked.
    pub(super) fn step_bytes(&self) -> u64 {
        (self.limit_bytes / 64).clamp(16 << 10, 8 << 20)
    }

    /// Reserves more memory, so that the buffer may hold up to `needed_bytes`. Returns whether the
    /// budget granted any. Threads that call it at the same time stay within the limit together.
    pub(super) fn grow(&self, needed_bytes: u64) -> bool {
        let Some(budget) = &self.budget else { return false };
        let reserved_bytes = self.reserved_bytes.load(Ordering::Relaxed);
        let room = self.limit_bytes.saturating_sub(reserved_bytes);
        let missing = needed_bytes.saturating_sub(reserved_bytes).min(room);
        // Ask for a whole step first, then only for the missing bytes.
        let step = missing.max(self.step_bytes()).min(room);
        let granted = [step, missing].into_iter().find(|&n| n > 0 && budget.try_grow(n));
        let Some(granted) = granted else { return false };
        let reserved_bytes = self.reserved_bytes.fetch_add(granted, Ordering::Relaxed) + granted;
        // Another thread may have taken the same room meanwhile.
        let excess = reserved_bytes.saturating_sub(self.limit_bytes).min(granted);
        if excess > 0 {
            self.reserved_bytes.fetch_sub(excess, Ordering::Relaxed);
            budget.shrink(excess);
        }
        true
    }

    /// Gives everything above `held_bytes` back to the budget. The caller holds the buffer's lock
    /// exclusively.
    pub(super) fn release_above(&self, held_bytes: u64) {
        let Some(budget) = &self.budget else { return };
        let reserved_bytes = self.reserved_bytes.load(Ordering::Relaxed);
        if reserved_bytes > held_bytes {
            self.reserved_bytes.store(held_bytes, Ordering::Relaxed);
            budget.shrink(reserved_bytes - held_bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release_above(0);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("limit_bytes", &self.limit_bytes)
            .field("allowed_bytes", &self.allowed_bytes())
            .finish_non_exhaustive()
    }
}
