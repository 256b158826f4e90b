//! The limit on decoded bytes applies to the memory that a value really takes, over all its frames
//! and with any number of threads; and an error names its frame, however the work was split.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use partd::{Arrow, Dict, Encode, Error, Key, Msgpack, Partd, Pickle, Zlib};

/// The limit on decoded bytes in these tests.
const LIMIT_BYTES: usize = 1 << 20;
/// The number of frames in a value that is split into several runs, and the bytes of each.
const FRAMES: usize = 40;
const FRAME_BYTES: usize = 5000;

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_le_bytes()[..], body].concat()
}

fn store(value: &[u8]) -> Dict {
    let dict = Dict::new();
    dict.append([("k", value)]).unwrap();
    dict
}

/// Bytes that do not compress.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed as u64 + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Runs `test` with rayon pools of one and of several threads.
fn with_threads(test: impl Fn() + Send + Sync) {
    for threads in [1, 3] {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&test);
    }
}

/// The frame and the offset that an error names, and its reason.
#[track_caller]
fn place<T: std::fmt::Debug>(result: partd::Result<T>) -> (usize, u64, String) {
    match result {
        Err(Error::Decode { key, frame, offset, reason, .. }) => {
            assert_eq!(key, Key::from("k"));
            (frame, offset, reason)
        }
        Err(other) => panic!("another error: {other}"),
        Ok(value) => panic!("decoded: {:.200}", format!("{value:?}")),
    }
}

/// Checks that a value of equal frames, of which only the first `fit` are within the limit, is
/// refused at the next one.
#[track_caller]
fn check_refused<T: std::fmt::Debug>(result: partd::Result<T>, fit: usize, frame_bytes: usize) {
    let (frame, offset, reason) = place(result);
    assert_eq!((frame, offset), (fit, (fit * frame_bytes) as u64), "{reason}");
    assert!(reason.contains("left of the limit"), "{reason}");
}

#[test]
fn pickles_that_expand_by_their_memo_share_one_limit_over_their_frames() {
    // A list that contains the same thousand numbers twenty times: 640 kB when expanded.
    let inner = [&b"](K\x01"[..], &b"K\x01".repeat(999), b"e\x94"].concat();
    let pickle = [&b"\x80\x04]("[..], &inner, &b"h\x00".repeat(19), b"e."].concat();
    let bomb = frame(&pickle);
    let layer = |frames: usize| {
        let p = Pickle::<Vec<i64>, _>::new(store(&bomb.repeat(frames)));
        p.with_max_decoded_bytes(LIMIT_BYTES)
    };
    with_threads(|| {
        assert_eq!(layer(1).get("k").unwrap().len(), 20);
        for frames in [2, 60] {
            check_refused(layer(frames).get("k"), 1, bomb.len());
        }
    });
}

#[test]
fn messages_of_long_strings_share_one_limit_over_their_frames() {
    // One text of 300,000 bytes.
    let text = [&b"\x91\xDB\x00\x04\x93\xE0"[..], &b"x".repeat(300_000)].concat();
    let frame = frame(&text);
    with_threads(|| {
        let p = Msgpack::<String, _>::new(store(&frame.repeat(5)));
        check_refused(p.with_max_decoded_bytes(LIMIT_BYTES).get("k"), 3, frame.len());
        let p = Msgpack::<String, _>::new(store(&frame.repeat(3)));
        assert_eq!(p.with_max_decoded_bytes(LIMIT_BYTES).get("k").unwrap().len(), 3);
    });
}

#[test]
fn messages_of_many_small_values_are_charged_the_memory_of_the_values() {
    // A hundred thousand empty lists, of one byte each.
    let lists = [&b"\xDD\x00\x01\x86\xA0"[..], &b"\x90".repeat(100_000)].concat();
    let p = Msgpack::<Vec<i64>, _>::new(store(&frame(&lists)));
    check_refused(p.with_max_decoded_bytes(LIMIT_BYTES).get("k"), 0, 0);
}

#[test]
fn pickles_are_limited_by_the_memory_needed_to_run_them() {
    for opcodes in [&b"N"[..], b"]", b"]\x94", b"h\x00", b"V\n", b"Vab\n"] {
        let start = b"\x80\x04N\x94".to_vec();
        let pickle = [start, opcodes.repeat((1 << 20) / opcodes.len()), b".".to_vec()].concat();
        let p = Pickle::<i64, _>::new(store(&frame(&pickle)));
        let (_, _, reason) = place(p.with_max_decoded_bytes(LIMIT_BYTES).get("k"));
        assert!(reason.contains("left of the limit"), "{}: {reason}", opcodes.escape_ascii());
    }
    // A memo index that is far above the number of entries.
    let skip = [&b"\x80\x04B\x00\x00\x08\x00"[..], &[7; 0x8_0000], b"r\xFF\xFF\x07\x00."].concat();
    let p = Pickle::<i64, _>::new(store(&frame(&skip)));
    let (_, _, reason) = place(p.with_max_decoded_bytes(LIMIT_BYTES).get("k"));
    assert!(reason.contains("left of the limit"), "{reason}");
}

