//! The limit on what hostile input makes a target allocate: at most twice its size and a fixed cap.
//!
//! The allocator refuses what goes beyond, which ends the process: libFuzzer keeps the input.
//! Memory of the fuzzer itself, of mapped files and of C libraries is not counted: it does not come
//! from Rust's allocator. (libFuzzer's own limit is for those.)

use std::alloc::System;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs with the limit for an input: twice its size, and a cap.
pub fn with_limit<T>(input_len: usize, cap_bytes: usize, run: impl FnOnce() -> T) -> T {
    with_limit_of(2 * input_len + cap_bytes, run)
}

/// Runs with a limit on the bytes that all threads have allocated at any one moment, beyond what
/// they have now.
///
/// # Panics
/// Where the bytes are there already.
pub fn with_limit_of<T>(bytes: usize, run: impl FnOnce() -> T) -> T {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(|| {
        // Work that would be shared with other threads is done by this one: so a run is the same
        // each time, and it does not wait for anyone.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        pool.build_global().expect("nobody has used the threads yet");
        // What is said of a failure takes memory too.
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
    // A limit that is the greatest number cannot be refused.
    let _ = ALLOCATOR.set_limit(usize::MAX);
    result
}
