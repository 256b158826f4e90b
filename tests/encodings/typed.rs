//! Typed layers keep the contract of every store with their own values: append, get, iset, delete,
//! pop, clear, keys and sync, over every store below; and side keys follow their keys.

use std::sync::Arc;

use crate::counted::Counted;
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Int64Array, ListArray, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampNanosecondArray, types::Int32Type,
};
use ndarray::{Array1, array};
use partd::{
    Arrow, Buffer, Bz2, Dict, Error, Key, Msgpack, Numpy, Partd, Pickle, SegmentLog, Snappy, Typed,
    Zlib, compression,
};

use crate::values;

/// The behaviour of every typed layer, with three values and a function that joins them.
macro_rules! contract {
    ($test:ident, $new:expr, $a:expr, $b:expr, $empty:expr, $join:expr) => {
        #[test]
        fn $test() {
            fn run(below: Arc<dyn Partd>) {
                let p = $new(below.clone());
                let (a, b, join) = ($a, $b, $join);
                assert_eq!(p.get("x").unwrap(), $empty);
                assert!(!p.contains("x").unwrap());
                p.append([("x", &a), ("y", &b)]).unwrap();
                p.append_durable([("x", &b)]).unwrap();
                p.sync().unwrap();
                assert_eq!(p.get("x").unwrap(), join(&a, &b));
                assert_eq!(p.get_many(["y", "z", "x"]).unwrap(), [b.clone(), $empty, join(&a, &b)]);
                assert_eq!(p.keys().unwrap(), [Key::from("x"), Key::from("y")]);
                assert!(p.contains("x").unwrap() && !p.contains("z").unwrap());

                p.iset("s", &a).unwrap();
                p.iset("s", &b).unwrap();
                assert_eq!(p.get("s").unwrap(), a, "the first set wins");
                p.append([("s", &b)]).unwrap();
                assert_eq!(p.get("s").unwrap(), join(&a, &b));
                p.iset("x", &b).unwrap();
                assert_eq!(p.get("x").unwrap(), b, "a set replaces what was appended");

                assert_eq!(p.pop(["s", "z"]).unwrap(), [join(&a, &b), $empty]);
                assert_eq!(p.pop(["s"]).unwrap(), [$empty]);
                p.delete(["y", "z"]).unwrap();
                assert_eq!(p.keys().unwrap(), [Key::from("x")]);
                p.delete(["x"]).unwrap();
                assert_eq!(below.keys().unwrap(), [], "nothing stays in the store below");
                p.iset("x", &b).unwrap();
                assert_eq!(p.get("x").unwrap(), b, "a set after a delete counts");
                p.clear().unwrap();
                assert_eq!(p.get("x").unwrap(), $empty);
                assert_eq!(below.keys().unwrap(), []);
                p.append([(("a", 1), &a)]).unwrap();
                assert_eq!(p.get(("a", 1)).unwrap(), a);
                assert_eq!(p.keys().unwrap(), [Key::from(("a", 1))]);

                p.append([(("a", 2), &b), (("aa", 1), &b)]).unwrap();
                p.append([("a", &a), ("a.b", &a), ("ab", &b)]).unwrap();
                let of_a = [Key::from(("a", 1)), Key::from(("a", 2))];
                assert_eq!(p.keys_with_prefix(Key::tuple_prefix("a")).unwrap(), of_a);
                p.delete_prefix(Key::tuple_prefix("a")).unwrap();
                assert_eq!(p.keys_with_prefix(Key::tuple_prefix("a")).unwrap(), []);
                // A key stays whole if only its side key would begin with the prefix.
                p.delete_prefix("a.").unwrap();
                p.delete_prefix("ab.dtype").unwrap();
                assert_eq!(p.keys().unwrap(), ["a".into(), ("aa", 1).into(), "ab".into()]);
                assert_eq!(p.get_many(["a", "ab"]).unwrap(), [a.clone(), b.clone()]);
                p.delete_prefix("a").unwrap();
                assert_eq!(below.keys().unwrap(), [], "nothing stays in the store below");
            }
            run(Arc::new(Dict::new()));
            run(Arc::new(SegmentLog::temporary().unwrap()));
            let slow = SegmentLog::temporary().unwrap();
            run(Arc::new(Buffer::new(Dict::new(), slow, 200)));
            run(Arc::new(Zlib::new(Dict::new())));
            run(Arc::from(compression("snappy", Box::new(Dict::new())).unwrap()));
        }
    };
}

