//! The stored size of a batch: the bytes of its own rows, whatever arrays it is a slice of, with
//! shared values stored once.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Int32Builder, LargeListViewBuilder, ListBuilder, ListViewBuilder,
    MapBuilder, StringBuilder, StringViewBuilder,
};
use arrow_array::types::{Int16Type, Int32Type};
use arrow_array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, DictionaryArray, Int32Array, ListArray,
    ListViewArray, RecordBatch, RunArray, StringArray, StringViewArray, StructArray, UInt32Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use arrow_select::filter::filter;
use arrow_select::take::take;
use partd::{Arrow, Dict, Partd};

/// The number of rows of the sliced arrays, and of one slice.
const ROWS: usize = 10_000;
const SLICE_ROWS: usize = 500;
/// The maximum of stored bytes per hundred bytes of rows.
const MAX_PERCENT: usize = 130;

fn text(i: usize) -> String {
    format!("a string that is longer than twelve bytes, number {i:08}")
}

/// The text of a row; every eleventh is null, and every seventh is short enough to be inline in its
/// view.
fn value(i: usize) -> Option<String> {
    match i {
        _ if i.is_multiple_of(11) => None,
        _ if i.is_multiple_of(7) => Some(format!("{i}")),
        _ => Some(text(i)),
    }
}

fn dictionary(values: ArrayRef) -> ArrayRef {
    let keys = (0..values.len() as i32).map(|i| (i % 13 != 5).then_some(i)).collect();
    Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values).unwrap())
}

fn views(rows: &[usize]) -> ArrayRef {
    Arc::new(rows.iter().map(|&i| value(i)).collect::<StringViewArray>())
}

fn binary_views(rows: &[usize]) -> ArrayRef {
    Arc::new(rows.iter().map(|&i| value(i).map(String::into_bytes)).collect::<BinaryViewArray>())
}

fn texts(rows: &[usize]) -> ArrayRef {
    Arc::new(rows.iter().map(|&i| value(i)).collect::<StringArray>())
}

fn dictionary_of_texts(rows: &[usize]) -> ArrayRef {
    keyed_by_row(rows, texts(rows))
}

fn dictionary_of_views(rows: &[usize]) -> ArrayRef {
    keyed_by_row(rows, views(rows))
}

/// A dictionary with a value for each row; some keys are null, so their values are unused.
fn keyed_by_row(rows: &[usize], values: ArrayRef) -> ArrayRef {
    let keys = rows.iter().enumerate().map(|(at, i)| (i % 13 != 5).then_some(at as i32));
    Arc::new(DictionaryArray::<Int32Type>::try_new(keys.collect(), values).unwrap())
}

/// The list of a row: zero, one or two texts; every eleventh is null.
fn items(i: usize) -> Option<Vec<String>> {
    (!i.is_multiple_of(11)).then(|| (0..i % 3).map(|k| text(10 * i + k)).collect())
}

macro_rules! lists {
    ($name:ident, $builder:ident) => {
        fn $name(rows: &[usize]) -> ArrayRef {
            let mut builder = $builder::new(StringViewBuilder::new());
            for list in rows.iter().map(|&i| items(i)) {
                let is_list = list.is_some();
                list.into_iter().flatten().for_each(|text| builder.values().append_value(text));
                builder.append(is_list);
            }
            Arc::new(builder.finish())
        }
    };
}

lists!(lists_of_views, ListBuilder);
lists!(list_views_of_views, ListViewBuilder);
lists!(large_list_views_of_views, LargeListViewBuilder);

fn lists_of_dictionaries(rows: &[usize]) -> ArrayRef {
    let values = dictionary(views(&rows.iter().flat_map(|&i| [i, i]).collect::<Vec<_>>()));
    let field = Field::new("item", values.data_type().clone(), true);
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|_| 2));
    Arc::new(ListArray::try_new(field.into(), offsets, values, None).unwrap())
}

