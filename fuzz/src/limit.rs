//! The limit on what hostile input makes a target allocate: at most twice its size and a fixed cap.
//!
//! The allocator refuses what goes beyond, which ends the process: libFuzzer keeps the input.
//! Memory of the fuzzer itself is not counted: it does not come from Rust's allocator.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs with a limit on the bytes that are allocated at any one moment.
///
/// # Panics
/// Where the bytes are there already.
pub fn with_limit<T>(input_len: usize, cap_bytes: usize, run: impl FnOnce() -> T) -> T {
    let limit = ALLOCATOR.allocated() + 2 * input_len + cap_bytes;
    assert!(ALLOCATOR.set_limit(limit).is_ok(), "the limit is reached before the run");
    let result = run();
    // A limit that is the greatest number cannot be refused.
    let _ = ALLOCATOR.set_limit(usize::MAX);
    result
}
