//! The codec of record batches: each frame is an Arrow IPC stream.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};

use crate::encode::arrow::{check, compact, join};
use crate::encode::codec::{Codec, CodecError, too_large};

/// The layer's name in errors.
pub(super) const NAME: &str = "Arrow";

/// The codec of [`Arrow`](crate::Arrow).
#[derive(Debug)]
pub struct ArrowCodec(());

impl ArrowCodec {
    pub(super) fn new() -> ArrowCodec {
        ArrowCodec(())
    }
}

impl Codec for ArrowCodec {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(&self, value: &RecordBatch, frame: &mut Vec<u8>) -> Result<(), CodecError> {
        check::types(&value.schema())?;
        let start = frame.len();
        let mut stream = StreamWriter::try_new(&mut *frame, &value.schema())?;
        stream.write(&compact::batch(value)?)?;
        stream.finish()?;
        // Reject now anything that `decode` would reject, such as a column with too many items.
        check::stream(&frame[start..])?;
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
        join::join(schema, parts)
    }

    fn check_joinable(&self, first: &RecordBatch, other: &RecordBatch) -> Result<(), CodecError> {
        join::same_schema(&first.schema(), &other.schema())
    }

    fn decode_counted(
        &self,
        frame: &[u8],
        max_bytes: usize,
    ) -> Result<(RecordBatch, usize), CodecError> {
        let (schema, batches, bytes) = decode(frame, max_bytes)?;
        Ok((join::join(schema, batches)?, bytes))
    }

    fn value_bytes(&self, value: &RecordBatch) -> usize {
        value.get_array_memory_size()
    }
}

/// Decodes the batches of a stream. Also returns the schema and the bytes that count towards the
/// limit.
pub(super) fn decode(
    frame: &[u8],
    max_bytes: usize,
) -> Result<(SchemaRef, Vec<RecordBatch>, usize), CodecError> {
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
    Ok((schema, batches, bytes))
}
