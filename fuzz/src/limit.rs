//! The limit on the allocations that hostile input can cause: twice the input's size plus a fixed
//! cap.
//!
//! The allocator refuses anything beyond, which ends the process, and libFuzzer keeps the input.
//! Memory of the fuzzer itself, of mapped files and of C libraries does not come from Rust's
//! allocator and is not counted. (libFuzzer has its own limit for those.)

use std::alloc::System;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `run` with the limit for an input: twice its size plus a cap.
pub fn with_limit<T>(input_len: usize, cap_bytes: usize, run: impl FnOnce() -> T) -> T {
    with_limit_of(2 * input_len + cap_bytes, run)
}

/// Runs `run` with a limit on the bytes that all threads together can allocate beyond those in use
/// now.
///
/// # Panics
/// Panics if the limit cannot be set.
pub fn with_limit_of<T>(bytes: usize, run: impl FnOnce() -> T) -> T {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| {
        // All parallel work runs on this thread, so that each run is the same and waits for no
        // other thread.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        pool.build_global().expect("the global pool is not in use yet");
        // Reporting a failure takes memory too.
        std::alloc::set_alloc_error_hook(|layout| {
            let _ = ALLOCATOR.set_limit(usize::MAX);
            eprintln!("memory allocation of {} bytes failed: beyond the limit", layout.size());
        });
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = ALLOCATOR.set_limit(usize::MAX);
            say(panic);
        }));
    });
    let limit = ALLOCATOR.allocated() + bytes;
    assert!(ALLOCATOR.set_limit(limit).is_ok(), "the limit is reached before the run");
    let result = run();
    // Setting the maximum as the limit cannot fail.
    let _ = ALLOCATOR.set_limit(usize::MAX);
    result
}
