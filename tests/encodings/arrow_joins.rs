//! Batches whose types cannot hold all of their rows at once: they are merged if that helps;
//! otherwise they can be read and popped one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, UInt8Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int8Array, Int16Array,
    Int64Array, ListArray, NullArray, RecordBatch, RecordBatchOptions, RunArray, StringArray,
    StringViewArray, StructArray, UInt8Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use partd::{Arrow, Dict, Durability, Error, Key, Partd, Zstd};

fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap()
}

/// `count` categories starting at `from`, each in one row, with 8-bit keys.
fn categories(values: &dyn Fn(usize) -> ArrayRef, from: usize) -> ArrayRef {
    let values = values(from);
    let keys = UInt8Array::from_iter_values((0..values.len()).map(|i| i as u8));
    Arc::new(DictionaryArray::<UInt8Type>::try_new(keys, values).unwrap())
}

fn texts(from: usize) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((from..from + 200).map(|i| format!("category {i}"))))
}

fn views(from: usize) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values((from..from + 200).map(|i| format!("category {i}"))))
}

fn fixed(from: usize) -> ArrayRef {
    let values = (from as u64..from as u64 + 200).map(u64::to_le_bytes);
    Arc::new(FixedSizeBinaryArray::try_from_iter(values).unwrap())
}

fn numbers(from: usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(from as i64..from as i64 + 200))
}

/// The values of a dictionary, row by row, as bytes that identify them.
fn decoded(column: &dyn Array) -> ArrayRef {
    let dictionary = column.as_any_dictionary();
    let keys =
        Int64Array::from_iter(dictionary.normalized_keys().into_iter().map(|key| Some(key as i64)));
    arrow_select::take::take(dictionary.values(), &keys, None).unwrap()
}

#[test]
fn dictionaries_with_equal_values_are_merged_if_their_keys_would_overflow() {
    let types: [&dyn Fn(usize) -> ArrayRef; 4] = [&texts, &views, &fixed, &numbers];
    for values in types {
        let p = Arrow::new(Dict::new());
        let parts: Vec<RecordBatch> =
            [0, 50, 30, 0].iter().map(|&from| batch(categories(values, from))).collect();
        p.append(parts.iter().map(|part| ("k", part))).unwrap();
        let joined = p.get("k").unwrap();
        assert_eq!(joined.num_rows(), 800);
        assert!(joined.column(0).as_any_dictionary().values().len() <= 256);
        for (i, part) in parts.iter().enumerate() {
            let rows = joined.column(0).slice(200 * i, 200);
            assert_eq!(&decoded(&rows), &decoded(part.column(0)));
        }
        assert_eq!(p.pop(["k"]).unwrap(), [joined]);
    }
}

#[test]
fn merged_dictionaries_keep_both_kinds_of_nulls_and_nested_values() {
    let part = |from: i32| -> ArrayRef {
        let values = (from..from + 100).map(|i| (i % 10 != 3).then(|| format!("{i}")));
        let keys = (0..100_i8).map(|i| (i % 7 != 2).then_some(i));
        let dictionary = DictionaryArray::<Int8Type>::try_new(
            keys.collect(),
            Arc::new(values.collect::<StringViewArray>()),
        );
        Arc::new(dictionary.unwrap())
    };
    let nested = |from: i32| -> ArrayRef {
        let (inner, flags) = (part(from), BooleanArray::from(vec![true; 100]));
        let field = Field::new("categories", inner.data_type().clone(), true);
        let flag = Field::new("flag", DataType::Boolean, true);
        let structs = StructArray::from(vec![
            (Arc::new(field), inner),
            (Arc::new(flag), Arc::new(flags) as ArrayRef),
        ]);
        let item = Field::new("item", structs.data_type().clone(), true);
        let offsets = OffsetBuffer::from_lengths([20, 0, 70, 10]);
        Arc::new(ListArray::try_new(item.into(), offsets, Arc::new(structs), None).unwrap())
    };
    let flat = |column: &ArrayRef| -> Vec<Option<String>> {
        let structs = column.as_list::<i32>().values().as_struct();
        let dictionary = structs.column(0).as_dictionary::<Int8Type>();
        let texts = dictionary.downcast_dict::<StringViewArray>().unwrap();
        texts.into_iter().map(|text| text.map(str::to_owned)).collect()
    };
    let p = Arrow::new(Dict::new());
    let parts = [nested(0), nested(10), nested(0)];
    p.append(parts.iter().map(|part| ("k", batch(part.clone())))).unwrap();
    let joined = p.get("k").unwrap();
    assert_eq!(joined.num_rows(), 12);
    let expected: Vec<_> = parts.iter().flat_map(flat).collect();
    assert_eq!(flat(joined.column(0)), expected);
}