contract!(
    pickle_keeps_the_contract,
    Pickle::<i64, _>::new,
    vec![1, 2],
    vec![3],
    Vec::<i64>::new(),
    |a: &Vec<i64>, b: &Vec<i64>| [&a[..], b].concat()
);
contract!(
    msgpack_keeps_the_contract,
    Msgpack::<String, _>::new,
    vec!["a".to_owned()],
    vec!["b".to_owned(), String::new()],
    Vec::<String>::new(),
    |a: &Vec<String>, b: &Vec<String>| [&a[..], b].concat()
);
contract!(
    numpy_keeps_the_contract,
    Numpy::<f64, _>::new,
    array![1.0, 2.5],
    array![-0.5],
    Array1::<f64>::default(0),
    |a: &Array1<f64>, b: &Array1<f64>| a.iter().chain(b).copied().collect::<Array1<f64>>()
);
contract!(
    numpy_dates_keep_the_contract,
    |p| Numpy::datetime64(p, "ns").unwrap(),
    array![1, 2],
    array![i64::MIN],
    Array1::<i64>::default(0),
    |a: &Array1<i64>, b: &Array1<i64>| a.iter().chain(b).copied().collect::<Array1<i64>>()
);
contract!(
    arrow_keeps_the_contract,
    Arrow::new,
    rows(0..3),
    rows(7..8),
    RecordBatch::new_empty(Arc::new(arrow_schema::Schema::empty())),
    |a: &RecordBatch, b: &RecordBatch| {
        arrow_select::concat::concat_batches(&a.schema(), [a, b]).unwrap()
    }
);
contract!(
    closures_keep_the_contract,
    |p| Typed::from_fns(
        |value: &i64| Ok(value.to_be_bytes().to_vec()),
        |frame| Ok(i64::from_be_bytes(frame.try_into()?)),
        |parts| Ok(parts.iter().sum::<i64>()),
        p,
    ),
    40_i64,
    2_i64,
    0_i64,
    |a: &i64, b: &i64| a + b
);

