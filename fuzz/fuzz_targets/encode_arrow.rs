//! `Arrow` over hostile bytes: no panic while a stream is read, joined with itself or formatted,
//! and no more memory than the limit.
#![no_main]

mod encode;

use libfuzzer_sys::{Corpus, fuzz_target};
use partd::{Arrow, Dict, Partd};

fuzz_target!(|input: &[u8]| -> Corpus { encode::limited(input, || read(input)) });

fn read(input: &[u8]) -> Corpus {
    let Some(dict) = encode::store(input) else { return Corpus::Reject };
    let stored = dict.get("k").unwrap();
    dict.append([("k", &stored)]).unwrap();
    let layer = Arrow::new(dict).with_max_decoded_bytes(encode::LIMIT_BYTES);
    let Some(batch) = encode::check(layer.get("k"), 2 * stored.len()) else {
        return Corpus::Keep;
    };
    assert!(format!("{batch:?}").len() > 2);
    let again = Arrow::new(Dict::new());
    again.append([("k", &batch)]).unwrap();
    assert_eq!(again.get("k").unwrap().num_rows(), batch.num_rows());
    Corpus::Keep
}