fn lists_of_list_views(rows: &[usize]) -> ArrayRef {
    let values = list_views_of_views(&rows.iter().flat_map(|&i| [i, i + 1]).collect::<Vec<_>>());
    let field = Field::new("item", values.data_type().clone(), true);
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|_| 2));
    let nulls = rows.iter().map(|i| i % 5 != 4).collect::<NullBuffer>();
    Arc::new(ListArray::try_new(field.into(), offsets, values, Some(nulls)).unwrap())
}

fn fixed_lists(rows: &[usize]) -> ArrayRef {
    let mut builder = FixedSizeListBuilder::new(StringViewBuilder::new(), 2);
    for &i in rows {
        builder.values().append_value(text(i));
        builder.values().append_option(value(i));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn maps(rows: &[usize]) -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringViewBuilder::new());
    for &i in rows {
        for k in 0..i % 3 {
            builder.keys().append_value(format!("key {k}"));
            builder.values().append_value(text(i));
        }
        builder.append(!i.is_multiple_of(11)).unwrap();
    }
    Arc::new(builder.finish())
}

fn structs(rows: &[usize]) -> ArrayRef {
    let columns = [("view", views(rows)), ("dictionary", dictionary_of_texts(rows))];
    let columns = columns.into_iter().chain([("runs", runs(rows)), ("lists", maps(rows))]);
    let columns: Vec<_> = columns
        .map(|(name, column)| {
            (Arc::new(Field::new(name, column.data_type().clone(), true)), column)
        })
        .collect();
    Arc::new(StructArray::from(columns))
}

/// Runs of one row each, except where consecutive rows follow each other.
fn runs(rows: &[usize]) -> ArrayRef {
    let ends = Int32Array::from_iter_values(1..=rows.len() as i32);
    Arc::new(RunArray::<Int32Type>::try_new(&ends, &views(rows)).unwrap())
}

fn runs_of_dictionaries(rows: &[usize]) -> ArrayRef {
    let ends = Int32Array::from_iter_values(1..=rows.len() as i32);
    Arc::new(RunArray::<Int32Type>::try_new(&ends, &dictionary_of_views(rows)).unwrap())
}

fn dictionary_of_lists(rows: &[usize]) -> ArrayRef {
    keyed_by_row(rows, list_views_of_views(rows))
}

pub(crate) type Make = fn(&[usize]) -> ArrayRef;

pub(crate) const TYPES: [(&str, Make); 16] = [
    ("Utf8", texts),
    ("Utf8View", views),
    ("BinaryView", binary_views),
    ("Dictionary of Utf8", dictionary_of_texts),
    ("Dictionary of Utf8View", dictionary_of_views),
    ("List of Utf8View", lists_of_views),
    ("ListView of Utf8View", list_views_of_views),
    ("LargeListView of Utf8View", large_list_views_of_views),
    ("List of Dictionary", lists_of_dictionaries),
    ("List of ListView", lists_of_list_views),
    ("FixedSizeList of Utf8View", fixed_lists),
    ("Map to Utf8View", maps),
    ("Struct", structs),
    ("RunEndEncoded of Utf8View", runs),
    ("RunEndEncoded of Dictionary", runs_of_dictionaries),
    ("Dictionary of ListView", dictionary_of_lists),
];

/// The size of an array that was built for its rows alone.
fn own_bytes(array: &dyn Array) -> usize {
    fn of(data: &arrow_data::ArrayData) -> usize {
        let buffers: usize = data.buffers().iter().map(arrow_buffer::Buffer::len).sum();
        let nulls = data.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
        buffers + nulls + data.child_data().iter().map(of).sum::<usize>()
    }
    of(&array.to_data())
}

pub(crate) fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("column", column, true)]).unwrap()
}

