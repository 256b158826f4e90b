//! `Pool`: things that are costly to make and can be used again, such as buffers and compressors.
//!
//! A thread that finds the pool empty makes its own; what comes back when the pool is full is
//! dropped. So nobody waits for another, and what is kept has a bound. Nobody waits for the lock
//! either: in a child of `fork`, the thread that holds it may not exist.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;

/// How often to try the lock, which is held for a few instructions.
const TRIES: usize = 16;

/// Things kept for later use.
pub(crate) struct Pool<T> {
    free: Mutex<Vec<T>>,
    capacity: usize,
}

impl<T> Pool<T> {
    /// A pool that keeps two things for each thread that may use them.
    pub(crate) fn new() -> Pool<T> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Pool { free: Mutex::default(), capacity: 2 * threads }
    }

    fn free(&self) -> Option<MutexGuard<'_, Vec<T>>> {
        for _ in 0..TRIES {
            match self.free.try_lock() {
                Ok(free) => return Some(free),
                // A push or a pop that panicked would leave the vector whole.
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        None
    }

    /// One of the things kept, if there is any.
    pub(crate) fn take(&self) -> Option<T> {
        self.free()?.pop()
    }

    /// Keeps a thing, if there is room.
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
    fn a_pool_gives_back_what_was_put_and_keeps_no_more_than_its_capacity() {
        let pool = Pool::new();
        assert_eq!(pool.take(), None);
        for i in 0..10_000 {
            pool.put(i);
        }
        assert_eq!(pool.free().unwrap().len(), pool.capacity);
        assert_eq!(pool.take(), Some(pool.capacity - 1));
    }

    #[test]
    fn a_lock_that_nobody_gives_back_is_not_waited_for() {
        let pool = Pool::new();
        pool.put(1);
        let held = pool.free().unwrap();
        assert_eq!(pool.take(), None);
        pool.put(2);
        drop(held);
        assert_eq!((pool.take(), pool.take()), (Some(1), None));
    }
}
