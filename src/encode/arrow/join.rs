//! Joins the batches of a key by concatenation. If a type cannot hold all rows at once, the error
//! says what to do instead.
//!
//! The offsets of strings, binaries and lists, dictionary keys and run ends have limits that the
//! joined batch may exceed even if each batch does not. If dictionary keys would overflow, the
//! dictionaries are merged so that each value occurs once. The arrow crates do so only for some
//! value types, and with a hash table that drops entries, so their merged dictionaries may still
//! contain duplicates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::ArrowDictionaryKeyType;
use arrow_array::{
    Array, ArrayRef, DictionaryArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    downcast_integer, make_array,
};
use arrow_buffer::{ArrowNativeType, OffsetBuffer};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use arrow_select::concat::concat;
use arrow_select::interleave::interleave;

use crate::encode::CodecError;

/// The largest offset of 32 bits.
const MAX_COUNT: u64 = i32::MAX as u64;
/// Advice for errors about values too large for their type.
const ADVICE: &str = "read the batches one at a time with `batches` or `pop_batches`, or append with \
                      a wider type";

/// Joins batches into one.
pub(super) fn join(
    schema: SchemaRef,
    mut batches: Vec<RecordBatch>,
) -> Result<RecordBatch, CodecError> {
    let mut rows = 0_usize;
    for batch in &batches {
        same_schema(&schema, &batch.schema())?;
        rows = rows.saturating_add(batch.num_rows());
    }
    if isize::try_from(rows).is_err() {
        return Err(format!("the batches have more rows than can be counted; {ADVICE}").into());
    }
    if batches.len() == 1 {
        return Ok(batches.swap_remove(0));
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (i, field) in schema.fields().iter().enumerate() {
        let parts: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(i).clone()).collect();
        let column = match parts.is_empty() {
            true => arrow_array::new_empty_array(field.data_type()),
            false => concatenated(&parts).map_err(|error| {
                format!(
                    "column {:?} of type {}: {error}; {ADVICE}",
                    field.name(),
                    field.data_type()
                )
            })?,
        };
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// Checks that batches of two schemas can be joined.
pub(super) fn same_schema(first: &Schema, other: &Schema) -> Result<(), CodecError> {
    match first == other {
        true => Ok(()),
        false => Err(format!(
            "the batches of one key must have one schema to be joined; before it was ({}), here it \
             is ({}); `batches` reads them one at a time",
            shown(first),
            shown(other)
        )
        .into()),
    }
}

/// Formats a schema for a person: names, types, nullability and metadata.
fn shown(schema: &Schema) -> String {
    let field = |field: &Arc<arrow_schema::Field>| {
        let null = if field.is_nullable() { "" } else { " not null" };
        let metadata = match field.metadata() {
            none if none.is_empty() => String::new(),
            some => format!(" {some:?}"),
        };
        format!("{}: {}{null}{metadata}", field.name(), field.data_type())
    };
    let mut parts: Vec<String> = schema.fields().iter().map(field).collect();
    if !schema.metadata().is_empty() {
        parts.push(format!("metadata {:?}", schema.metadata()));
    }
    parts.join(", ")
}

/// Concatenates arrays of one type.
fn concatenated(parts: &[ArrayRef]) -> Result<ArrayRef, CodecError> {
    countable(parts)?;
    match concat(&borrowed(parts)) {
        Err(ArrowError::DictionaryKeyOverflowError) => {
            let merged = merged(parts)?;
            match concat(&borrowed(&merged)) {
                Err(ArrowError::DictionaryKeyOverflowError) => {
                    Err("a dictionary has more values than its keys can count".into())
                }
                other => Ok(other?),
            }
        }
        other => Ok(other?),
    }
}

fn borrowed(arrays: &[ArrayRef]) -> Vec<&dyn Array> {
    arrays.iter().map(|array| &**array).collect()
}

/// Merges the dictionaries of strings, bytes and numbers in the arrays, at any depth, into one that
/// all arrays share.
fn merged(arrays: &[ArrayRef]) -> Result<Vec<ArrayRef>, CodecError> {
    let Some(first) = arrays.first() else { return Ok(Vec::new()) };
    if let DataType::Dictionary(_, values) = first.data_type() {
        if is_flat(values) {
            return merged_dictionaries(arrays);
        }
        let values: Vec<ArrayRef> =
            arrays.iter().map(|array| array.as_any_dictionary().values().clone()).collect();
        let merged = arrays.iter().zip(merged(&values)?);
        return Ok(merged.map(|(a, values)| a.as_any_dictionary().with_values(values)).collect());
    }
    let mut data: Vec<_> = arrays.iter().map(Array::to_data).collect();
    for child in 0..data[0].child_data().len() {
        let children: Vec<ArrayRef> =
            data.iter().map(|data| make_array(data.child_data()[child].clone())).collect();
        for (data, merged) in data.iter_mut().zip(merged(&children)?) {
            let mut children = data.child_data().to_vec();
            children[child] = merged.into_data();
            *data = data.clone().into_builder().child_data(children).build()?;
        }
    }
    Ok(data.into_iter().map(make_array).collect())
}

/// Returns whether equal bytes mean equal values of a type.
fn is_flat(of: &DataType) -> bool {
    of.is_primitive()
        || matches!(
            of,
            DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
}

/// Merges dictionaries with one key type into ones that share their values, with each value once.
fn merged_dictionaries(arrays: &[ArrayRef]) -> Result<Vec<ArrayRef>, CodecError> {
    macro_rules! by_key {
        ($key:ty) => {
            dictionaries::<$key>(arrays)
        };
    }
    match arrays.first().map(Array::data_type) {
        Some(DataType::Dictionary(key, _)) => downcast_integer! {
            key.as_ref() => (by_key),
            _ => Err("the keys of a dictionary are not integers".into()),
        },
        _ => Ok(arrays.to_vec()),
    }
}

fn dictionaries<K: ArrowDictionaryKeyType>(
    arrays: &[ArrayRef],
) -> Result<Vec<ArrayRef>, CodecError> {
    let dictionaries: Vec<_> = arrays.iter().map(AsArray::as_dictionary::<K>).collect();
    let data: Vec<ArrayData> = dictionaries.iter().map(|of| of.values().to_data()).collect();
    // The new key of each value, and the source array and index of each new key's value.
    let (mut known, mut places) = (HashMap::new(), Vec::new());
    let mut keys = Vec::with_capacity(arrays.len());
    for (i, (dictionary, data)) in dictionaries.iter().zip(&data).enumerate() {
        let bytes = value_bytes(dictionary.values(), data);
        let used = dictionary.keys().iter().flatten().map(|key| key.as_usize() + 1).max();
        let mut moved: Vec<Option<K::Native>> = vec![None; used.unwrap_or(0)];
        let mut move_key = |key: K::Native| {
            let old = key.as_usize();
            if let Some(new) = moved[old] {
                return Ok(new);
            }
            let new = match known.entry(bytes(old)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(free) => {
                    let new = K::Native::from_usize(places.len()).ok_or_else(|| {
                        let (count, key) = (places.len(), K::DATA_TYPE);
                        format!(
                            "it has more than the {count} values that keys of {key} can tell apart"
                        )
                    })?;
                    places.push((i, old));
                    *free.insert(new)
                }
            };
            moved[old] = Some(new);
            Ok::<_, CodecError>(new)
        };
        let moved = dictionary.keys().iter().map(|key| key.map(&mut move_key).transpose());
        keys.push(moved.collect::<Result<PrimitiveArray<K>, _>>()?);
    }
    let values: Vec<&dyn Array> = dictionaries.iter().map(|of| of.values().as_ref()).collect();
    let values = interleave(&values, &places)?;
    keys.into_iter()
        .map(|keys| {
            let dictionary = DictionaryArray::<K>::try_new(keys, values.clone())?;
            Ok(Arc::new(dictionary) as ArrayRef)
        })
        .collect()
}

/// Returns a function that reads the bytes of a value of a flat array, or `None` for a null.
fn value_bytes<'a>(
    of: &'a ArrayRef,
    data: &'a ArrayData,
) -> Box<dyn Fn(usize) -> Option<&'a [u8]> + 'a> {
    macro_rules! read {
        ($array:expr) => {{
            let array = $array;
            Box::new(move |i| array.is_valid(i).then(|| AsRef::<[u8]>::as_ref(array.value(i))))
        }};
    }
    match of.data_type() {
        DataType::Utf8 => read!(of.as_string::<i32>()),
        DataType::LargeUtf8 => read!(of.as_string::<i64>()),
        DataType::Utf8View => read!(of.as_string_view()),
        DataType::Binary => read!(of.as_binary::<i32>()),
        DataType::LargeBinary => read!(of.as_binary::<i64>()),
        DataType::BinaryView => read!(of.as_binary_view()),
        DataType::FixedSizeBinary(_) => read!(of.as_fixed_size_binary()),
        DataType::Boolean => {
            let array = of.as_boolean();
            Box::new(|i| array.is_valid(i).then(|| if array.value(i) { &[1][..] } else { &[0] }))
        }
        number => {
            let width = number.primitive_width().unwrap_or(0);
            let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
            let start = move |i| (data.offset() + i) * width;
            Box::new(move |i| of.is_valid(i).then(|| &bytes[start(i)..start(i) + width]))
        }
    }
}

/// Checks that arrays of one type can be concatenated. Strings count bytes, and lists count items,
/// in 31 bits; beyond that, concatenation panics, or fails after a long copy.
fn countable(arrays: &[ArrayRef]) -> Result<(), CodecError> {
    let Some(first) = arrays.first() else { return Ok(()) };
    let inner =
        |inner: fn(&ArrayRef) -> ArrayRef| -> Vec<ArrayRef> { arrays.iter().map(inner).collect() };
    match first.data_type() {
        DataType::Utf8 => bytes(arrays.iter().map(|array| array.as_string::<i32>().offsets())),
        DataType::Binary => bytes(arrays.iter().map(|array| array.as_binary::<i32>().offsets())),
        DataType::List(_) => items(&inner(|array| array.as_list::<i32>().values().clone())),
        DataType::ListView(_) => {
            items(&inner(|array| array.as_list_view::<i32>().values().clone()))
        }
        DataType::Map(..) => items(&inner(|array| Arc::new(array.as_map().entries().clone()))),
        DataType::LargeList(_) => {
            countable(&inner(|array| array.as_list::<i64>().values().clone()))
        }
        DataType::LargeListView(_) => {
            countable(&inner(|array| array.as_list_view::<i64>().values().clone()))
        }
        DataType::FixedSizeList(..) => {
            countable(&inner(|array| array.as_fixed_size_list().values().clone()))
        }
        DataType::RunEndEncoded(..) => {
            countable(&inner(|array| make_array(array.to_data().child_data()[1].clone())))
        }
        DataType::Struct(fields) => (0..fields.len()).try_for_each(|i| {
            let arrays: Vec<ArrayRef> =
                arrays.iter().map(|array| array.as_struct().column(i).clone()).collect();
            countable(&arrays)
        }),
        _ => Ok(()),
    }
}

fn bytes<'a>(offsets: impl Iterator<Item = &'a OffsetBuffer<i32>>) -> Result<(), CodecError> {
    let spans = offsets.map(|offsets| u64::from((offsets[offsets.len() - 1] - offsets[0]) as u32));
    match spans.sum() {
        0..=MAX_COUNT => Ok(()),
        bytes => Err(format!("it has {bytes} bytes, and its type counts to {MAX_COUNT}").into()),
    }
}

fn items(values: &[ArrayRef]) -> Result<(), CodecError> {
    match values.iter().map(|array| array.len() as u64).sum() {
        0..=MAX_COUNT => countable(values),
        items => {
            Err(format!("its lists hold {items} items, and their type counts to {MAX_COUNT}")
                .into())
        }
    }
}
