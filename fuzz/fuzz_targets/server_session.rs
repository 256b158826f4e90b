//! A whole session with a server: random bytes, and sessions that were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;

/// The memory of a server for its records, one connection and one chunk of an answer from a file.
const CAP_BYTES: usize = 8 << 20;

fuzz_target!(|input: &[u8]| {
    // As for the decoders; and values are appended again and again.
    with_limit(64 * input.len(), CAP_BYTES, || partd_server::fuzzing::session(input));
});
