//! Calls of the slow store while the buffer's lock is held: apart from rayon's global pool.
//!
//! Invariant: who holds the lock never waits for the global pool. Its workers may be waiting for
//! that lock, or, as one of them, take on a task that wants it: either is a deadlock.

use std::panic::resume_unwind;
use std::thread;

use rayon::ThreadPoolBuilder;

/// Threads among which such a call may share its work.
const MAX_THREADS: usize = 4;

/// Fewer bytes than this are moved by one thread, in any store.
const APART_MIN_BYTES: u64 = 64 << 10;

/// Runs a call that moves so many bytes apart, if a store may share the work among threads.
pub(super) fn apart_from<T: Send>(bytes: u64, call: impl FnOnce() -> T + Send) -> T {
    if bytes < APART_MIN_BYTES { call() } else { apart(call) }
}

/// Runs the call in a small pool of its own, on a thread that is no rayon worker.
///
/// Making the pool takes about 100 microseconds, so this is for calls that move whole values.
pub(super) fn apart<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pool = ThreadPoolBuilder::new().num_threads(cores.min(MAX_THREADS)).build();
    // Where no thread can be had, the call is made as it is.
    let Ok(pool) = pool else { return call() };
    // A worker that enters another pool goes on with tasks of its own while it waits.
    if rayon::current_thread_index().is_none() {
        return pool.install(call);
    }
    thread::scope(|scope| {
        scope.spawn(|| pool.install(call)).join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