/// Batches with the column types of data frames.
fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    let some: Vec<i64> = numbers.collect();
    let texts: Vec<String> = some.iter().map(|n| format!("text {n}")).collect();
    let lists = some.iter().map(|n| Some((0..*n % 3).map(Some).map(|n| n.map(|n| n as i32))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("number", Arc::new(Int64Array::from(some.clone()))),
        ("maybe", Arc::new(Int64Array::from_iter(some.iter().map(|n| (n % 2 == 0).then_some(*n))))),
        ("flag", Arc::new(BooleanArray::from_iter(some.iter().map(|n| Some(n % 3 == 0))))),
        ("text", Arc::new(StringArray::from(texts.clone()))),
        ("view", Arc::new(StringViewArray::from_iter_values(texts.iter()))),
        ("time", Arc::new(TimestampNanosecondArray::from(some.clone()))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        (
            "category",
            Arc::new(texts.iter().map(|_| Some("EWR")).collect::<DictionaryArray<Int32Type>>()),
        ),
        (
            "struct",
            Arc::new(
                StructArray::try_from(vec![(
                    "inner",
                    Arc::new(Int64Array::from(some)) as ArrayRef,
                )])
                .unwrap(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

/// The stored bytes stay readable: the golden value was written by the first build with this layer.
/// `UPDATE_GOLDEN=1` rewrites it.
#[test]
fn arrow_frames_of_an_earlier_build_are_read() {
    let path = values::golden("arrow/rows");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let layer = Arrow::new(Dict::new());
        layer.append([("x", rows(0..3)), ("x", rows(5..7))]).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, layer.inner().get("x").unwrap()).unwrap();
    }
    let dict = Dict::new();
    dict.append([("x", values::read_golden("arrow/rows"))]).unwrap();
    let read = Arrow::new(dict).get("x").unwrap();
    assert_eq!(read.slice(0, 3), rows(0..3));
    assert_eq!(read.slice(3, 2), rows(5..7));
}

#[test]
fn layers_nest_over_a_store_on_disk_statically_and_at_run_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = Pickle::<i64, _>::new(Bz2::new(SegmentLog::open(&path).unwrap()));
    p.append([("x", vec![1, 2]), ("y", vec![])]).unwrap();
    p.append([("x", vec![3])]).unwrap();
    assert_eq!(p.get("x").unwrap(), [1, 2, 3]);
    drop(p);
    let store: Box<dyn Partd> = Box::new(SegmentLog::open(&path).unwrap());
    let p = Pickle::<i64, _>::new(compression("bz2", store).unwrap());
    p.append([("x", [4])]).unwrap();
    assert_eq!(p.get_many(["x", "y", "z"]).unwrap(), [vec![1, 2, 3, 4], vec![], vec![]]);
    assert!(p.contains("y").unwrap() && !p.contains("z").unwrap());
    assert_eq!(p.pop(["x"]).unwrap(), [[1, 2, 3, 4]]);
}

#[test]
fn many_values_in_parallel_come_back_in_order() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    let value = |key: i64| (0..500).map(|i| key * 1000 + i).collect::<Vec<i64>>();
    pool.install(|| {
        let p = Pickle::<i64, _>::new(Snappy::new(Dict::new()));
        for _ in 0..3 {
            p.append((0..200).map(|key| (key, value(key)))).unwrap();
        }
        let read = p.get_many(0..200).unwrap();
        for (key, read) in (0..200).zip(read) {
            assert_eq!(read, value(key).repeat(3));
        }
    });
}

#[test]
fn side_keys_are_hidden_and_removed_with_their_keys_in_one_batch() {
    let p = Numpy::<i32, _>::new(Dict::new());
    p.append([("x", &[1, 2]), ("y", &[3, 4])]).unwrap();
    let all: Vec<Key> = ["x", "x.dtype", "y", "y.dtype"].map(Key::from).to_vec();
    assert_eq!(p.inner().keys().unwrap(), all);
    assert_eq!(p.keys().unwrap(), [Key::from("x"), Key::from("y")]);
    assert_eq!(p.inner().get("x.dtype").unwrap(), b"<i4");
    p.delete(["x"]).unwrap();
    assert_eq!(p.inner().keys().unwrap(), all[2..]);
    assert_eq!(p.pop(["y"]).unwrap(), [array![3, 4]]);
    assert_eq!(p.inner().keys().unwrap(), []);
}

#[test]
fn data_and_dtypes_are_written_deleted_and_taken_in_one_call_to_the_store_below() {
    let store = Arc::new(Counted::default());
    let p = Numpy::<i32, _>::new(store.clone());
    let changes = |store: &Counted| {
        let mut calls = store.calls();
        calls.retain(|call| ["write", "write_within", "take"].contains(call));
        calls
    };
    p.append([("x", &[1, 2]), ("y", &[3, 4]), ("z", &[5, 6])]).unwrap();
    assert_eq!(changes(&store), ["write"]);
    p.append([("x", &[3]), ("y", &[5])]).unwrap();
    assert_eq!(changes(&store), ["write"]);
    p.append_durable([("z", &[7])]).unwrap();
    p.iset("s", &[8]).unwrap();
    assert_eq!(changes(&store), ["write", "write"]);
    p.delete(["x", "s"]).unwrap();
    assert_eq!(changes(&store), ["write"]);
    assert_eq!(p.pop(["y", "z"]).unwrap(), [array![3, 4, 5], array![5, 6, 7]]);
    assert_eq!(changes(&store), ["take"]);
    assert_eq!(store.keys().unwrap(), []);
}

#[test]
fn the_length_of_a_typed_value_counts_list_items_array_elements_or_rows() {
    let p = Pickle::<i64, _>::new(Zlib::new(Dict::new()));
    p.append([("x", vec![1, 2]), ("x", vec![3]), ("empty", vec![])]).unwrap();
    let lens = ["x", "empty", "none"].map(|key| p.len_of(key).unwrap());
    assert_eq!(lens, [3, 0, 0]);
    let p = Arrow::new(Dict::new());
    p.append([("x", rows(0..3)), ("x", rows(5..7))]).unwrap();
    assert_eq!(["x", "none"].map(|key| p.len_of(key).unwrap()), [5, 0]);
    let store = Arc::new(Counted::default());
    let p = Numpy::<i32, _>::new(store.clone());
    p.append([("x", &[1, 2][..]), ("empty", &[])]).unwrap();
    store.calls();
    assert_eq!(p.len_of("x").unwrap(), 2);
    assert_eq!(store.calls(), ["read", "lens"], "the dtype is read, the elements are not");
    assert_eq!(["empty", "none"].map(|key| p.len_of(key).unwrap()), [0, 0]);
    let other = Numpy::<f64, _>::new(store.clone());
    assert!(matches!(other.len_of("x"), Err(Error::Mismatch { .. })));
    store.append([("x", "odd")]).unwrap();
    assert!(p.len_of("x").unwrap_err().to_string().contains("not a whole number of elements"));
}

#[test]
fn many_large_arrays_are_copied_on_several_threads_and_come_back_in_order() {
    let array = |key: i32| (0..100_000).map(|i| key * 7 + i).collect::<Array1<i32>>();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let p = Numpy::<i32, _>::new(Dict::new());
            for key in 0..7 {
                p.append([(key, &array(key)), (key, &array(-key))]).unwrap();
            }
            let read = p.get_many((0..8).rev()).unwrap();
            assert_eq!(read[0].len(), 0);
            for (key, read) in (0..7).rev().zip(&read[1..]) {
                assert!(read.iter().eq(array(key).iter().chain(&array(-key))), "{key}");
            }
            p.inner().append([(5, "odd")]).unwrap();
            let error = p.get_many(0..7).unwrap_err().to_string();
            assert!(error.contains("key \"5\""), "{error}");
        });
    }
}

