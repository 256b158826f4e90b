//! The codec of record batches: each frame is an Arrow IPC stream.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};

use crate::encode::arrow::{check, compact, join};
use crate::encode::codec::{Codec, CodecError, too_large};
use crate::encode::frame::PREFIX_BYTES;

/// The alignment of buffers in bytes that Arrow recommends.
const ALIGNMENT: usize = 64;

/// The optional marker at the end of a stream.
const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

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
        align_after_schema(stream.get_mut(), start)?;
        stream.write(&compact::batch(value)?)?;
        // Without the optional marker of its end, the frame is a multiple of 64 bytes long, so that
        // frames which follow each other stay aligned.
        drop(stream);
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
        let (schema, batches, bytes) = decode(Buffer::from(frame), max_bytes)?;
        Ok((join::join(schema, batches)?, bytes))
    }

    fn value_bytes(&self, value: &RecordBatch) -> usize {
        value.get_array_memory_size()
    }
}

/// Pads the schema of a stream that begins at `start`, so that the next message begins at a multiple
/// of 64 bytes of a frame with its prefix. The buffers of that message are then aligned as Arrow
/// recommends if the frame is.
fn align_after_schema(frame: &mut Vec<u8>, start: usize) -> Result<(), CodecError> {
    let padded = (PREFIX_BYTES + frame.len() - start).next_multiple_of(ALIGNMENT) - PREFIX_BYTES;
    let added = padded - (frame.len() - start);
    // A message begins with a marker and its own length; readers ignore the padding at its end.
    let len = frame.get_mut(start + 4..start + 8).ok_or("the schema of a stream is missing")?;
    let schema_len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) + u32::try_from(added)?;
    len.copy_from_slice(&schema_len.to_le_bytes());
    frame.resize(start + padded, 0);
    Ok(())
}

/// Decodes the batches of a stream, whose arrays share its bytes where they are aligned. Also
/// returns the schema and the bytes that count against the limit.
pub(super) fn decode(
    frame: Buffer,
    max_bytes: usize,
) -> Result<(SchemaRef, Vec<RecordBatch>, usize), CodecError> {
    let bitmap_bytes = check::stream(&frame)?;
    let bytes = frame.len().max(bitmap_bytes);
    if bytes > max_bytes {
        return Err(too_large(max_bytes).into());
    }
    let mut rest = frame;
    let mut stream = StreamDecoder::new();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        batches.extend(stream.decode(&mut rest)?);
    }
    if stream.finish().is_err() {
        // The decoder returns a message without a body only when more bytes follow, so append the
        // optional marker.
        let mut end = Buffer::from(END_OF_STREAM.as_slice());
        while !end.is_empty() {
            batches.extend(stream.decode(&mut end)?);
        }
        stream.finish()?;
    }
    let schema = stream.schema().ok_or("the stream has no schema")?;
    Ok((schema, batches, bytes))
}
