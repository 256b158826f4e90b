//! A whole session with a server: random bytes, and mutated sessions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;

/// The memory of a server for its records, one connection, and one chunk of an answer from a file.
const CAP_BYTES: usize = 8 << 20;

fuzz_target!(|input: &[u8]| {
    // The same factor as for the decoders; values can also be appended repeatedly.
    with_limit(64 * input.len(), CAP_BYTES, || partd_server::fuzzing::session(input));
});
