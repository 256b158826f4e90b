//! Threads: the thread pool of a forked child, and long calls that a signal can interrupt.

use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How often a long call checks for signals.
const SIGNAL_POLL: Duration = Duration::from_millis(20);

/// The thread pool of one forked process.
struct ForkedPool {
    pid: u32,
    pool: Option<ThreadPool>,
}

static FIRST_PID: OnceLock<u32> = OnceLock::new();
static FORKED_POOL: AtomicPtr<ForkedPool> = AtomicPtr::new(std::ptr::null_mut());

/// Records the process that loaded the module. That process uses rayon's global pool.
pub(crate) fn loaded() {
    FIRST_PID.get_or_init(process::id);
}

/// Runs a call that may use rayon's threads.
///
/// A forked child inherits rayon's global pool without its threads, and would wait for them
/// forever. So in a child the call runs in a pool that the child creates.
pub(crate) fn pooled<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    let pid = process::id();
    if FIRST_PID.get().is_none_or(|&first| first == pid) {
        return call();
    }
    match &forked_pool(pid).pool {
        Some(pool) => pool.install(call),
        // The pool could not be created. Try the call without it.
        None => call(),
    }
}

fn forked_pool(pid: u32) -> &'static ForkedPool {
    loop {
        let current = FORKED_POOL.load(Ordering::Acquire);
        // SAFETY: a pointer that is not null comes from `Box::leak` below and is never freed.
        if let Some(pool) = unsafe { current.as_ref() }.filter(|pool| pool.pid == pid) {
            return pool;
        }
        // Leak one pool per process. The parent's pool is never freed: its threads do not exist
        // here.
        let new =
            Box::leak(Box::new(ForkedPool { pid, pool: ThreadPoolBuilder::new().build().ok() }));
        let swapped =
            FORKED_POOL.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_ok() {
            return new;
        }
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
    let work = move || drop(sender.send(call()));
    thread::Builder::new().name("partd-call".to_owned()).spawn(work).map_err(|error| {
        PyRuntimeError::new_err(format!("cannot start a thread for a long call: {error}"))
    })?;
    let receiver = std::sync::Mutex::new(receiver);
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
