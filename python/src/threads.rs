//! Threads: work that several threads share, and long calls that a signal can interrupt.

use std::process;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How often a long call checks for signals.
const SIGNAL_POLL: Duration = Duration::from_millis(20);

/// The threads of one process.
struct Helpers {
    pid: u32,
    /// Filled at the first use; `None` if no thread could be started.
    pool: OnceLock<Option<ThreadPool>>,
}

static HELPERS: AtomicPtr<Helpers> = AtomicPtr::new(std::ptr::null_mut());

/// Applies `each` to every item, in the calling thread and those of a pool.
///
/// The calling thread begins immediately. Threads that wake up late, because the cores are busy,
/// find less work or none, so they delay the call little.
pub(crate) fn share<I: Send, T: Send>(items: Vec<I>, each: impl Fn(I) -> T + Sync) -> Vec<T> {
    let Some(pool) = pool().filter(|_| items.len() > 1) else {
        return items.into_iter().map(each).collect();
    };
    let count = items.len();
    let helpers = pool.current_num_threads().min(count) - 1;
    let mut results: Vec<Option<T>> = items.iter().map(|_| None).collect();
    let rest = Mutex::new(items.into_iter().zip(&mut results));
    // The lock is released before an item is processed.
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((item, result)) = next() {
            *result = Some(each(item));
        }
    };
    pool.in_place_scope(|scope| {
        (0..helpers).for_each(|_| scope.spawn(|_| work()));
        work();
    });
    let done: Vec<T> = results.into_iter().flatten().collect();
    assert_eq!(done.len(), count, "an item was not processed");
    done
}

/// Returns the number of threads that [`share`] uses, at least 1.
pub(crate) fn count() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

/// Returns the threads of this process. A forked child creates its own: it has none of its parent's.
fn pool() -> Option<&'static ThreadPool> {
    let pid = process::id();
    loop {
        let current = HELPERS.load(Ordering::Acquire);
        // SAFETY: a pointer that is not null comes from `Box::leak` below and is never freed.
        if let Some(helpers) = unsafe { current.as_ref() }.filter(|helpers| helpers.pid == pid) {
            return helpers.pool.get_or_init(|| ThreadPoolBuilder::new().build().ok()).as_ref();
        }
        // Leak one per process. The parent's pool is never freed: its threads do not exist here.
        let new = Box::leak(Box::new(Helpers { pid, pool: OnceLock::new() }));
        // If another thread of this process was first, the next turn finds its pool.
        let _ = HELPERS.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Runs a call that may take long on a new thread, so that Ctrl-C interrupts the wait for it.
///
/// After a signal the call still runs to its end, and its result is dropped.
pub(crate) fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    call: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = channel();
    let work = move || {
        // After a signal, nobody receives the result. Python frees objects in an attached thread only,
        // and none if it is ending.
        if let Err(lost) = sender.send(call()) {
            let _ = Python::try_attach(|_| drop(lost));
        }
    };
    thread::Builder::new().name("partd-call".to_owned()).spawn(work).map_err(|error| {
        PyRuntimeError::new_err(format!("cannot start a thread for a long call: {error}"))
    })?;
    let receiver = Mutex::new(receiver);
    loop {
        let received = py.detach(|| match receiver.lock() {
            Ok(receiver) => receiver.recv_timeout(SIGNAL_POLL),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match received {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("the thread of a long call ended early"));
            }
        }
    }
}
