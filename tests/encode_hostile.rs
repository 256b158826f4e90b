//! No bytes in a store make a layer panic, overflow the stack or take more memory than the limit.
//! They are errors that name the key, the frame and its offset.
//!
//! The whole process runs with a small address space, so that an allocation by a declared size
//! would end it, and on the small stacks of test threads.

use std::sync::{Arc, Once};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use partd::encode::compressions;
use partd::{
    Arrow, Blosc, Bz2, Dict, Encode, Error, Key, Lz4, Msgpack, Numpy, Partd, Pickle, Snappy, Zlib,
    Zstd, compression,
};
use partd_testkit::values;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The address space of this process: enough for the test runner, its threads and the limits below.
const ADDRESS_SPACE_BYTES: u64 = 3 << 30;
/// The limit on decoded bytes in these tests.
const LIMIT_BYTES: usize = 1 << 20;

fn with_little_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = Rlimit { current: Some(ADDRESS_SPACE_BYTES), maximum: None };
        setrlimit(Resource::As, limit).unwrap();
    });
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_le_bytes()[..], body].concat()
}

/// A store with a valid frame followed by the given bytes, under one key.
fn behind(good: &[u8], bad: &[u8]) -> Dict {
    let dict = Dict::new();
    dict.append([("k", [good, bad].concat())]).unwrap();
    dict
}

/// Checks that an error locates the second frame, and returns its reason.
#[track_caller]
fn reason_of_second<T: std::fmt::Debug>(result: partd::Result<T>, good: &[u8]) -> String {
    match result {
        Err(Error::Decode { key, frame, offset, reason, .. }) => {
            assert_eq!((key, frame, offset), (Key::from("k"), 1, good.len() as u64), "{reason}");
            reason
        }
        Err(other) => panic!("another error: {other}"),
        Ok(value) => panic!("decoded: {:.200}", format!("{value:?}")),
    }
}

/// Puts bytes after a valid frame of a codec, and returns the reason of the error.
fn compression_says(name: &str, bad: &[u8]) -> String {
    let store = Arc::new(Dict::new());
    compression(name, Box::new(store.clone())).unwrap().append([("k", "good")]).unwrap();
    let good = store.get("k").unwrap();
    let layer = |inner: Dict| -> Box<dyn Partd> {
        let max = LIMIT_BYTES;
        match name {
            "zlib" => Box::new(Zlib::new(inner).with_max_decoded_bytes(max)),
            "snappy" => Box::new(Snappy::new(inner).with_max_decoded_bytes(max)),
            "lz4" => Box::new(Lz4::new(inner).with_max_decoded_bytes(max)),
            "bz2" => Box::new(Bz2::new(inner).with_max_decoded_bytes(max)),
            "blosc" => Box::new(Blosc::new(inner).with_max_decoded_bytes(max)),
            "zstd" => Box::new(Zstd::new(inner).with_max_decoded_bytes(max)),
            other => panic!("{other}"),
        }
    };
    let layer = layer(behind(&good, bad));
    let reason = reason_of_second(layer.get("k"), &good);
    assert_eq!(reason_of_second(layer.len_of("k"), &good), reason);
    assert_eq!(reason_of_second(layer.pop(["k"]), &good), reason);
    assert!(layer.contains("k").is_err() || layer.keys().unwrap() == [Key::from("k")]);
    reason
}

/// The frame of a value.
fn compressed(name: &str, value: &[u8]) -> Vec<u8> {
    let store = Arc::new(Dict::new());
    compression(name, Box::new(store.clone())).unwrap().append([("k", value)]).unwrap();
    store.get("k").unwrap()
}

#[test]
fn a_frame_length_beyond_the_value_is_an_error_in_every_layer() {
    with_little_memory();
    for len in [1, 1 << 31, 1 << 63, u64::MAX] {
        for name in compressions() {
            let reason = compression_says(name, &len.to_le_bytes());
            assert!(reason.contains(&format!("{len} bytes, but only 0 follow")), "{reason}");
        }
    }
    for name in compressions() {
        let reason = compression_says(name, b"1234567");
        assert!(reason.contains("7 of the 8 bytes"), "{reason}");
    }
}