/// Batches of one key that cannot be joined, and the required text of the error.
fn unjoinable() -> Vec<(&'static str, Vec<RecordBatch>, &'static str)> {
    let dictionaries = |values: &dyn Fn(usize) -> ArrayRef| {
        vec![batch(categories(values, 0)), batch(categories(values, 200))]
    };
    let bools = |_: usize| -> ArrayRef {
        let lists: Vec<_> = (0..200).map(|i| Some(vec![Some(i)])).collect();
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))
    };
    let runs = || -> ArrayRef {
        let ends = Int16Array::from_iter_values([20_000]);
        Arc::new(RunArray::<Int16Type>::try_new(&ends, &texts(0).slice(0, 1)).unwrap())
    };
    let long_lists = || -> ArrayRef {
        // The items have no bytes; only their number counts.
        let items: ArrayRef = Arc::new(NullArray::new(1_500_000_000));
        let field = Field::new("item", DataType::Null, true);
        let offsets = OffsetBuffer::from_lengths([1_500_000_000]);
        Arc::new(ListArray::try_new(field.into(), offsets, items, None).unwrap())
    };
    let other = RecordBatch::try_from_iter([("d", numbers(0))]).unwrap();
    vec![
        ("texts", dictionaries(&texts), "more than the 256 values that keys of UInt8"),
        ("views", dictionaries(&views), "more than the 256 values that keys of UInt8"),
        ("fixed", dictionaries(&fixed), "more than the 256 values that keys of UInt8"),
        ("numbers", dictionaries(&numbers), "more than the 256 values that keys of UInt8"),
        ("lists", dictionaries(&bools), "more values than its keys can count"),
        ("runs", vec![batch(runs()), batch(runs())], "column \"c\" of type RunEndEncoded"),
        ("long lists", vec![batch(long_lists()), batch(long_lists())], "3000000000 items"),
        ("schemas", vec![batch(numbers(0)), other], "one schema"),
    ]
}

#[test]
fn batches_that_cannot_be_joined_are_read_and_popped_one_by_one_as_the_error_says() {
    for (name, parts, reason) in unjoinable() {
        let p = Arrow::new(Dict::new());
        p.append(parts.iter().map(|part| ("k", part))).unwrap();
        p.append([("other", &parts[0])]).unwrap();
        for error in [p.get("k").unwrap_err(), p.pop(["other", "k"]).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains(reason) && error.contains("`batches`"), "{name}: {error}");
            assert!(error.contains("key \"k\""), "{name}: {error}");
        }
        assert!(
            p.contains("k").unwrap() && p.contains("other").unwrap(),
            "{name}: nothing is gone"
        );
        let rows: usize = parts.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(p.len_of("k").unwrap(), rows as u64, "{name}");
        let read: Vec<RecordBatch> = p.batches("k").unwrap().map(Result::unwrap).collect();
        // Comparing lists of a billion items takes long.
        if name != "long lists" {
            assert_eq!(read, parts, "{name}");
        }
        assert_eq!(read.len(), parts.len(), "{name}");
        let popped = p.pop_batches("k").unwrap();
        assert!(!p.contains("k").unwrap(), "{name}");
        assert_eq!(popped.map(Result::unwrap).count(), parts.len(), "{name}");
        assert_eq!(p.get("other").unwrap().num_rows(), parts[0].num_rows());
    }
}

#[test]
fn a_missing_key_has_no_batches() {
    let p = Arrow::new(Dict::new());
    assert!(p.batches("none").unwrap().next().is_none());
    assert!(p.pop_batches("none").unwrap().next().is_none());
    assert_eq!(p.len_of("none").unwrap(), 0);
}

#[test]
fn a_damaged_batch_is_an_error_at_its_position_and_pop_then_removes_nothing() {
    let good = batch(numbers(0));
    let p = Arrow::new(Dict::new());
    p.append([("k", &good)]).unwrap();
    let at = p.inner().len_of("k").unwrap();
    p.inner().append([("k", [&3_u64.to_le_bytes()[..], b"bad"].concat())]).unwrap();
    p.append([("k", &good)]).unwrap();
    let check = |error: Error| match error {
        Error::Decode { layer: "Arrow", key, frame: 1, offset, .. } => {
            assert_eq!((key, offset), (Key::from("k"), at));
        }
        other => panic!("{other}"),
    };
    let read: Vec<_> = p.batches("k").unwrap().collect();
    assert_eq!(read.len(), 3);
    for (i, batch) in read.into_iter().enumerate() {
        match i {
            1 => check(batch.unwrap_err()),
            _ => assert_eq!(batch.unwrap(), good),
        }
    }
    check(p.pop_batches("k").unwrap_err());
    check(p.len_of("k").unwrap_err());
    assert_eq!(p.batches("k").unwrap().count(), 3, "the value stays in the store");

    p.inner().append([("cut", b"abc")]).unwrap();
    assert!(p.batches("cut").unwrap_err().to_string().contains("it was truncated"));
    assert!(p.pop_batches("cut").is_err());
    assert_eq!(p.inner().get("cut").unwrap(), b"abc");
}

/// A store in which another writer appends something undecodable between the read and the take of a
/// pop.
struct Interrupted {
    store: Dict,
    takes: AtomicUsize,
}