/// Appends a column, checks that it round-trips, and returns its stored size.
fn stored_bytes(column: ArrayRef) -> usize {
    let p = Arrow::new(Dict::new());
    let batch = batch(column);
    p.append([("k", &batch)]).unwrap();
    assert_eq!(p.get("k").unwrap(), batch);
    // Joined with itself, too.
    p.append([("k", &batch)]).unwrap();
    let twice = p.get("k").unwrap();
    assert_eq!(twice.slice(0, batch.num_rows()), batch);
    assert_eq!(twice.slice(batch.num_rows(), batch.num_rows()), batch);
    p.inner().len_of("k").unwrap() as usize / 2
}

#[track_caller]
fn check(name: &str, stored: usize, own: usize) {
    println!("{name}: {stored} bytes stored for {own}, {:.2} x", stored as f64 / own as f64);
    assert!(100 * stored <= MAX_PERCENT * own, "{name}: {stored} bytes stored for {own}");
}

#[test]
fn slices_store_only_the_bytes_of_their_own_rows() {
    let rows: Vec<usize> = (0..ROWS).collect();
    for (name, make) in TYPES {
        let whole = make(&rows);
        for start in [0, SLICE_ROWS, 3333, ROWS - SLICE_ROWS] {
            let own = own_bytes(&make(&rows[start..start + SLICE_ROWS]));
            check(name, stored_bytes(whole.slice(start, SLICE_ROWS)), own);
        }
        assert!(stored_bytes(whole.slice(77, 0)) < 4096, "{name}: a slice of no rows");
        let all = own_bytes(&whole);
        check(name, stored_bytes(whole), all);
    }
}

#[test]
fn filtered_and_taken_rows_store_only_their_own_bytes() {
    let rows: Vec<usize> = (0..ROWS).collect();
    for (name, make) in TYPES {
        let whole = make(&rows);
        let wanted: Vec<usize> = rows.iter().copied().filter(|i| i * i % 23 == 6).collect();
        let own = own_bytes(&make(&wanted));
        let mask = rows.iter().map(|i| Some(i * i % 23 == 6)).collect::<BooleanArray>();
        check(name, stored_bytes(filter(&whole, &mask).unwrap()), own);
        let backwards = UInt32Array::from_iter_values(wanted.iter().rev().map(|&i| i as u32));
        check(name, stored_bytes(take(&whole, &backwards, None).unwrap()), own);
    }
}

#[test]
fn a_shuffle_into_many_partitions_stores_about_the_bytes_of_the_batch() {
    let rows: Vec<usize> = (0..ROWS).collect();
    for (name, make) in TYPES {
        let whole = make(&rows);
        let stored: usize = (0..ROWS / SLICE_ROWS)
            .map(|i| stored_bytes(whole.slice(i * SLICE_ROWS, SLICE_ROWS)))
            .sum();
        check(name, stored, own_bytes(&whole));
    }
}

