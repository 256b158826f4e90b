//! Checks an Arrow IPC stream before the arrow crates see it.
//!
//! The arrow crates validate arrays, but trust several numbers in a message and panic if those are
//! wrong. This module therefore checks each message, buffer and count against the available bytes.
//! A stream ends at the marker of its end or, without one, after a whole message. The module allows
//! the types for which reading and concatenation are tested, and leaves the contents of the columns
//! to the arrow crates.

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};

use crate::encode::CodecError;

/// The marker before the length of a message; old streams do not have it.
const CONTINUATION: u32 = u32::MAX;
/// The largest nesting depth of types.
const MAX_DEPTH: usize = 32;
/// The most rows of a batch. Some columns take no bytes for any number of rows.
const MAX_ROWS: i64 = u32::MAX as i64;

/// Checks a whole stream: schema and batches, with or without the marker of its end.
///
/// Returns the most bytes that null bitmaps can take when the stream is joined to others. Columns
/// without nulls, and columns whose values have no bytes, have no bitmap in the stream.
pub(super) fn stream(bytes: &[u8]) -> Result<usize, CodecError> {
    let mut rest = bytes;
    let mut schema = Schema::empty();
    let mut values = 0_u64;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        match message(&mut rest, &mut schema, &mut values) {
            Ok(true) if !rest.is_empty() => {
                return Err(format!("{} bytes follow the end of the stream", rest.len()).into());
            }
            Ok(_) => {}
            Err(error) => return Err(format!("byte {at} of the stream: {error}").into()),
        }
    }
    Ok(usize::try_from(values / 8)?)
}

/// Checks and skips one message, and adds its values to `values`. Returns whether it was the end of
/// the stream.
fn message(rest: &mut &[u8], schema: &mut Schema, values: &mut u64) -> Result<bool, CodecError> {
    let mut len = number(rest)?;
    if len == CONTINUATION {
        len = number(rest)?;
    }
    if len == 0 {
        return Ok(true);
    }
    let message = root_as_message(take(rest, i64::from(len))?)
        .map_err(|_| "there is no Arrow IPC message")?;
    let body = take(rest, message.bodyLength())?;
    match message.header_type() {
        MessageHeader::Schema => {
            let stored = message.header_as_schema().ok_or("a schema is missing")?;
            *schema = try_fb_to_schema(stored)?;
            types(schema)?;
        }
        MessageHeader::RecordBatch => {
            let data = message.header_as_record_batch().ok_or("a batch is missing")?;
            *values = values.saturating_add(batch(data, schema.fields(), body)?);
        }
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch().ok_or("a batch is missing")?;
            let data = dictionary.data().ok_or("a dictionary has no data")?;
            let column = dictionary_values(schema, dictionary.id())
                .ok_or("a dictionary belongs to no column")?;
            let columns = [column].into_iter().collect();
            *values = values.saturating_add(batch(data, &columns, body)?);
        }
        _ => return Err("a message is neither schema nor batch".into()),
    }
    Ok(false)
}

/// Returns the values of the dictionary with an id, as a column.
fn dictionary_values(schema: &Schema, id: i64) -> Option<FieldRef> {
    #[expect(deprecated, reason = "the arrow crates have no other name for a dictionary either")]
    let field = schema.fields_with_dict_id(id).first().copied()?;
    match field.data_type() {
        DataType::Dictionary(_, values) => Some(values_field(values)),
        _ => None,
    }
}

fn values_field(values: &DataType) -> FieldRef {
    Field::new("values", values.clone(), true).into()
}

/// Checks a batch, and returns the total number of values in its columns.
fn batch(
    batch: arrow_ipc::RecordBatch<'_>,
    columns: &Fields,
    body: &[u8],
) -> Result<u64, CodecError> {
    if batch.compression().is_some() {
        return Err("the buffers are compressed inside the stream, which is not supported; use a \
                    compressing layer below"
            .into());
    }
    let sound = |rows: i64| (0..=MAX_ROWS).contains(&rows);
    let nodes = batch.nodes().into_iter().flatten();
    let mut nodes = nodes.map(|node| (node.length(), node.null_count()));
    if !sound(batch.length())
        || !nodes.all(|(rows, nulls)| sound(rows) && (0..=rows).contains(&nulls))
    {
        return Err("a batch has an impossible number of rows".into());
    }
    let mut buffer_bytes = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let (start, len) = (usize::try_from(buffer.offset())?, usize::try_from(buffer.length())?);
        if start.checked_add(len).is_none_or(|end| end > body.len()) {
            return Err(format!(
                "a buffer of {len} bytes at byte {start} exceeds the {} bytes of its message",
                body.len()
            )
            .into());
        }
        buffer_bytes += len;
        if buffer_bytes > body.len() {
            return Err("the buffers of a message are longer together than the message".into());
        }
    }
    // The arrow crates panic if the length of a buffer is not a multiple of its element size.
    let mut widths = Vec::new();
    let mut views = batch.variadicBufferCounts().into_iter().flatten();
    let buffers = batch.buffers().map_or(0, |buffers| buffers.len());
    for column in columns {
        number_widths(column.data_type(), &mut widths, &mut views, buffers)?;
    }
    for (buffer, width) in batch.buffers().into_iter().flatten().zip(widths) {
        if buffer.length() % width != 0 {
            return Err(format!(
                "a buffer has {} bytes, but its elements have {width}",
                buffer.length()
            )
            .into());
        }
    }
    let values = batch.nodes().into_iter().flatten();
    Ok(values.map(|node| node.length().unsigned_abs()).fold(0, u64::saturating_add))
}

