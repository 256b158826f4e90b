//! `Pool`: things that are costly to make and can be used again, such as buffers and compressors.
//!
//! A thread that finds the pool empty makes its own; what comes back when the pool is full is
//! dropped. So nobody waits for another, and what is kept has a bound.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Things kept for later use.
pub(crate) struct Pool<T> {
    free: Mutex<Vec<T>>,
    capacity: usize,
}

impl<T> Pool<T> {
    /// A pool that keeps two things for each thread that may use them.
    pub(crate) fn new() -> Pool<T> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Pool { free: Mutex::default(), capacity: 2 * threads }
    }

    fn free(&self) -> MutexGuard<'_, Vec<T>> {
        // A push or a pop that panicked would leave the vector whole.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the things kept, if there is any.
    pub(crate) fn take(&self) -> Option<T> {
        self.free().pop()
    }

    /// Keeps a thing, if there is room.
    pub(crate) fn put(&self, thing: T) {
        let mut free = self.free();
        if free.len() < self.capacity {
            free.push(thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_back_what_was_put_and_keeps_no_more_than_its_capacity() {
        let pool = Pool::new();
        assert_eq!(pool.take(), None);
        for i in 0..10_000 {
            pool.put(i);
        }
        assert_eq!(pool.free().len(), pool.capacity);
        assert_eq!(pool.take(), Some(pool.capacity - 1));
    }
}
