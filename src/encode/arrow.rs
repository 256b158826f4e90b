//! `Arrow`: record batches as Arrow IPC streams, joined by concatenation.
//!
//! A frame is one whole IPC stream: schema, batches, end. It is checked here (`check`) and then
//! read by the arrow crates, which validate every array, from one copy of the frame: no memory is
//! taken by a declared length. No byte of a frame is part of two buffers, so that what is copied
//! out of it takes no more than the frame, but for the bitmaps of what is null. Buffers that are compressed inside the stream are refused:
//! compression is another layer's business.

mod check;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};
use arrow_select::concat::concat_batches;

use crate::encode::codec::{Codec, CodecError, too_large};
use crate::encode::typed::Typed;
use crate::{Key, Partd, Result};

/// A layer of record batches: what is appended to a key is one batch when it is read.
///
/// The row of the Python partd's pandas layers, in a format of its own: each frame is an Arrow IPC
/// stream, which every Arrow library reads. Batches of one key must have the same schema; reading
/// a key where they do not is an error that shows both. A missing key has no rows and no columns.
/// Columns may have all types but unions, run-end encoded arrays and list views. The limit on
/// decoded bytes counts those of the frames.
///
/// ```
/// use std::sync::Arc;
/// use arrow_array::{ArrayRef, Int64Array, RecordBatch};
/// use partd::{Arrow, Dict};
/// let rows = |numbers: Vec<i64>| {
///     let column: ArrayRef = Arc::new(Int64Array::from(numbers));
///     RecordBatch::try_from_iter([("n", column)]).unwrap()
/// };
/// let p = Arrow::new(Dict::new());
/// p.append([("x", rows(vec![1, 2])), ("x", rows(vec![3]))])?;
/// assert_eq!(p.get("x")?, rows(vec![1, 2, 3]));
/// # Ok::<(), partd::Error>(())
/// ```
pub type Arrow<P> = Typed<ArrowCodec, P>;

/// The codec of [`Arrow`].
#[derive(Debug)]
pub struct ArrowCodec(());

impl<P> Typed<ArrowCodec, P> {
    /// Keeps record batches in a store.
    pub fn new(inner: P) -> Arrow<P> {
        Typed::with_codec(ArrowCodec(()), inner)
    }
}

impl<P: Partd> Typed<ArrowCodec, P> {
    /// The number of rows of the key's batch, which is decoded for it; 0 where it is missing.
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        self.len_by(key.into(), |batch| batch.num_rows() as u64)
    }
}

impl Codec for ArrowCodec {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn name(&self) -> &'static str {
        "Arrow"
    }

    fn encode(&self, value: &RecordBatch, frame: &mut Vec<u8>) -> Result<(), CodecError> {
        check::types(&value.schema())?;
        let mut stream = StreamWriter::try_new(frame, &value.schema())?;
        stream.write(value)?;
        stream.finish()?;
        Ok(())
    }

    fn decode(&self, frame: &[u8], max_bytes: usize) -> Result<RecordBatch, CodecError> {
        Ok(self.decode_counted(frame, max_bytes)?.0)
    }

    fn join(&self, parts: Vec<RecordBatch>) -> Result<RecordBatch, CodecError> {
        let schema = match parts.first() {
            Some(part) => part.schema(),
            None => Arc::new(Schema::empty()),
        };
        join(schema, parts)
    }

    fn check_joinable(&self, first: &RecordBatch, other: &RecordBatch) -> Result<(), CodecError> {
        check_schema(&first.schema(), &other.schema())
    }

    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(RecordBatch, usize), CodecError> {
        let bitmap_bytes = check::stream(frame)?;
        let bytes = frame.len().max(bitmap_bytes);
        if bytes > max_bytes {
            return Err(too_large(max_bytes).into());
        }
        let mut rest = Buffer::from(frame);
        let mut stream = StreamDecoder::new();
        let mut batches = Vec::new();
        while !rest.is_empty() {
            batches.extend(stream.decode(&mut rest)?);
        }
        stream.finish()?;
        let schema = stream.schema().ok_or("the stream has no schema")?;
        Ok((join(schema, batches)?, bytes))
    }

    fn value_bytes(&self, value: &RecordBatch) -> usize {
        value.get_array_memory_size()
    }
}

/// One batch of many, whose rows are countable.
fn join(schema: SchemaRef, mut batches: Vec<RecordBatch>) -> Result<RecordBatch, CodecError> {
    let mut rows = 0_usize;
    for batch in &batches {
        check_schema(&schema, &batch.schema())?;
        rows = rows.saturating_add(batch.num_rows());
    }
    if isize::try_from(rows).is_err() {
        return Err("the batches have more rows than can be counted".into());
    }
    match batches.pop() {
        Some(only) if batches.is_empty() => Ok(only),
        last => {
            batches.extend(last);
            check::concatenable(&batches)?;
            Ok(concat_batches(&schema, &batches)?)
        }
    }
}

fn check_schema(first: &Schema, other: &Schema) -> Result<(), CodecError> {
    match first == other {
        true => Ok(()),
        false => Err(format!(
            "the batches of one key must have one schema; before it was ({}), here it is ({})",
            shown(first),
            shown(other)
        )
        .into()),
    }
}

/// A schema as a person reads it: names and types, and what else distinguishes two of them.
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
