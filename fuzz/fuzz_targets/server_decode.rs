//! Frames of the server's protocols, as the server and the client receive them, in every decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use partd_fuzz::limit::with_limit;

/// Twice the bytes that a channel reads at once, and the headers that it keeps for its output.
const CAP_BYTES: usize = 2 << 20;

fuzz_target!(|input: &[u8]| {
    // An operation of a few bytes takes some hundred in memory: a key and the position of its
    // value.
    with_limit(64 * input.len(), CAP_BYTES, || partd_server::fuzzing::decode(input));
});
