//! A memory pool of DataFusion as the budget of a `partd::Buffer`.

use std::sync::Arc;

use datafusion_execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use partd::MemoryBudget;

/// The memory of a [`partd::Buffer`], reserved in a memory pool of DataFusion.
///
/// The pool's limit then bounds operators and buffers together. If the pool refuses memory, the
/// buffer moves its largest values to disk. [`PartdSpill`](crate::PartdSpill) takes one too, with
/// [`memory_pool`](crate::PartdSpillBuilder::memory_pool).
///
/// ```
/// use std::sync::Arc;
/// use datafusion_execution::memory_pool::{GreedyMemoryPool, MemoryPool};
/// use partd::{Buffer, Dict, Partd, SegmentLog};
/// use partd_datafusion::ReservationBudget;
///
/// let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 20));
/// let budget = ReservationBudget::register(&pool, "shuffle");
/// let store = Buffer::with_budget(Dict::new(), SegmentLog::temporary()?, 64 << 20, budget);
/// store.append([("x", vec![7; 100_000])])?;
/// assert!(pool.reserved() >= 100_000);
/// store.append([("x", vec![7; 2_000_000])])?; // more than the pool has: goes to disk
/// assert!(pool.reserved() <= 1 << 20);
/// drop(store);
/// assert_eq!(pool.reserved(), 0);
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Debug)]
pub struct ReservationBudget {
    reservation: MemoryReservation,
}

impl ReservationBudget {
    /// Uses a reservation. Nobody else may grow or shrink it.
    #[must_use]
    pub fn new(reservation: MemoryReservation) -> ReservationBudget {
        ReservationBudget { reservation }
    }

    /// Registers a consumer of the pool that cannot spill.
    ///
    /// A [`FairSpillPool`](datafusion_execution::memory_pool::FairSpillPool) divides its memory
    /// among the consumers that can spill. Register one yourself, with
    /// [`with_can_spill`](MemoryConsumer::with_can_spill), and call
    /// [`new`](ReservationBudget::new), to give a buffer such a share for as long as it exists.
    #[must_use]
    pub fn register(pool: &Arc<dyn MemoryPool>, name: impl Into<String>) -> ReservationBudget {
        ReservationBudget::new(MemoryConsumer::new(name).register(pool))
    }

    /// Returns the bytes that are reserved.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.reservation.size()
    }
}

impl MemoryBudget for ReservationBudget {
    fn try_grow(&self, bytes: u64) -> bool {
        // The pools of DataFusion add without a check for overflow.
        isize::try_from(bytes).is_ok_and(|_| self.reservation.try_grow(bytes as usize).is_ok())
    }

    fn shrink(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if self.reservation.try_shrink(bytes).is_err() {
            // More than is reserved: `shrink` must not fail, and the pool must not get more back.
            self.reservation.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion_execution::memory_pool::{FairSpillPool, GreedyMemoryPool};

    use super::*;

    #[test]
    fn a_budget_takes_what_the_pool_has_and_gives_all_of_it_back() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let budget = ReservationBudget::register(&pool, "buffer");
        assert!(budget.try_grow(60) && !budget.try_grow(60) && budget.try_grow(40));
        assert_eq!((pool.reserved(), budget.reserved_bytes()), (100, 100));
        assert!(!budget.try_grow(u64::MAX));
        budget.shrink(70);
        assert_eq!(pool.reserved(), 30);
        budget.shrink(u64::MAX);
        assert_eq!((pool.reserved(), budget.reserved_bytes()), (0, 0));
        assert!(budget.try_grow(100));
        drop(budget);
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn a_budget_that_cannot_spill_shares_a_fair_pool_with_an_operator_that_can() {
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(100));
        let budget = ReservationBudget::register(&pool, "buffer");
        let operator = MemoryConsumer::new("sort").with_can_spill(true).register(&pool);
        assert!(budget.try_grow(40));
        assert!(operator.try_grow(61).is_err() && operator.try_grow(60).is_ok());
        assert!(!budget.try_grow(1));
        budget.shrink(40);
        assert!(operator.try_grow(40).is_ok());
    }
}
