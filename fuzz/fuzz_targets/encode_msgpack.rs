//! `Msgpack` over hostile bytes, as several types: no panic, no deep recursion, no memory bomb; a
//! value that is read can be written and read again.
#![no_main]

mod encode;

use std::collections::BTreeMap;

use libfuzzer_sys::{Corpus, fuzz_target};
use partd::{Dict, Msgpack};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A type that accepts any message, however deep.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Any {
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Any>),
    Dict(BTreeMap<String, Any>),
    None(()),
}

fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + Send + Sync>(
    input: &[u8],
) -> Option<()> {
    let layer =
        Msgpack::<T, _>::new(encode::store(input)?).with_max_decoded_bytes(encode::LIMIT_BYTES);
    let list = encode::check(layer.get("k"), input.len() + 8)?;
    let again = Msgpack::<T, _>::new(Dict::new());
    again.append([("k", &list[..])]).unwrap();
    assert_eq!(again.get("k").unwrap(), list);
    Some(())
}

fuzz_target!(|input: &[u8]| -> Corpus {
    encode::limited(input, || {
        read::<Any>(input);
        read::<i64>(input);
        read::<(i64, String, Option<u8>)>(input);
        read::<Vec<Vec<String>>>(input);
        Corpus::Keep
    })
});
