//! Shared code of the targets for the encoding layers.
//!
//! The first byte of an input selects whether the rest is a stored value with its frames or the
//! body of one frame, so that a mutation need not get the length right.

#![allow(dead_code, reason = "each target uses some")]

use libfuzzer_sys::Corpus;
use partd::{Dict, Error, Key, Partd};
use partd_fuzz::limit::with_limit;

/// The limit on decoded bytes; small, so that a decompression bomb exceeds it clearly.
pub const LIMIT_BYTES: usize = 1 << 20;
/// The memory that a decoded value can take in addition to the input while it is decoded, joined
/// and re-encoded, plus the tables of a compressor.
const CAP_BYTES: usize = 16 << 20;

/// Runs a target within the limit on its allocations.
pub fn limited(input: &[u8], run: impl FnOnce() -> Corpus) -> Corpus {
    with_limit(input.len(), CAP_BYTES, run)
}

/// A store with the value that the input describes, under the key `k`.
pub fn store(input: &[u8]) -> Option<Dict> {
    let (mode, rest) = input.split_first()?;
    let dict = Dict::new();
    if mode % 2 == 0 {
        dict.append([("k", (rest.len() as u64).to_le_bytes())]).unwrap();
    }
    dict.append([("k", rest)]).unwrap();
    Some(dict)
}

/// Checks that an error locates the damage.
pub fn check<T>(result: partd::Result<T>, stored_bytes: usize) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Decode { key, offset, reason, .. }) => {
            assert_eq!(key, Key::from("k"));
            assert!(offset <= stored_bytes as u64 && !reason.is_empty());
            None
        }
        Err(Error::Mismatch { key, .. }) => {
            assert_eq!(key, Key::from("k"));
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// Runs a compressing layer on hostile bytes, and on a value that it compressed itself.
pub fn compression<P: Partd>(input: &[u8], open: impl Fn(Dict) -> P) -> Corpus {
    limited(input, || compressed(input, open))
}

fn compressed<P: Partd>(input: &[u8], open: impl Fn(Dict) -> P) -> Corpus {
    let Some(dict) = store(input) else { return Corpus::Reject };
    let layer = open(dict);
    let value = check(layer.get("k"), input.len() + 8);
    let len = check(layer.len_of("k"), input.len() + 8);
    assert_eq!(value.as_ref().map(|value| value.len() as u64), len);
    assert!(value.is_none_or(|value| value.len() <= LIMIT_BYTES));

    let layer = open(Dict::new());
    let (head, tail) = input.split_at(input.len() / 2);
    layer.append([("k", head), ("k", tail)]).unwrap();
    assert_eq!(layer.get("k").unwrap(), input);
    Corpus::Keep
}
