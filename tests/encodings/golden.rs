//! Values written by the Python partd are read completely. versions.txt beside the golden values
//! lists the versions of Python and of the packages that wrote them.

use ndarray::array;
use num_complex::Complex;
use partd::{Dict, Error, Msgpack, Numpy, Partd, Pickle, compression};

use partd_testkit::{for_each_array, for_each_list};

use crate::values;

/// A store with a golden value and, if there is one, its side key.
fn store(name: &str) -> Dict {
    let dict = Dict::new();
    dict.append([("x", values::read_golden(name))]).unwrap();
    let side = format!("{name}.dtype");
    if values::golden(&side).exists() {
        dict.append([("x.dtype", values::read_golden(&side))]).unwrap();
    }
    dict
}

#[test]
fn compressed_values_of_python_are_read() {
    for name in ["zlib", "bz2", "snappy", "blosc", "lz4", "zstd"] {
        let layer = compression(name, Box::new(store(&format!("{name}/bytes")))).unwrap();
        assert!(layer.get("x").unwrap() == values::bytes().concat(), "{name}");
        assert_eq!(layer.len_of("x").unwrap(), values::bytes().concat().len() as u64, "{name}");
    }
}

#[test]
fn blosc_frames_of_every_inner_codec_and_shuffle_are_read() {
    for inner in ["blosclz", "lz4", "lz4hc", "zlib", "zstd"] {
        for shuffle in ["no", "byte", "bit"] {
            let name = format!("blosc/{inner}-{shuffle}-shuffle");
            let layer = compression("blosc", Box::new(store(&name))).unwrap();
            assert!(layer.get("x").unwrap() == values::bytes().concat(), "{name}");
        }
    }
}

#[test]
fn pickled_lists_of_python_are_read_in_every_protocol() {
    let mut read = 0;
    macro_rules! case {
        ($name:literal, $type:ty, $lists:expr) => {
            let protocols = (0..=5).map(|protocol| format!("-protocol-{protocol}"));
            for protocol in protocols.chain([String::new()]) {
                let name = format!("pickle/{}{protocol}", $name);
                if values::golden(&name).exists() {
                    let layer = Pickle::<$type, _>::new(store(&name));
                    assert_eq!(layer.get("x").unwrap(), $lists.concat(), "{name}");
                    read += 1;
                }
            }
        };
    }
    for_each_list!(case);
    assert_eq!(read, 10 * 7 - 3);
    let layer = Pickle::<std::collections::BTreeSet<i64>, _>::new(store("pickle/sets"));
    assert_eq!(layer.get("x").unwrap(), values::sets().concat());
}

#[test]
fn a_value_that_python_shares_between_containers_is_read_in_all_of_them() {
    let layer = Pickle::<Vec<String>, _>::new(store("pickle/twice"));
    let shared = vec!["shared".to_owned(), "list".to_owned()];
    assert_eq!(layer.get("x").unwrap(), [shared.clone(), shared.clone(), shared]);
}

#[test]
fn pickled_calls_and_classes_are_refused() {
    let layer = Pickle::<Vec<i64>, _>::new(store("pickle/sets-protocol-2"));
    let error = layer.get("x").unwrap_err();
    let Error::Decode { layer: "Pickle", frame: 0, offset: 0, reason, .. } = &error else {
        panic!("{error}")
    };
    assert!(reason.contains("only plain data is read"), "{reason}");
}

#[test]
fn msgpack_lists_of_python_are_read() {
    macro_rules! case {
        ($name:literal, $type:ty, $lists:expr) => {
            let layer = Msgpack::<$type, _>::new(store(concat!("msgpack/", $name)));
            assert_eq!(layer.get("x").unwrap(), $lists.concat(), $name);
        };
    }
    for_each_list!(case);
}

#[test]
fn a_list_that_python_pickled_because_msgpack_cannot_hold_it_is_read() {
    let layer = Msgpack::<std::collections::BTreeSet<i64>, _>::new(store("msgpack/sets"));
    assert_eq!(layer.get("x").unwrap(), values::sets().concat());
}

#[test]
fn numpy_arrays_of_python_are_read() {
    macro_rules! case {
        ($name:literal, $new:expr, $array:expr) => {
            let layer = $new(store(concat!("numpy/", $name)));
            let array = $array;
            let stored: Vec<_> = array.iter().chain(array.iter().rev()).copied().collect();
            let read = $array.into_iter().take(0).chain(layer.get("x").unwrap());
            assert_eq!(read.collect::<Vec<_>>(), stored, $name);
        };
    }
    for_each_array!(case);
    let layer = Numpy::<i32, _>::new(store("numpy/big-endian"));
    assert_eq!(layer.get("x").unwrap(), array![1, 2, -3]);
}

#[test]
fn numpy_arrays_of_another_dtype_are_an_error_that_shows_both() {
    let refuse = |name: &str| {
        Numpy::<f64, _>::new(store(&format!("numpy/{name}"))).get("x").unwrap_err().to_string()
    };
    let error = refuse("i4");
    assert!(error.contains("<i4") && error.contains("<f8"), "{error}");
    assert!(refuse("datetime-ns").contains("<M8[ns]"));
    assert!(refuse("strings").contains("<U2"));
    assert!(refuse("object").contains("which are not read because a pickle can run any code"));
}
