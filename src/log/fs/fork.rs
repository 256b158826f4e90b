//! Detection of forks: the number of forks of this process, and whether it is a forked child.

#![expect(unsafe_code, reason = "the system calls back at each fork")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

use crate::log::fs::mapping::Mapping;

/// The number of calls of `fork` in this process since the first call of this function; `None` if
/// the system cannot register the handler. `posix_spawn`, which `std::process::Command` uses,
/// leaves its child no mapping and is not counted.
pub(crate) fn forks() -> Option<u64> {
    static FORKS: AtomicU64 = AtomicU64::new(0);
    static IS_COUNTED: OnceLock<bool> = OnceLock::new();
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    let is_counted = *IS_COUNTED.get_or_init(|| {
        // SAFETY: the handler only increments an atomic, which is allowed at any point of a fork,
        // and its code stays loaded until the process ends.
        unsafe { libc::pthread_atfork(None, Some(count), None) == 0 }
    });
    is_counted.then(|| FORKS.load(Ordering::Relaxed))
}

/// Tells without a system call whether this process is the one that created the mark.
///
/// All marks of a process share a page that the kernel clears in a child of `fork`
/// (`MADV_WIPEONFORK`). The page holds the number of the process, counted along its chain of
/// ancestors. A child takes the next number when it creates its first mark.
#[derive(Debug)]
pub struct ForkMark {
    page: &'static Mapping,
    process: u64,
}

impl ForkMark {
    /// Marks this process.
    ///
    /// # Errors
    /// The kernel cannot map a page, or cannot clear it in children.
    pub fn new() -> io::Result<ForkMark> {
        // The value that a child inherits is at least the number of its parent.
        static PROCESSES: AtomicU64 = AtomicU64::new(0);
        let page = ForkMark::page()?;
        loop {
            let process = page.load(0, Ordering::Relaxed);
            if process != 0 {
                return Ok(ForkMark { page, process });
            }
            let next = PROCESSES.fetch_add(1, Ordering::Relaxed) + 1;
            // Fails if another thread has set the number first.
            let _ = page.compare_exchange(0, 0, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The page of all marks.
    fn page() -> io::Result<&'static Mapping> {
        static PAGE: OnceLock<Mapping> = OnceLock::new();
        if let Some(page) = PAGE.get() {
            return Ok(page);
        }
        let page = Mapping::anonymous(4096)?;
        page.wipe_in_children()?;
        Ok(PAGE.get_or_init(|| page))
    }

    /// Whether this process was forked after the mark was created.
    #[inline]
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.page.load(0, Ordering::Relaxed) != self.process
    }
}
