//! The writer that gathers small batches: what is stored, in which order, and what an error leaves.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, UnionArray,
};
use arrow_schema::{DataType, Field, UnionFields};
use partd::{Arrow, Dict, ErrorKind, Partd, SegmentLog};

/// A batch of three columns with the numbers of a range in the first.
fn rows(from: i64, to: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new((from..to).map(Some).collect::<Int64Array>());
    let texts: ArrayRef =
        Arc::new((from..to).map(|i| Some(format!("{i:08}"))).collect::<StringArray>());
    RecordBatch::try_from_iter([("n", numbers.clone()), ("m", numbers), ("text", texts)]).unwrap()
}

fn only_numbers(from: i64, to: i64) -> RecordBatch {
    rows(from, to).project(&[0]).unwrap()
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
    column.values().to_vec()
}

fn stored_bytes(p: &Arrow<impl Partd>, key: &str) -> u64 {
    p.inner().len_of(key).unwrap()
}

#[test]
fn small_batches_are_stored_as_large_ones_in_the_order_of_the_appends() {
    let p = Arrow::new(SegmentLog::temporary().unwrap());
    let mut gather = p.gather(1000, 1 << 30);
    for from in (0..10_000).step_by(10) {
        gather.append(from / 10 % 4, &rows(from, from + 10)).unwrap();
    }
    gather.flush().unwrap();
    assert_eq!(gather.memory_bytes(), 0);
    for key in 0..4 {
        let batches: Vec<RecordBatch> = p.batches(key).unwrap().map(Result::unwrap).collect();
        let lens: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(lens, [1000, 1000, 500]);
        let expected: Vec<i64> = (0..10_000).filter(|number| number / 10 % 4 == key).collect();
        assert_eq!(batches.iter().flat_map(numbers).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_frame_costs_what_the_documentation_says() {
    let p = Arrow::new(Dict::new());
    p.append([("none", rows(0, 0)), ("one", rows(0, 1)), ("many", rows(0, 1000))]).unwrap();
    // The schema: about 300 bytes and 80 for each of three columns. The batch: about 200 bytes and
    // up to 64 for each of seven buffers.
    let (schema, batch) = (300 + 3 * 80, 200 + 7 * 64);
    let (none, one) = (stored_bytes(&p, "none"), stored_bytes(&p, "one"));
    assert!((schema / 2..=schema + batch).contains(&none), "{none} bytes without rows");
    assert!((none..=schema + batch).contains(&one), "{one} bytes of one row");
    let many = stored_bytes(&p, "many");
    let own = 1000 * (8 + 8 + 4 + 8);
    assert!(many <= own + schema + batch, "{many} bytes of 1000 rows");
    assert!((many - own) * 20 < own, "a thousand rows make the cost negligible");
}

#[test]
fn gathered_single_rows_take_a_small_part_of_what_they_take_one_by_one() {
    let one_by_one = Arrow::new(Dict::new());
    let gathered = Arrow::new(Dict::new());
    let mut gather = gathered.gather(8192, 1 << 30);
    for number in 0..500 {
        one_by_one.append([("x", rows(number, number + 1))]).unwrap();
        gather.append("x", &rows(number, number + 1)).unwrap();
    }
    drop(gather);
    assert_eq!(gathered.get("x").unwrap(), one_by_one.get("x").unwrap());
    let (few, many) = (stored_bytes(&gathered, "x"), stored_bytes(&one_by_one, "x"));
    assert!(few * 20 < many, "{few} and {many} bytes");
}

#[test]
fn a_slice_holds_the_memory_of_its_own_rows_only() {
    let p = Arrow::new(Dict::new());
    let mut gather = p.gather(1 << 20, 1 << 30);
    let large = rows(0, 100_000);
    for i in 0..100 {
        gather.append("x", &large.slice(i * 1000, 10)).unwrap();
    }
    let own = 100 * 10 * (8 + 8 + 4 + 8);
    assert!(gather.memory_bytes() < 4 * own, "{} bytes", gather.memory_bytes());
}

#[test]
fn the_limit_on_memory_writes_everything() {
    let p = Arrow::new(Dict::new());
    let mut gather = p.gather(1 << 20, 100_000);
    for key in 0..100_i64 {
        gather.append(key, &rows(key, key + 100)).unwrap();
        assert!(gather.memory_bytes() <= 100_000);
    }
    let written = p.keys().unwrap().len();
    assert!((50..100).contains(&written), "{written} keys were written");
    drop(gather);
    for key in 0..100_i64 {
        assert_eq!(numbers(&p.get(key).unwrap()), (key..key + 100).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_of_another_schema_follows_the_ones_before_it() {
    let p = Arrow::new(Dict::new());
    let mut gather = p.gather(1000, 1 << 30);
    gather.append("x", &rows(0, 3)).unwrap();
    gather.append("x", &only_numbers(3, 5)).unwrap();
    gather.append("x", &only_numbers(5, 6)).unwrap();
    gather.flush().unwrap();
    let batches: Vec<RecordBatch> = p.batches("x").unwrap().map(Result::unwrap).collect();
    assert_eq!(batches, [rows(0, 3), only_numbers(3, 6)]);
}

#[test]
fn batches_that_one_batch_cannot_hold_are_written_one_by_one() {
    let texts = |from: i32| -> RecordBatch {
        let values = StringArray::from_iter_values((from..from + 100).map(|i| i.to_string()));
        let keys = (0..100).map(Some).collect();
        let column = DictionaryArray::<Int8Type>::try_new(keys, Arc::new(values)).unwrap();
        RecordBatch::try_from_iter([("text", Arc::new(column) as ArrayRef)]).unwrap()
    };
    let p = Arrow::new(Dict::new());
    let mut gather = p.gather(1000, 1 << 30);
    gather.append("x", &texts(0)).unwrap();
    gather.append("x", &texts(100)).unwrap();
    gather.flush().unwrap();
    let batches: Vec<RecordBatch> = p.batches("x").unwrap().map(Result::unwrap).collect();
    assert_eq!(batches, [texts(0), texts(100)]);
}

#[test]
fn after_an_error_of_the_store_everything_is_still_gathered() {
    let store = SegmentLog::options()
        .segment_len_bytes(1 << 20)
        .max_store_bytes(3 << 20)
        .temporary()
        .unwrap();
    while store.append([("other", vec![0; 100_000])]).is_ok() {}
    let p = Arrow::new(store);
    let mut gather = p.gather(1 << 20, 1 << 30);
    gather.append("x", &rows(0, 40_000)).unwrap();
    let held = gather.memory_bytes();
    assert_eq!(gather.flush().unwrap_err().kind(), ErrorKind::StoreFull);
    // A batch that makes the key full is not kept: the caller may repeat the call.
    let error = gather.append("x", &rows(0, 1 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFull);
    // Neither is one of another schema.
    assert!(gather.append("x", &only_numbers(0, 1)).is_err());
    assert_eq!(gather.memory_bytes(), held);
    assert!(!p.contains("x").unwrap());
    p.inner().clear().unwrap();
    gather.append("x", &rows(40_000, 40_001)).unwrap();
    gather.flush().unwrap();
    assert_eq!(p.get("x").unwrap(), rows(0, 40_001));
}

#[test]
fn a_batch_that_cannot_be_encoded_is_refused_at_once_and_blocks_no_other() {
    let fields = UnionFields::try_new([0], [Field::new("n", DataType::Int64, false)]).unwrap();
    let children = vec![rows(0, 1).column(0).clone()];
    let union = UnionArray::try_new(fields, vec![0].into(), None, children).unwrap();
    let union = RecordBatch::try_from_iter([("u", Arc::new(union) as ArrayRef)]).unwrap();
    let p = Arrow::new(Dict::new());
    let mut gather = p.gather(1000, 1 << 30);
    gather.append("x", &rows(0, 2)).unwrap();
    let error = gather.append("x", &union).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
    gather.append("x", &rows(2, 3)).unwrap();
    gather.flush().unwrap();
    assert_eq!(p.get("x").unwrap(), rows(0, 3));
}
