//! `Arrow`: record batches as Arrow IPC streams, joined by concatenation.
//!
//! A frame is one complete IPC stream: schema, batches, end. `check` checks it first. The arrow
//! crates then read it from one copy of the frame and validate every array, so no declared length
//! allocates memory. No two buffers share bytes of the frame, so the arrays take no more memory
//! than the frame, apart from null bitmaps. Buffers compressed inside the stream are refused; use a
//! compressing layer below instead.
//!
//! `compact` reduces a batch to its own rows before it is encoded, `join` concatenates batches, and
//! `batches` returns values that need not or cannot be one batch.

mod batches;
mod check;
mod compact;
mod join;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};

pub use self::batches::Batches;
use crate::encode::codec::{Codec, CodecError, too_large};
use crate::encode::typed::Typed;
use crate::{Key, Partd, Result};

/// The name of the layer in errors.
const NAME: &str = "Arrow";

/// A layer of record batches. The batches appended to a key are read back as one batch.
///
/// It corresponds to the pandas layers of the Python partd, but has its own format: each frame is
/// an Arrow IPC stream, which every Arrow library can read. A missing key reads as a batch without
/// rows and columns. Columns may have any type except unions. The limit on decoded bytes counts the
/// bytes of the frames.
///
/// A batch is compacted before it is encoded: a slice or a filtered batch takes only the space of
/// its own rows, even if it shares buffers with other batches.
///
/// # Values that cannot be one batch
///
/// Batches of one key can be joined only if they have the same schema and one batch can hold all
/// rows: `Utf8`, `Binary` and `List` columns hold up to 2 GiB or 2³¹ items, and a dictionary as
/// many values as its key type can count. If they cannot be joined, [`get`](Typed::get) and
/// [`pop`](Typed::pop) return an error that says why, and change nothing.
/// [`batches`](Typed::batches) and [`pop_batches`](Typed::pop_batches) return the batches one at a
/// time, without joining them.
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
    /// Creates a layer that stores record batches.
    #[must_use]
    pub fn new(inner: P) -> Arrow<P> {
        Typed::with_codec(ArrowCodec(()), inner)
    }
}

impl<P: Partd> Typed<ArrowCodec, P> {
    /// Returns the number of rows of a key; 0 if the key is missing. It decodes the batches, one at
    /// a time.
    ///
    /// # Errors
    ///
    /// Those of [`batches`](Typed::batches), and of a batch that cannot be decoded.
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        self.batches(key)?.map(|batch| Ok(batch?.num_rows() as u64)).sum()
    }

    /// Returns the batches of a key as they were at one moment, in the order of the appends.
    ///
    /// The iterator decodes one batch at a time, so the limit on decoded bytes applies to each
    /// batch separately. It holds the encoded bytes of the key until it is dropped.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or if the stored bytes are not a sequence of frames. The
    /// iterator returns an error in place of a frame that cannot be decoded, and then goes on with
    /// the next.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// # use partd::{Arrow, Dict};
    /// # let rows = |numbers: Vec<i64>| {
    /// #     let column: ArrayRef = Arc::new(Int64Array::from(numbers));
    /// #     RecordBatch::try_from_iter([("n", column)]).unwrap()
    /// # };
    /// let p = Arrow::new(Dict::new());
    /// p.append([("x", rows(vec![1, 2])), ("x", rows(vec![3]))])?;
    /// for batch in p.batches("x")? {
    ///     println!("{} rows", batch?.num_rows());
    /// }
    /// # Ok::<(), partd::Error>(())
    /// ```
    pub fn batches(&self, key: impl Into<Key>) -> Result<Batches> {
        batches::read(&self.encode, key.into())
    }

    /// Removes a key and returns its batches as [`batches`](Typed::batches) does.
    ///
    /// # Errors
    ///
    /// Those of [`batches`](Typed::batches). Every frame is decoded before the key is removed, so a
    /// key with a frame that cannot be decoded stays, within the limits of
    /// [`Encode`](crate::Encode#taking).
    pub fn pop_batches(&self, key: impl Into<Key>) -> Result<Batches> {
        batches::take(&self.encode, key.into())
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
        // Refuse now what a read would refuse, such as a column with too many items.
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

/// Decodes a stream into its schema, its batches, and the bytes that they count against the limit.
fn decode(
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
