//! Threads: the pool of a forked child, and long calls that a signal ends.

use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How often a long call looks for signals.
const SIGNAL_POLL: Duration = Duration::from_millis(20);

/// The pool of one forked process.
struct ForkedPool {
    pid: u32,
    pool: Option<ThreadPool>,
}

static FIRST_PID: OnceLock<u32> = OnceLock::new();
static FORKED_POOL: AtomicPtr<ForkedPool> = AtomicPtr::new(std::ptr::null_mut());

/// Remembers the process that loaded the module, whose rayon pool is the ordinary one.
pub(crate) fn loaded() {
    FIRST_PID.get_or_init(process::id);
}

/// Runs a call that may spread its work over rayon's threads.
///
/// A forked child inherits rayon's global pool without its threads, and would wait for them
/// forever: there the call runs in a pool of the child's own.
pub(crate) fn pooled<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    let pid = process::id();
    if FIRST_PID.get().is_none_or(|&first| first == pid) {
        return call();
    }
    match &forked_pool(pid).pool {
        Some(pool) => pool.install(call),
        // No thread can be had; the engine works on the calling thread then, as far as it can.
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
        // Once for each process; what the parent made stays where it is, its threads are not here.
        let new =
            Box::leak(Box::new(ForkedPool { pid, pool: ThreadPoolBuilder::new().build().ok() }));
        let swapped =
            FORKED_POOL.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_ok() {
            return new;
        }
    }
}

/// Runs a call that may take long on a thread of its own, so that Ctrl-C ends the wait for it.
///
/// After a signal the call itself runs to its end, unobserved.
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
                return Err(PyRuntimeError::new_err("the thread of a long call has ended early"));
            }
        }
    }
}
