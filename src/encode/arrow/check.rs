//! Checks an Arrow IPC stream before the arrow crates see it.
//!
//! They validate arrays, but take several numbers of a message at their word and panic where those
//! are wrong: so each message, buffer and count is held against the bytes that are there, and a
//! stream has to reach its end. The types are those for which reading and concatenating has been
//! seen to hold up; what the columns contain is left to the arrow crates.

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};

use crate::encode::CodecError;

/// What stands before the length of a message, but not in old streams.
const CONTINUATION: u32 = u32::MAX;
/// Types inside each other, at most.
const MAX_DEPTH: usize = 32;
/// Rows of a batch, at most: there may be columns that take no bytes for any number of them.
const MAX_ROWS: i64 = u32::MAX as i64;

/// Checks a whole stream: schema, batches, end. Says how many bytes the bitmaps of what is null
/// can take that are made when it is joined to others: columns without nulls, and those whose
/// values have no bytes, have none in the stream.
pub(super) fn stream(bytes: &[u8]) -> Result<usize, CodecError> {
    let mut rest = bytes;
    let mut schema = Schema::empty();
    let mut values = 0_u64;
    loop {
        let at = bytes.len() - rest.len();
        match message(&mut rest, &mut schema, &mut values) {
            Ok(true) if rest.is_empty() => return Ok(usize::try_from(values / 8)?),
            Ok(true) => {
                return Err(format!("{} bytes follow the end of the stream", rest.len()).into());
            }
            Ok(false) => {}
            Err(error) => return Err(format!("byte {at} of the stream: {error}").into()),
        }
    }
}

/// Checks one message and skips it, and counts its values; says whether it was the end of the
/// stream.
fn message(rest: &mut &[u8], schema: &mut Schema, values: &mut u64) -> Result<bool, CodecError> {
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

/// The values of the dictionary of a number, as a column.
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

/// Checks a batch, and says how many values its columns have together.
fn batch(
    batch: arrow_ipc::RecordBatch<'_>,
    columns: &Fields,
    body: &[u8],
) -> Result<u64, CodecError> {
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
    let mut buffer_bytes = 0;
    for buffer in batch.buffers().into_iter().flatten() {
        let (start, len) = (usize::try_from(buffer.offset())?, usize::try_from(buffer.length())?);
        if start.checked_add(len).is_none_or(|end| end > body.len()) {
            return Err(format!(
                "a buffer of {len} bytes at byte {start} lies beyond the {} bytes of its message",
                body.len()
            )
            .into());
        }
        buffer_bytes += len;
        if buffer_bytes > body.len() {
            return Err("the buffers of a message have more bytes together than the message".into());
        }
    }
    // The arrow crates panic where a buffer of numbers holds part of one.
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

/// Adds what each buffer of a column is a multiple of: the width of the numbers in it, or 1.
fn number_widths(
    of: &DataType,
    widths: &mut Vec<i64>,
    views: &mut dyn Iterator<Item = i64>,
    buffers: usize,
) -> Result<(), CodecError> {
    // First comes the bitmap of what is not null, but for columns of nulls and of runs.
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
    let width = number.primitive_width().ok_or("a type that is not kept by this layer")?;
    Ok(i64::try_from(width)?)
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
