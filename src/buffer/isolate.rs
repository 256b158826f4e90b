//! Calls of the slow store while the buffer's lock is held: isolated from the pools of others.
//!
//! Invariant: a thread that holds the lock never waits for a pool that runs other tasks. Those tasks
//! may be waiting for the lock, or a worker that waits may take on one that wants it: either is a
//! deadlock.

use std::panic::resume_unwind;
use std::thread;

use crate::threads::{self, LazyPool};

/// Threads among which such a call may share its work.
const MAX_THREADS: usize = 4;

/// Fewer bytes than this are moved by one thread, in any store.
const ISOLATE_MIN_BYTES: u64 = 64 << 10;

/// The pool in which a buffer calls its slow store.
#[derive(Debug)]
pub(super) struct Isolate {
    pool: LazyPool,
}

impl Isolate {
    pub(super) const fn new() -> Isolate {
        Isolate { pool: LazyPool::new("partd-buffer") }
    }

    /// Runs a call that moves so many bytes, isolated if a store may share the work among threads.
    pub(super) fn run_for<T: Send>(&self, bytes: u64, call: impl FnOnce() -> T + Send) -> T {
        if bytes < ISOLATE_MIN_BYTES { call() } else { self.run(call) }
    }

    /// Runs a call in the pool of this buffer, entered from a thread that is no rayon worker.
    pub(super) fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let Some(pool) = self.pool.get(cores.min(MAX_THREADS)) else {
            return threads::stay(call);
        };
        if rayon::current_thread_index().is_none() {
            return pool.install(call);
        }
        // A worker that enters another pool goes on with tasks of its own while it waits. The slot is
        // for the call, which stays here where no thread can be started.
        let mut slot = Some(call);
        let entered = thread::scope(|scope| {
            let enter = || slot.take().map(|call| pool.install(call));
            let entered = thread::Builder::new().spawn_scoped(scope, enter).ok()?;
            entered.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        match (entered, slot) {
            (Some(done), _) => done,
            (None, Some(call)) => threads::stay(call),
            // The thread has taken the call, so it has returned what came of it.
            (None, None) => unreachable!("a call is either made or left"),
        }
    }
}
