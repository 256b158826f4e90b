//! `Zlib` over hostile bytes: no panic, no more memory than the limit, and a round trip.
#![no_main]

mod encode;

use libfuzzer_sys::{Corpus, fuzz_target};
use partd::Zlib;

fuzz_target!(|input: &[u8]| -> Corpus {
    encode::compression(input, |dict| Zlib::new(dict).with_max_decoded_bytes(encode::LIMIT_BYTES))
});