impl Partd for Interrupted {
    fn write(&self, batch: &partd::Batch<'_>, durability: Durability) -> partd::Result<()> {
        self.store.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> partd::Result<Vec<Vec<u8>>> {
        self.store.read(keys)
    }
    fn take(&self, keys: &[Key]) -> partd::Result<Vec<Vec<u8>>> {
        if self.takes.fetch_add(1, Ordering::Relaxed) == 0 {
            self.store.append([("k", [&3_u64.to_le_bytes()[..], b"bad"].concat())])?;
        }
        self.store.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> partd::Result<Vec<Option<u64>>> {
        self.store.lens(keys)
    }
    fn keys(&self) -> partd::Result<Vec<Key>> {
        self.store.keys()
    }
    fn sync(&self) -> partd::Result<()> {
        self.store.sync()
    }
}

#[test]
fn a_pop_of_batches_writes_back_batches_it_cannot_decode() {
    let p = Arrow::new(Interrupted { store: Dict::new(), takes: AtomicUsize::new(0) });
    let good = batch(numbers(7));
    p.append([("k", &good)]).unwrap();
    let error = p.pop_batches("k").unwrap_err().to_string();
    assert!(error.contains("the bytes taken were written back"), "{error}");
    let mut batches = p.batches("k").unwrap();
    assert_eq!(batches.next().unwrap().unwrap(), good);
    assert!(batches.next().unwrap().is_err());
}

#[test]
fn the_limit_on_decoded_bytes_applies_to_each_batch_separately() {
    let p = Arrow::new(Dict::new());
    p.append((0..20).map(|_| ("k", batch(numbers(0))))).unwrap();
    let bytes = p.inner().len_of("k").unwrap() as usize;
    let p = p.with_max_decoded_bytes(bytes / 10);
    assert!(p.get("k").unwrap_err().to_string().contains("left of the limit"));
    assert_eq!(p.batches("k").unwrap().map(Result::unwrap).count(), 20);
    let p = p.with_max_decoded_bytes(bytes / 30);
    assert!(p.batches("k").unwrap().next().unwrap().is_err());
}

#[test]
fn an_append_of_an_unreadable_batch_is_refused() {
    let schema = Schema::empty().into();
    let options = RecordBatchOptions::new().with_row_count(Some(1 << 33));
    let rows = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
    let items: ArrayRef = Arc::new(NullArray::new(1 << 33));
    let field = Field::new("item", DataType::Null, true);
    let list = arrow_array::LargeListArray::try_new(
        field.into(),
        OffsetBuffer::from_lengths([1 << 33]),
        items,
        None,
    );
    for batch in [rows, batch(Arc::new(list.unwrap()))] {
        let p = Arrow::new(Dict::new());
        let error = p.append([("k", batch)]).unwrap_err();
        assert!(matches!(error, Error::Encode { layer: "Arrow", .. }), "{error}");
        assert!(error.to_string().contains("an impossible number of rows"), "{error}");
        assert!(!p.contains("k").unwrap());
    }
}

#[test]
fn small_dictionaries_that_grow_over_many_batches_are_joined() {
    // 8-bit keys, as pandas creates them, with the same three categories in every partition.
    let part = |i: usize| -> ArrayRef {
        let values = StringArray::from(vec![format!("{}", i % 5), "b".into(), "c".into()]);
        let keys = Int8Array::from(vec![Some(0), None, Some(2), Some(1)]);
        Arc::new(DictionaryArray::<Int8Type>::try_new(keys, Arc::new(values)).unwrap())
    };
    let p = Arrow::new(Dict::new());
    p.append((0..300).map(|i| ("k", batch(part(i))))).unwrap();
    let joined = p.get("k").unwrap();
    let dictionary = joined.column(0).as_dictionary::<Int8Type>();
    let texts = dictionary.downcast_dict::<StringArray>().unwrap();
    let texts: Vec<_> = texts.into_iter().collect();
    for i in 0..300 {
        let first = format!("{}", i % 5);
        assert_eq!(texts[4 * i..4 * i + 4], [Some(&first[..]), None, Some("c"), Some("b")]);
    }
}

/// With `PARTD_LARGE=1`, more than 2 GiB of text, which takes about ten seconds and 5 GB; otherwise
/// ten kilobytes.
#[test]
fn strings_of_more_than_two_gigabytes_are_read_batch_by_batch() {
    let piece_bytes = match std::env::var_os("PARTD_LARGE") {
        Some(_) => 230 << 20,
        None => 1 << 10,
    };
    let text = "x".repeat(piece_bytes);
    let part = batch(Arc::new(StringArray::from(vec![&text[..]])));
    let p = Arrow::new(Zstd::new(Dict::new()));
    (0..10).for_each(|_| p.append([("k", &part)]).unwrap());
    match piece_bytes * 10 > i32::MAX as usize {
        true => {
            let error = p.get("k").unwrap_err().to_string();
            assert!(error.contains("its type counts to 2147483647"), "{error}");
            assert!(error.contains("`batches`"), "{error}");
        }
        false => assert_eq!(p.get("k").unwrap().num_rows(), 10),
    }
    assert_eq!(
        p.batches("k").unwrap().map(Result::unwrap).filter(|read| *read == part).count(),
        10
    );
}