#[test]
fn values_shared_by_rows_are_stored_once() {
    // Ten texts of a kilobyte, each in a thousand rows.
    let few = (0..10).map(|i| Some(format!("{i}").repeat(1000))).collect::<StringViewArray>();
    let rows = UInt32Array::from_iter_values((0..ROWS as u32).map(|i| i * 7 % 10));
    let shared = take(&few, &rows, None).unwrap();
    check("shared views", stored_bytes(shared.clone()), 10_000 + 16 * ROWS);
    check("a slice of them", stored_bytes(shared.slice(5, 1000)), 10_000 + 16 * 1000);

    // All rows share five of thousands of texts.
    let many = views(&(0..ROWS).collect::<Vec<_>>());
    let rows = UInt32Array::from_iter_values((0..ROWS as u32).map(|i| 5000 + i % 5));
    check("five of many", stored_bytes(take(&many, &rows, None).unwrap()), 300 + 16 * ROWS);

    // Overlapping windows of a text.
    let mut builder = StringViewBuilder::new();
    let long = "0123456789".repeat(1000);
    let block = builder.append_block(long.as_bytes().into());
    for i in 0..5000 {
        builder.try_append_view(block, i, 5000).unwrap();
    }
    let windows: ArrayRef = Arc::new(builder.finish());
    check("windows", stored_bytes(windows.clone()), 10_000 + 16 * 5000);
    check("a slice of windows", stored_bytes(windows.slice(4000, 1000)), 6000 + 16 * 1000);

    // List views that all show the same items.
    let items = Int32Array::from_iter_values(0..4000);
    let field = Field::new("item", DataType::Int32, true);
    let offsets = (0..ROWS as i32).map(|i| i % 1000).collect::<Vec<_>>();
    let sizes = vec![2000; ROWS];
    let lists =
        ListViewArray::try_new(field.into(), offsets.into(), sizes.into(), Arc::new(items), None);
    let lists: ArrayRef = Arc::new(lists.unwrap());
    let own = 8 * ROWS + 4 * 3000;
    check(
        "list views",
        {
            let p = Arrow::new(Dict::new());
            p.append([("k", batch(lists.clone()))]).unwrap();
            assert_eq!(p.get("k").unwrap(), batch(lists));
            p.inner().len_of("k").unwrap() as usize
        },
        own,
    );

    // A long run is one value.
    let ends = Int32Array::from_iter_values((1..=10).map(|i| i * 1_000_000));
    let runs = RunArray::<Int32Type>::try_new(&ends, &few).unwrap();
    check("runs", stored_bytes(Arc::new(runs.slice(1_500_000, 2_000_000))), 3000 + 3 * 20);
}

#[test]
fn bytes_under_null_rows_are_not_stored() {
    let rows: Vec<usize> = (0..ROWS).collect();
    let valid = BooleanArray::from_iter(rows.iter().map(|i| Some(!i.is_multiple_of(100))));
    for (name, make) in TYPES {
        if name.starts_with("Run") || name.starts_with("Struct") || name.starts_with("Fixed") {
            // Runs have no nulls of their own; struct fields and fixed-size lists store a value
            // under a null row.
            continue;
        }
        let nulled = arrow_select::nullif::nullif(&make(&rows), &valid).unwrap();
        assert!(nulled.null_count() >= ROWS - ROWS / 100, "{name}");
        let per_row = 20 * ROWS;
        let stored = stored_bytes(nulled);
        assert!(stored < per_row + per_row / 2, "{name}: {stored}");
    }
}

#[test]
fn many_columns_keep_their_names_types_and_metadata() {
    let rows: Vec<usize> = (0..100).collect();
    let ends = Field::new("ends of runs", DataType::Int16, false);
    let of_runs = Field::new("texts of runs", DataType::Utf8, false);
    let of_runs = DataType::RunEndEncoded(Arc::new(ends), Arc::new(of_runs));
    let runs = RunArray::<Int16Type>::try_new(
        &(1..=100).collect::<Vec<i16>>().into(),
        &StringArray::from_iter_values(rows.iter().map(|&i| text(i))),
    )
    .unwrap();
    let runs = runs.to_data().into_builder().data_type(of_runs).build().unwrap();
    let mut columns: Vec<(String, ArrayRef)> =
        TYPES.iter().map(|(name, make)| ((*name).to_owned(), make(&rows))).collect();
    columns.push(("named runs".to_owned(), arrow_array::make_array(runs)));
    let mut numbers = Int32Builder::new();
    numbers.append_nulls(100);
    columns.push(("nulls".to_owned(), Arc::new(numbers.finish())));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let p = Arrow::new(Dict::new());
    p.append([("k", batch.slice(10, 20)), ("k", batch.slice(30, 1)), ("k", batch.slice(31, 0))])
        .unwrap();
    assert_eq!(p.get("k").unwrap(), batch.slice(10, 21));
    assert_eq!(p.len_of("k").unwrap(), 21);
}
