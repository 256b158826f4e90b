//! Runs calls to the slow store and large copies under the buffer's lock in a thread pool that runs
//! nothing else.
//!
//! Invariant: a thread that holds the lock never waits for a pool that runs other tasks. It would
//! deadlock if such a task waits for the lock, or if the waiting worker picks up a task that does.

use std::panic::resume_unwind;
use std::thread;

use rayon::ThreadPool;

use crate::threads::{self, LazyPool};

/// The maximum number of threads in the pool.
const MAX_THREADS: usize = 4;

/// A store does not spread fewer bytes than this over threads, so the call needs no pool.
const ISOLATE_MIN_BYTES: u64 = 64 << 10;

/// The pool in which a buffer calls its slow store and copies.
#[derive(Debug)]
pub(super) struct Isolate {
    pool: LazyPool,
}

impl Isolate {
    pub(super) const fn new() -> Isolate {
        Isolate { pool: LazyPool::new("partd-buffer") }
    }

    /// Runs a call that moves `bytes`; isolates it if a store may spread the work over threads.
    pub(super) fn run_for<T: Send>(&self, bytes: u64, call: impl FnOnce() -> T + Send) -> T {
        if bytes < ISOLATE_MIN_BYTES { call() } else { self.run(call) }
    }

    /// Runs a call in this buffer's pool, entered from a thread that is not a rayon worker.
    pub(super) fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let Some(pool) = self.pool.get(cores.min(MAX_THREADS)) else {
            return threads::stay(call);
        };
        if rayon::current_thread_index().is_none() {
            return threads::install(&pool, call);
        }
        let (mut call, mut result) = (Some(call), None);
        enter(&pool, &mut || result = call.take().map(|call| call()));
        match (result, call) {
            (Some(result), _) => result,
            // No thread could be started.
            (None, Some(call)) => threads::stay(call),
            // A thread that took the call returned its result.
            (None, None) => unreachable!("the call either ran or is still there"),
        }
    }
}

/// Runs a call in a pool other than the calling rayon worker's. Does nothing if no thread can be
/// started.
///
/// A worker that enters another pool runs its own pool's tasks while it waits, so a fresh thread
/// enters it.
fn enter(pool: &ThreadPool, call: &mut (dyn FnMut() + Send)) {
    thread::scope(|scope| {
        let entering = || threads::install(pool, call);
        if let Ok(entered) = thread::Builder::new().spawn_scoped(scope, entering) {
            entered.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}
