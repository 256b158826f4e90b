//! `Pool`: objects that are costly to create and can be reused, such as buffers and compressors.
//!
//! A thread that finds the pool empty creates its own object. An object that returns to a full pool
//! is dropped. Threads therefore never wait for each other, and the pool has a bound. They do not
//! wait for the lock either: in a child of `fork`, the thread that holds it may not exist.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;

/// The number of attempts to take the lock, which is held for a few instructions.
const TRIES: usize = 16;

/// A bounded set of reusable objects.
pub(crate) struct Pool<T> {
    free: Mutex<Vec<T>>,
    capacity: usize,
}

impl<T> Pool<T> {
    /// Creates a pool that keeps two objects per core.
    pub(crate) fn new() -> Pool<T> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Pool { free: Mutex::default(), capacity: 2 * threads }
    }

    fn free(&self) -> Option<MutexGuard<'_, Vec<T>>> {
        for _ in 0..TRIES {
            match self.free.try_lock() {
                Ok(free) => return Some(free),
                // A push or pop that panics leaves the vector whole.
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        None
    }

    /// Takes an object, if there is one.
    pub(crate) fn take(&self) -> Option<T> {
        self.free()?.pop()
    }

    /// Returns an object to the pool, or drops it if the pool is full.
    pub(crate) fn put(&self, thing: T) {
        if let Some(mut free) = self.free()
            && free.len() < self.capacity
        {
            free.push(thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_returns_its_objects_and_keeps_no_more_than_its_capacity() {
        let pool = Pool::new();
        assert_eq!(pool.take(), None);
        for i in 0..10_000 {
            pool.put(i);
        }
        assert_eq!(pool.free().unwrap().len(), pool.capacity);
        assert_eq!(pool.take(), Some(pool.capacity - 1));
    }

    #[test]
    fn a_lock_that_is_never_released_blocks_nobody() {
        let pool = Pool::new();
        pool.put(1);
        let held = pool.free().unwrap();
        assert_eq!(pool.take(), None);
        pool.put(2);
        drop(held);
        assert_eq!((pool.take(), pool.take()), (Some(1), None));
    }
}