/// Appends one number for each buffer of a column: the width of its elements, or 1 if it has none.
/// The buffer's length must be a multiple of that number.
fn number_widths(
    of: &DataType,
    widths: &mut Vec<i64>,
    views: &mut dyn Iterator<Item = i64>,
    buffers: usize,
) -> Result<(), CodecError> {
    // The validity bitmap comes first, except for null and run-end encoded columns.
    match of {
        DataType::Null => {}
        DataType::Utf8 | DataType::Binary => widths.extend([1, 4, 1]),
        DataType::LargeUtf8 | DataType::LargeBinary => widths.extend([1, 8, 1]),
        DataType::Utf8View | DataType::BinaryView => {
            let more = views.next().and_then(|count| usize::try_from(count).ok());
            let more =
                more.filter(|&more| more <= buffers).ok_or("buffers of views are missing")?;
            widths.extend([1, 16]);
            widths.extend(std::iter::repeat_n(1, more));
        }
        DataType::List(inner) | DataType::Map(inner, _) => {
            widths.extend([1, 4]);
            number_widths(inner.data_type(), widths, views, buffers)?;
        }
        DataType::LargeList(inner) => {
            widths.extend([1, 8]);
            number_widths(inner.data_type(), widths, views, buffers)?;
        }
        DataType::ListView(inner) => {
            widths.extend([1, 4, 4]);
            number_widths(inner.data_type(), widths, views, buffers)?;
        }
        DataType::LargeListView(inner) => {
            widths.extend([1, 8, 8]);
            number_widths(inner.data_type(), widths, views, buffers)?;
        }
        DataType::RunEndEncoded(ends, values) => {
            for field in [ends, values] {
                number_widths(field.data_type(), widths, views, buffers)?;
            }
        }
        DataType::FixedSizeList(inner, _) => {
            widths.push(1);
            number_widths(inner.data_type(), widths, views, buffers)?;
        }
        DataType::Struct(fields) => {
            widths.push(1);
            for field in fields {
                number_widths(field.data_type(), widths, views, buffers)?;
            }
        }
        DataType::Dictionary(number, _) => widths.extend([1, width(number)?]),
        DataType::Boolean | DataType::FixedSizeBinary(_) => widths.extend([1, 1]),
        number => widths.extend([1, width(number)?]),
    }
    Ok(())
}

fn width(number: &DataType) -> Result<i64, CodecError> {
    let width = number.primitive_width().ok_or("this layer does not support the type")?;
    Ok(i64::try_from(width)?)
}

fn take<'a>(rest: &mut &'a [u8], len: i64) -> Result<&'a [u8], CodecError> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, tail) = split.ok_or_else(|| {
        format!("{len} bytes should follow, but there are {}: it is truncated", rest.len())
    })?;
    *rest = tail;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<u32, CodecError> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into()?))
}

/// Checks that the layer supports the types of all columns.
pub(super) fn types(schema: &Schema) -> Result<(), CodecError> {
    schema.fields().iter().try_for_each(|field| type_of(field, MAX_DEPTH))
}

fn type_of(field: &Field, depth: usize) -> Result<(), CodecError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("a type is nested more than {MAX_DEPTH} deep").into());
    };
    let refused = || {
        Err(format!(
            "column {:?} has type {}, which this layer does not support",
            field.name(),
            field.data_type()
        )
        .into())
    };
    match field.data_type() {
        DataType::Union(..) => refused(),
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::ListView(inner)
        | DataType::LargeListView(inner) => type_of(inner, depth),
        DataType::RunEndEncoded(ends, values) => {
            match ends.data_type().is_run_ends_type() && !ends.is_nullable() {
                true => type_of(values, depth),
                false => refused(),
            }
        }
        DataType::FixedSizeList(_, len) | DataType::FixedSizeBinary(len) if *len < 0 => refused(),
        DataType::FixedSizeList(inner, _) => type_of(inner, depth),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| type_of(field, depth)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => type_of(entries, depth),
            _ => refused(),
        },
        DataType::Dictionary(key, values) => match key.is_dictionary_key_type() {
            true => type_of(&values_field(values), depth),
            false => refused(),
        },
        _ => Ok(()),
    }
}
