//! Checks an Arrow IPC stream before the arrow crates see it.
//!
//! They validate arrays, but take several numbers of a message at their word and panic where those
//! are wrong: so each message, buffer and count is held against the bytes that are there, and a
//! stream has to reach its end. The types are those for which reading and concatenating has been
//! seen to hold up; what the columns contain is left to the arrow crates.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{DataType, Field, Schema};

use crate::encode::CodecError;

/// What stands before the length of a message, but not in old streams.
const CONTINUATION: u32 = u32::MAX;
/// Types inside each other, at most.
const MAX_DEPTH: usize = 32;
/// Rows of a batch, at most: there may be columns that take no bytes for any number of them.
const MAX_ROWS: i64 = u32::MAX as i64;

/// Checks a whole stream: schema, batches, end.
pub(super) fn stream(bytes: &[u8]) -> Result<(), CodecError> {
    let mut rest = bytes;
    loop {
        let at = bytes.len() - rest.len();
        match message(&mut rest) {
            Ok(true) if rest.is_empty() => return Ok(()),
            Ok(true) => {
                return Err(format!("{} bytes follow the end of the stream", rest.len()).into());
            }
            Ok(false) => {}
            Err(error) => return Err(format!("byte {at} of the stream: {error}").into()),
        }
    }
}

/// Checks one message and skips it; says whether it was the end of the stream.
fn message(rest: &mut &[u8]) -> Result<bool, CodecError> {
    let mut len = number(rest)?;
    if len == CONTINUATION {
        len = number(rest)?;
    }
    if len == 0 {
        return Ok(true);
    }
    let message = root_as_message(take(rest, i64::from(len))?)
        .map_err(|_| "there is no message of Arrow IPC")?;
    let body = take(rest, message.bodyLength())?;
    match message.header_type() {
        MessageHeader::Schema => {
            let schema = message.header_as_schema().ok_or("a schema is missing")?;
            types(&try_fb_to_schema(schema)?)?;
        }
        MessageHeader::RecordBatch => {
            batch(message.header_as_record_batch().ok_or("a batch is missing")?, body)?;
        }
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch().ok_or("a batch is missing")?;
            batch(dictionary.data().ok_or("a dictionary has no data")?, body)?;
        }
        _ => return Err("a message is neither schema nor batch".into()),
    }
    Ok(false)
}

fn batch(batch: arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), CodecError> {
    if batch.compression().is_some() {
        return Err("the buffers are compressed inside the stream, which is not read; use a \
                    compressing layer below"
            .into());
    }
    let sound = |rows: i64| (0..=MAX_ROWS).contains(&rows);
    let nodes = batch.nodes().into_iter().flatten();
    let mut nodes = nodes.map(|node| (node.length(), node.null_count()));
    if !sound(batch.length())
        || !nodes.all(|(rows, nulls)| sound(rows) && (0..=rows).contains(&nulls))
    {
        return Err("a batch has a number of rows that cannot be".into());
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let (start, len) = (usize::try_from(buffer.offset())?, usize::try_from(buffer.length())?);
        if start.checked_add(len).is_none_or(|end| end > body.len()) {
            return Err(format!(
                "a buffer of {len} bytes at byte {start} lies beyond the {} bytes of its message",
                body.len()
            )
            .into());
        }
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], len: i64) -> Result<&'a [u8], CodecError> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, tail) = split.ok_or_else(|| {
        format!("{len} bytes should follow, but there are {}: it is cut", rest.len())
    })?;
    *rest = tail;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<u32, CodecError> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into()?))
}

/// Checks that the types of all columns are ones that this layer keeps.
pub(super) fn types(schema: &Schema) -> Result<(), CodecError> {
    schema.fields().iter().try_for_each(|field| type_of(field, MAX_DEPTH))
}

fn type_of(field: &Field, depth: usize) -> Result<(), CodecError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("a type is nested more than {MAX_DEPTH} deep").into());
    };
    let refused = || {
        Err(format!(
            "the column {:?} of type {} is not kept by this layer",
            field.name(),
            field.data_type()
        )
        .into())
    };
    match field.data_type() {
        DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => refused(),
        DataType::List(inner) | DataType::LargeList(inner) => type_of(inner, depth),
        DataType::FixedSizeList(_, len) | DataType::FixedSizeBinary(len) if *len < 0 => refused(),
        DataType::FixedSizeList(inner, _) => type_of(inner, depth),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| type_of(field, depth)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => type_of(entries, depth),
            _ => refused(),
        },
        DataType::Dictionary(key, values) => match key.is_dictionary_key_type() {
            true => type_of(&Field::new("values", (**values).clone(), true), depth),
            false => refused(),
        },
        _ => Ok(()),
    }
}

/// Checks that the columns of batches can be concatenated: lists count their items in 32 bits, and
/// concatenating more of them than that panics.
pub(super) fn concatenable(batches: &[RecordBatch]) -> Result<(), CodecError> {
    let columns = batches.first().map_or(0, RecordBatch::num_columns);
    (0..columns).try_for_each(|i| {
        let arrays: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(i).clone()).collect();
        countable(&arrays)
    })
}

fn countable(arrays: &[ArrayRef]) -> Result<(), CodecError> {
    let Some(first) = arrays.first() else { return Ok(()) };
    let inner =
        |inner: fn(&ArrayRef) -> ArrayRef| -> Vec<ArrayRef> { arrays.iter().map(inner).collect() };
    match first.data_type() {
        DataType::List(_) => {
            let values = inner(|array| array.as_list::<i32>().values().clone());
            count(&values)?;
            countable(&values)
        }
        DataType::Map(..) => {
            let entries = inner(|array| std::sync::Arc::new(array.as_map().entries().clone()));
            count(&entries)?;
            countable(&entries)
        }
        DataType::LargeList(_) => {
            countable(&inner(|array| array.as_list::<i64>().values().clone()))
        }
        DataType::FixedSizeList(..) => {
            countable(&inner(|array| array.as_fixed_size_list().values().clone()))
        }
        DataType::Struct(fields) => (0..fields.len()).try_for_each(|i| {
            let arrays: Vec<ArrayRef> =
                arrays.iter().map(|array| array.as_struct().column(i).clone()).collect();
            countable(&arrays)
        }),
        _ => Ok(()),
    }
}

fn count(values: &[ArrayRef]) -> Result<(), CodecError> {
    let items: u64 = values.iter().map(|array| array.len() as u64).sum();
    match i32::try_from(items) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "the lists of a column hold {items} items together, and its type counts to 2147483647; \
             use LargeList, or read fewer batches under one key"
        )
        .into()),
    }
}