#[test]
fn an_arrow_stream_of_many_columns_counts_its_bytes_once() {
    let column: ArrayRef = Arc::new(Int64Array::from((0..500).collect::<Vec<i64>>()));
    let columns: Vec<(String, ArrayRef)> =
        (0..200).map(|i| (format!("column {i}"), column.clone())).collect();
    let wide = RecordBatch::try_from_iter(columns).unwrap();
    let p = Arrow::new(Dict::new());
    p.append([("k", &wide)]).unwrap();
    let bytes = p.inner().len_of("k").unwrap() as usize;
    let p = p.with_max_decoded_bytes(2 * bytes);
    assert_eq!(p.get("k").unwrap(), wide);
    p.append([("k", &wide)]).unwrap();
    assert_eq!(p.get("k").unwrap().num_rows(), 1000);
    p.append([("k", &wide)]).unwrap();
    let (frame, offset, reason) = place(p.get("k"));
    assert_eq!((frame, offset), (2, 2 * bytes as u64));
    assert!(reason.contains("limit"), "{reason}");
}

#[test]
fn the_frame_that_exceeds_the_limit_is_named_however_the_work_was_split() {
    let p = Zlib::new(Dict::new());
    p.append((0..FRAMES).map(|i| ("k", noise(i, FRAME_BYTES)))).unwrap();
    let stored = p.into_inner().get("k").unwrap();
    let first = 8 + u64::from_le_bytes(stored[..8].try_into().unwrap());
    with_threads(|| {
        for bad in 1..FRAMES {
            let max = bad * FRAME_BYTES + 100;
            let p = Zlib::new(store(&stored)).with_max_decoded_bytes(max);
            let (frame, offset, reason) = place(p.get("k"));
            assert_eq!(frame, bad, "{reason}");
            assert!(offset >= bad as u64 * FRAME_BYTES as u64 && offset <= bad as u64 * first);
            assert!(reason.contains("limit"), "{reason}");
            assert_eq!(place(p.len_of("k")).0, bad);
        }
    });
}

#[test]
fn the_frame_of_another_schema_is_named_however_the_work_was_split() {
    let rows = |name: &str| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; 500]));
        RecordBatch::try_from_iter([(name, column)]).unwrap()
    };
    with_threads(|| {
        for bad in 1..FRAMES {
            let p = Arrow::new(Dict::new());
            p.append((0..FRAMES).map(|i| ("k", rows(if i < bad { "n" } else { "m" })))).unwrap();
            let bytes = p.inner().len_of("k").unwrap();
            assert!(bytes > 128 << 10);
            let (frame, offset, reason) = place(p.get("k"));
            assert_eq!((frame, offset), (bad, bad as u64 * bytes / FRAMES as u64), "{reason}");
            assert!(reason.contains("before it was (n: Int64 not null)"), "{reason}");
            assert!(reason.contains("here it is (m: Int64 not null)"), "{reason}");
        }
    });
}

/// A layer whose join result depends on the number of calls.
fn bracketed() -> Encode<impl partd::Codec<In = [u8], Out = Vec<u8>>, Dict> {
    Encode::from_fns(
        |value: &[u8]| Ok(value.to_vec()),
        |frame| Ok(frame.to_vec()),
        |parts| Ok([b"(", &parts.join(&b'+')[..], b")"].concat()),
        Dict::new(),
    )
}

#[test]
fn join_is_called_once_per_value_as_in_python_and_its_result_determines_the_length() {
    with_threads(|| {
        let p = bracketed();
        let long = vec![b'x'; FRAME_BYTES];
        p.append((0..FRAMES).map(|_| ("long", &long))).unwrap();
        p.append([("two", "a"), ("two", "b"), ("one", "a")]).unwrap();
        let expected = [b"(", &vec![&long[..]; FRAMES].join(&b'+')[..], b")"].concat();
        assert!(p.get("long").unwrap() == expected);
        let small = p.get_many(["two", "one", "none"]).unwrap();
        assert_eq!(small, [&b"(a+b)"[..], b"(a)", b"()"]);
        let lens = p.lens(&["long", "two", "one", "none"].map(Key::from)).unwrap();
        assert_eq!(lens, [Some(expected.len() as u64), Some(5), Some(3), None]);
        assert_eq!(p.len_of("two").unwrap(), 5);
        assert_eq!(p.pop(["two"]).unwrap(), [b"(a+b)"]);
    });
}

#[test]
fn a_value_whose_parts_cannot_be_joined_is_an_error_that_names_no_frame() {
    let p = Encode::from_fns(
        |value: &[u8]| Ok(value.to_vec()),
        |frame| Ok(frame.to_vec()),
        |parts| match parts.len() {
            0..=2 => Ok(parts.concat()),
            _ => Err("three are too many".into()),
        },
        Dict::new(),
    );
    p.append([("k", "a"), ("k", "b")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"ab");
    p.append([("k", "c")]).unwrap();
    let error = p.get("k").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Encode: the 3 values of key \"k\" cannot be joined: three are too many"
    );
    assert_eq!(p.pop(["k"]).unwrap_err().to_string(), error.to_string());
    assert_eq!(p.inner().len_of("k").unwrap(), 27, "the value stays in the store");
}
