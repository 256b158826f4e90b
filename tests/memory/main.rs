//! The library's allocations, measured at the allocator. The counts are for the whole process, so
//! the tests run one at a time, whatever the number of test threads.

mod batches;
mod buffer_memory;
mod compaction_memory;
mod hostile_memory;
mod limited;
mod reader_memory;
mod snapshots;
mod uncached;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The allocations of this thread. It needs neither allocation nor destructor itself.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Returns how many times the calling thread has allocated.
fn allocations() -> usize {
    ALLOCATIONS.get()
}

fn grow(bytes: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// A global allocator requires unsafe code; `realloc` goes through these two functions.
#[allow(unsafe_code)]
// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `System` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Waits until no other test runs, and blocks the others.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
