//! `Numpy` over hostile bytes and dtypes: no panic, and an array is whole or an error.
#![no_main]

mod encode;

use libfuzzer_sys::{Corpus, fuzz_target};
use partd::{Dict, Numpy, Partd};

fuzz_target!(|input: &[u8]| -> Corpus { encode::limited(input, || read(input)) });

fn read(input: &[u8]) -> Corpus {
    // The dtype, up to a newline, followed by the elements.
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return Corpus::Reject };
    let (dtype, elements) = (&input[..end], &input[end + 1..]);
    let store = || {
        let dict = Dict::new();
        dict.append([("k.dtype", dtype), ("k", elements)]).unwrap();
        dict
    };
    macro_rules! read {
        ($new:expr) => {
            let layer = $new(store()).with_max_decoded_bytes(encode::LIMIT_BYTES);
            let read = encode::check(layer.get("k"), elements.len());
            if let Some(array) = read {
                assert_eq!(size_of_val(array.as_slice().unwrap()), elements.len());
                let popped = layer.pop(["k"]).unwrap();
                assert_eq!(popped[0].len(), array.len());
                assert!(layer.inner().keys().unwrap().is_empty());
            } else {
                assert!(layer.pop(["k"]).is_err());
                assert_eq!(layer.inner().get("k").unwrap(), elements);
            }
            let _ = layer.dtype("k").unwrap();
        };
    }
    read!(Numpy::<i64, _>::new);
    read!(Numpy::<u8, _>::new);
    read!(Numpy::<f32, _>::new);
    read!(Numpy::<bool, _>::new);
    read!(|p| Numpy::datetime64(p, "ns").unwrap());
    Corpus::Keep
}