#[test]
fn a_declared_size_that_is_too_large_is_refused_before_allocation() {
    with_little_memory();
    // Snappy: a varint of 2³² - 1; LZ4: four bytes; zstd: eight.
    let snappy = compression_says("snappy", &frame(b"\xFF\xFF\xFF\xFF\x0Fabc"));
    assert!(snappy.contains("declares 4294967295 bytes"), "{snappy}");
    let snappy = compression_says("snappy", &frame(b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fabc"));
    assert!(!snappy.is_empty());
    let lz4 = compression_says("lz4", &frame(b"\xFF\xFF\xFF\xFFabc"));
    assert!(lz4.contains("declares 4294967295 bytes"), "{lz4}");
    let zstd = [&b"\x28\xB5\x2F\xFD\xE0"[..], &(1_u64 << 63).to_le_bytes(), b"\x01\0\0"].concat();
    let zstd = compression_says("zstd", &frame(&zstd));
    assert!(zstd.contains("declares 9223372036854775808 bytes"), "{zstd}");
    let mut blosc = compressed("blosc", b"good")[8..].to_vec();
    blosc[4..8].copy_from_slice(&0x7FFF_FFEF_u32.to_le_bytes());
    let blosc = compression_says("blosc", &frame(&blosc));
    assert!(blosc.contains("declares 2147483631 bytes"), "{blosc}");
}

#[test]
fn a_decompression_bomb_is_stopped_at_the_limit() {
    with_little_memory();
    let zeros = vec![0; 4 * LIMIT_BYTES];
    for name in compressions() {
        let reason = compression_says(name, &compressed(name, &zeros));
        assert!(reason.contains("more than the 10485"), "{name}: {reason}");
        assert!(reason.contains("`with_max_decoded_bytes`"), "{name}: {reason}");
    }
}

#[test]
fn many_small_decompression_bombs_in_one_value_share_one_limit() {
    with_little_memory();
    let half = compressed("zlib", &vec![0; LIMIT_BYTES / 2]);
    for (frames, threads) in [(2, 1), (3, 1), (2, 2), (200, 2)] {
        let dict = Dict::new();
        dict.append([("k", half.repeat(frames))]).unwrap();
        let layer = Zlib::new(dict).with_max_decoded_bytes(LIMIT_BYTES);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        match pool.install(|| (layer.get("k"), layer.len_of("k"))) {
            (Ok(value), Ok(len)) => {
                assert_eq!((frames, value.len(), len), (2, LIMIT_BYTES, LIMIT_BYTES as u64));
            }
            (Err(error), Err(_)) => {
                assert!(frames > 2 && error.to_string().contains("limit"), "{error}");
            }
            (value, len) => panic!("{} but {}", value.is_ok(), len.is_ok()),
        }
    }
}

#[test]
fn a_value_of_exactly_the_limit_is_read() {
    for name in compressions() {
        let value = vec![7; LIMIT_BYTES];
        let store = Dict::new();
        store.append([("k", compressed(name, &value))]).unwrap();
        let value_again = match name {
            "zlib" => Zlib::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
            "bz2" => Bz2::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
            "zstd" => Zstd::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
            "lz4" => Lz4::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
            "snappy" => Snappy::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
            _ => Blosc::new(store).with_max_decoded_bytes(LIMIT_BYTES).get("k"),
        };
        assert!(value_again.unwrap() == value, "{name}");
    }
}

fn pickle_says(pickle: &[u8]) -> String {
    pickle_says_within(LIMIT_BYTES, pickle)
}

fn pickle_says_within(limit_bytes: usize, pickle: &[u8]) -> String {
    let good = frame(b"\x80\x04].");
    let layer = Pickle::<i64, _>::new(behind(&good, &frame(pickle)));
    reason_of_second(layer.with_max_decoded_bytes(limit_bytes).get("k"), &good)
}

#[test]
fn a_pickle_nested_a_hundred_thousand_deep_is_refused() {
    with_little_memory();
    let deep = 100_000;
    let lists = [&b"\x80\x04"[..], &b"]".repeat(deep), &b"a".repeat(deep - 1), b"."].concat();
    let tuples = [&b"\x80\x04)"[..], &b"\x85".repeat(deep), b"."].concat();
    let marks = [&b"\x80\x04"[..], &b"(".repeat(deep), &b"t".repeat(deep), b"."].concat();
    let by_memo: Vec<u8> = [&b"\x80\x04)\x94"[..]]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain((0..deep as u32).map(|i| [b"j", &i.to_le_bytes()[..], b"\x85\x94"].concat()))
        .chain([vec![b'.']])
        .flatten()
        .collect();
    for pickle in [lists, tuples, marks, by_memo] {
        // The limit leaves room for what is on the stack before the nesting starts.
        let reason = pickle_says_within(16 * LIMIT_BYTES, &pickle);
        assert!(reason.contains("nested more than 128 deep"), "{reason}");
    }
}

#[test]
fn a_pickle_at_the_nesting_limit_is_read_on_a_small_stack() {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Nested(Vec<Nested>);
    let pickle = [&b"]".repeat(128)[..], &b"a".repeat(127), b"."].concat();
    let dict = Dict::new();
    dict.append([("k", frame(&pickle))]).unwrap();
    let mut list = Pickle::<Nested, _>::new(dict).get("k").unwrap();
    let mut depth = 1;
    while let Some(Nested(inner)) = list.pop() {
        (list, depth) = (inner, depth + 1);
    }
    assert_eq!(depth, 128);
}

#[test]
fn a_memo_bomb_is_refused_by_its_expanded_size() {
    with_little_memory();
    // Each list contains the previous one ten times.
    let mut pickle = b"\x80\x04](K\x01K\x02e\x94".to_vec();
    for i in 0..60_u8 {
        pickle.extend(b"](");
        pickle.extend([b'h', i].repeat(10));
        pickle.extend(b"e\x94");
    }
    // All lists but the last are still on the stack: collect them into one.
    let pickle = [&b"\x80\x04("[..], &pickle[2..], b"l."].concat();
    let reason = pickle_says(&pickle);
    assert!(reason.contains("bytes left of the limit"), "{reason}");
}

#[test]
fn a_self_referential_pickle_and_one_that_grows_through_its_memo_are_refused() {
    with_little_memory();
    let itself = pickle_says(b"\x80\x04]\x94h\x00a.");
    assert!(itself.contains("itself"), "{itself}");
    let later = pickle_says(b"\x80\x04]\x94(h\x00te.");
    assert!(!later.is_empty());
    let memo = pickle_says(b"]r\xFF\xFF\xFF\xFF.");
    assert!(memo.contains("out of order"), "{memo}");
    let twice = pickle_says(b"\x80\x04]q\x00q\x00.");
    assert!(twice.contains("used twice"), "{twice}");
    let length = pickle_says(b"\x80\x04\x8D\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fabc.");
    assert!(length.contains("it is truncated"), "{length}");
    let digits = [b"L", &b"9".repeat(5000)[..], b"L\n."].concat();
    assert!(pickle_says(&digits).contains("5000 digits is too large"));
    let call = pickle_says(b"cos\nsystem\n(X\x02\0\0\0lstR.");
    assert!(call.contains("calls a function"), "{call}");
}

#[test]
fn a_pickle_of_another_type_is_an_error_that_names_its_type() {
    let good = frame(b"\x80\x04].");
    let layer = Pickle::<String, _>::new(Dict::new());
    layer.append([("k", vec!["text".to_owned()])]).unwrap();
    let strings = layer.into_inner().get("k").unwrap();
    let layer = Pickle::<i64, _>::new(behind(&good, &strings));
    let reason = reason_of_second(layer.get("k"), &good);
    assert!(reason.contains("invalid type: string \"text\", expected i64"), "{reason}");
    let layer = Msgpack::<String, _>::new(Dict::new());
    layer.append([("k", vec!["text".to_owned()])]).unwrap();
    let strings = layer.into_inner().get("k").unwrap();
    let layer = Msgpack::<i64, _>::new(behind(&frame(b"\x90"), &strings));
    let reason = reason_of_second(layer.get("k"), &frame(b"\x90"));
    assert!(reason.contains("not hold a list of i64, the requested type"), "{reason}");
    assert!(reason.contains("read it through a layer of the type that was appended"), "{reason}");
}

fn msgpack_says(message: &[u8]) -> String {
    let good = frame(b"\x90");
    let layer = Msgpack::<i64, _>::new(behind(&good, &frame(message)));
    reason_of_second(layer.with_max_decoded_bytes(LIMIT_BYTES).get("k"), &good)
}

#[test]
fn hostile_msgpack_is_refused() {
    with_little_memory();
    let deep = [&b"\x91".repeat(100_000)[..], b"\x00"].concat();
    assert!(msgpack_says(&deep).contains("nested more than 128 deep"));
    for huge in [
        &b"\xDD\xFF\xFF\xFF\xFF\x00"[..],
        b"\xDB\xFF\xFF\xFF\xFFabc",
        b"\xC6\xFF\xFF\xFF\xFFabc",
        b"\x91\xC9\xFF\xFF\xFF\xFF\x01abc",
        b"\xDF\xFF\xFF\xFF\xFF\x00\x00",
        b"\x92\x01",
        b"",
    ] {
        assert!(msgpack_says(huge).contains("is truncated"), "{huge:?}");
    }
    assert!(msgpack_says(b"\x91\x01\x02").contains("1 bytes follow"));
    assert!(msgpack_says(b"\x91\xC1").contains("not MessagePack"));
    // A lone empty map is not a list, and not a pickle either.
    assert!(!msgpack_says(b"\x80").contains("pickle"));
}

fn batch() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let strings: ArrayRef = Arc::new(StringArray::from(vec!["EWR", "", "JFK"]));
    RecordBatch::try_from_iter([("n", numbers), ("s", strings)]).unwrap()
}

fn arrow_stream() -> Vec<u8> {
    let layer = Arrow::new(Dict::new());
    layer.append([("k", batch())]).unwrap();
    layer.into_inner().get("k").unwrap()[8..].to_vec()
}

#[test]
fn every_truncation_of_an_arrow_stream_is_an_error() {
    with_little_memory();
    let stream = arrow_stream();
    let good = frame(&stream);
    // A stream may end after any message; its schema alone is a batch without rows.
    let schema_len = 8 + u32::from_le_bytes(stream[4..8].try_into().unwrap()) as usize;
    for end in (0..stream.len()).filter(|end| *end != schema_len) {
        let layer = Arrow::new(behind(&good, &frame(&stream[..end])));
        let reason = reason_of_second(layer.get("k"), &good);
        let why = if end == 0 { "has no schema" } else { "it is truncated" };
        assert!(reason.contains(why), "{end}: {reason}");
    }
    let layer = Arrow::new(behind(&good, &frame(&stream[..schema_len])));
    assert_eq!(layer.get("k").unwrap(), batch());
    let end_of_stream = b"\xFF\xFF\xFF\xFF\0\0\0\0";
    let ended = frame(&[&stream[..], end_of_stream].concat());
    assert_eq!(Arrow::new(behind(&good, &ended)).get("k").unwrap().num_rows(), 6);
    let reason = reason_of_second(
        Arrow::new(behind(&good, &frame(&[&stream[..], end_of_stream, b"more"].concat()))).get("k"),
        &good,
    );
    assert!(reason.contains("follow the end of the stream"), "{reason}");
    let layer = Arrow::new(behind(b"", &good)).with_max_decoded_bytes(100);
    assert!(layer.get("k").unwrap_err().to_string().contains("100 bytes left of the limit"));
}

#[test]
fn arrow_batches_of_another_schema_are_an_error_that_shows_both() {
    let layer = Arrow::new(Dict::new());
    let other: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let other = RecordBatch::try_from_iter([("m", other)]).unwrap();
    layer.append([("k", batch()), ("k", other)]).unwrap();
    let reason = layer.get("k").unwrap_err().to_string();
    assert!(
        reason.contains("(n: Int64, s: Utf8 not null)") && reason.contains("(m: Int64 not null)"),
        "{reason}"
    );
    assert!(reason.contains("frame 1 at byte"), "{reason}");
}

#[test]
fn numpy_bytes_that_do_not_form_an_array_of_the_layer_are_errors() {
    let store = |dtype: &str, bytes: &[u8]| {
        let dict = Dict::new();
        dict.append([("k", bytes), ("k.dtype", dtype.as_bytes())]).unwrap();
        Numpy::<i64, _>::new(dict)
    };
    let say = |dtype: &str, bytes: &[u8]| store(dtype, bytes).get("k").unwrap_err().to_string();
    let cut = say("<i8", &[0; 19]);
    assert!(cut.contains("at byte 16") && cut.contains("19 bytes are not a whole number"), "{cut}");
    assert!(say("", &[0; 8]).contains("no dtype under its"));
    assert!(say("|O", &[0; 8]).contains("Python objects"));
    assert!(say("[('a', '<i8')]", &[0; 8]).contains("holds an array of dtype [(\\'a"));
    assert!(say(&"<i8".repeat(100_000), &[0; 8]).len() < 500);
    let limit = store("<i8", &[0; 24]).with_max_decoded_bytes(16).get("k").unwrap_err();
    assert!(limit.to_string().contains("16 bytes left of the limit"), "{limit}");
    // None of this is taken.
    let layer = store("<i8", &[0; 19]);
    layer.pop(["k"]).unwrap_err();
    assert_eq!(layer.inner().keys().unwrap().len(), 2);
}

#[test]
fn no_single_changed_byte_and_no_truncation_of_any_frame_panics() {
    with_little_memory();
    let value: Vec<u8> = values::bytes()[2][..600].to_vec();
    let mut decoded = 0;
    let mut check = |frames: &[u8], read: &dyn Fn(Dict) -> bool| {
        for at in 8..frames.len() {
            for change in [0x01, 0x80, 0xFF] {
                let mut changed = frames.to_vec();
                changed[at] ^= change;
                decoded += usize::from(read(behind(&[], &changed)));
            }
            decoded += usize::from(read(behind(&[], &frame(&frames[8..at]))));
        }
    };
    for name in compressions() {
        check(&compressed(name, &value), &|dict| {
            let max = LIMIT_BYTES;
            match name {
                "zlib" => Zlib::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
                "snappy" => Snappy::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
                "lz4" => Lz4::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
                "bz2" => Bz2::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
                "blosc" => Blosc::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
                _ => Zstd::new(dict).with_max_decoded_bytes(max).get("k").is_ok(),
            }
        });
    }
    check(&frame(&arrow_stream()), &|dict| Arrow::new(dict).get("k").is_ok());
    let pickles = values::read_golden("pickle/rows");
    let first = 8 + usize::from(pickles[0]);
    check(&pickles[..first], &|dict| Pickle::<values::Row, _>::new(dict).get("k").is_ok());
    let messages = values::read_golden("msgpack/rows");
    let first = 8 + usize::from(messages[0]);
    check(&messages[..first], &|dict| Msgpack::<values::Row, _>::new(dict).get("k").is_ok());
    // Some mutations still decode; the point is that none panics.
    assert!(decoded > 0);
}

#[test]
fn user_defined_layers_obey_the_limit_too() {
    let layer = Encode::from_fns(
        |value: &[u8]| Ok(value.to_vec()),
        |frame| Ok(frame.repeat(1000)),
        |parts| Ok(parts.concat()),
        Dict::new(),
    )
    .with_max_decoded_bytes(2000);
    layer.append([("two", "ab"), ("k", "abc")]).unwrap();
    assert_eq!(layer.get("two").unwrap().len(), 2000);
    assert!(layer.get("k").unwrap_err().to_string().contains("2000 bytes left of the limit"));
    assert!(layer.len_of("k").is_err());
}
