//! Forks of this process: how many there were, and whether this is a child of one.

#![expect(unsafe_code, reason = "the system calls back at each fork")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

use crate::log::fs::mapping::Mapping;

/// How often this process has called `fork` since the first call of this function; `None` where the system
/// refuses to count. A process that is started by `posix_spawn`, as by `std::process::Command`, shares no
/// mapping and is not counted.
pub(crate) fn forks() -> Option<u64> {
    static FORKS: AtomicU64 = AtomicU64::new(0);
    static IS_COUNTED: OnceLock<bool> = OnceLock::new();
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    let is_counted = *IS_COUNTED.get_or_init(|| {
        // SAFETY: the handler only adds to an atomic, which is allowed at any moment of a fork, and is never
        // unloaded before the process ends.
        unsafe { libc::pthread_atfork(None, Some(count), None) == 0 }
    });
    is_counted.then(|| FORKS.load(Ordering::Relaxed))
}

/// Says whether this process is the one in which it was made, without a system call.
///
/// All marks of a process share a page that the kernel clears in a child of `fork`
/// (`MADV_WIPEONFORK`). It holds the number of the process, counted from the first one along its
/// ancestors; a child takes the next number when it makes a mark of its own.
#[derive(Debug)]
pub(crate) struct ForkMark {
    page: &'static Mapping,
    process: u64,
}

impl ForkMark {
    /// Marks this process.
    pub(crate) fn new() -> io::Result<ForkMark> {
        // What a child inherits of it is the number of its parent at least.
        static PROCESSES: AtomicU64 = AtomicU64::new(0);
        let page = ForkMark::page()?;
        loop {
            let process = page.load(0, Ordering::Relaxed);
            if process != 0 {
                return Ok(ForkMark { page, process });
            }
            let next = PROCESSES.fetch_add(1, Ordering::Relaxed) + 1;
            // Another thread may have been first.
            let _ = page.compare_exchange(0, 0, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The page of this process and of its children.
    fn page() -> io::Result<&'static Mapping> {
        static PAGE: OnceLock<Mapping> = OnceLock::new();
        if let Some(page) = PAGE.get() {
            return Ok(page);
        }
        let page = Mapping::anonymous(4096)?;
        page.wipe_in_children()?;
        Ok(PAGE.get_or_init(|| page))
    }

    /// Whether this is a child that was forked after the mark was made.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.page.load(0, Ordering::Relaxed) != self.process
    }
}