#[test]
fn a_key_with_the_suffix_of_a_side_key_is_refused_everywhere() {
    let p = Numpy::<i32, _>::new(Dict::new());
    let bad = || Key::from("x.dtype");
    let refused = |result: partd::Result<()>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(error.to_string().contains("\"x.dtype\" ends in `.dtype`"), "{error}");
    };
    refused(p.append([(bad(), &[1])]));
    refused(p.append([(Key::from("fine"), &[1]), (bad(), &[1])]));
    refused(p.iset(bad(), &[1]));
    refused(p.get(bad()).map(drop));
    refused(p.pop([bad()]).map(drop));
    refused(p.delete([bad()]));
    refused(p.contains(bad()).map(drop));
    refused(p.dtype(bad()).map(drop));
    assert_eq!(p.inner().keys().unwrap(), [], "nothing of a refused batch is written");
}

#[test]
fn a_different_dtype_is_refused_on_append_and_on_get_and_the_error_shows_both() {
    let store = Arc::new(Dict::new());
    let ints = Numpy::<i32, _>::new(store.clone());
    let floats = Numpy::<f64, _>::new(store.clone());
    ints.append([("x", &[1])]).unwrap();
    for error in [
        floats.append([("new", &[1.0]), ("x", &[1.0])]).unwrap_err(),
        floats.iset("x", &[1.0]).unwrap_err(),
        floats.get("x").unwrap_err(),
        floats.pop(["x"]).unwrap_err(),
    ] {
        assert_eq!(
            error.to_string(),
            "Numpy: key \"x\" holds an array of dtype <i4, but this layer expects dtype <f8; use a \
             layer of the stored type, or delete the key first"
        );
    }
    assert_eq!(ints.get("x").unwrap(), array![1]);
    assert_eq!(store.keys().unwrap().len(), 2);
    ints.delete(["x"]).unwrap();
    floats.append([("x", &[1.0])]).unwrap();
    assert_eq!(floats.dtype("x").unwrap().as_deref(), Some("<f8"));
    assert_eq!(floats.dtype("none").unwrap(), None);
}

#[test]
fn bytes_without_a_dtype_do_not_become_part_of_an_array() {
    let p = Numpy::<i32, _>::new(Dict::new());
    p.inner().append([("x", "text")]).unwrap();
    for error in [p.append([("x", &[1])]).unwrap_err(), p.get("x").unwrap_err()] {
        assert!(error.to_string().contains("no dtype under its"), "{error}");
    }
    assert_eq!(p.inner().get("x").unwrap(), b"text");
}

#[test]
fn an_unknown_time_unit_is_an_error_that_lists_the_units() {
    for unit in ["", "sec", "0s", "01s", "1s", "99999999999s", "s5", "ns]"] {
        let error = Numpy::datetime64(Dict::new(), unit).unwrap_err().to_string();
        assert!(error.contains("choose from Y, M, W, D"), "{error}");
        assert!(Numpy::timedelta64(Dict::new(), unit).is_err());
    }
    Numpy::timedelta64(Dict::new(), "100us").unwrap();
}

#[test]
fn empty_lists_and_arrays_make_their_keys_exist() {
    let p = Pickle::<i64, _>::new(Dict::new());
    p.append([("x", [])]).unwrap();
    assert!(p.contains("x").unwrap());
    assert_eq!(p.get("x").unwrap(), []);
    let p = Numpy::<i64, _>::new(Dict::new());
    p.append([("x", &[])]).unwrap();
    assert!(p.contains("x").unwrap());
    assert_eq!(p.get("x").unwrap().len(), 0);
}

#[test]
fn an_append_of_columns_that_arrow_cannot_store_is_refused() {
    let children: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1]))];
    let fields =
        [(0, Arc::new(arrow_schema::Field::new("a", children[0].data_type().clone(), true)))];
    let union = arrow_array::UnionArray::try_new(
        fields.into_iter().collect(),
        vec![0_i8].into(),
        None,
        children,
    )
    .unwrap();
    let batch = RecordBatch::try_from_iter([("u", Arc::new(union) as ArrayRef)]).unwrap();
    let error = Arrow::new(Dict::new()).append([("x", batch)]).unwrap_err();
    assert!(matches!(&error, Error::Encode { layer: "Arrow", .. }), "{error}");
    assert!(error.to_string().contains("column \"u\" has type Union"), "{error}");
}
