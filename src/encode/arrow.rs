//! `Arrow`: record batches as Arrow IPC streams, joined by concatenation.
//!
//! A frame is one IPC stream: schema and batches, padded so that the buffers are aligned to 64
//! bytes if the frame is. To read a frame, `check` first checks the numbers in it. The arrow crates
//! then read it from one copy and validate every array, so no declared length decides how much
//! memory is allocated. The buffers of a message are together no longer than the message, so the
//! arrays take no more memory than the frame, apart from null bitmaps. Buffers compressed inside
//! the stream are refused; use a compressing layer below instead.
//!
//! `compact` reduces a batch to its own rows before it is encoded, `join` concatenates batches,
//! `batches` returns values that need not or cannot be one batch, and `gather` makes large frames of
//! small batches.

mod batches;
mod check;
mod codec;
mod compact;
mod gather;
mod join;
mod lent;

pub use self::batches::Batches;
pub use self::codec::ArrowCodec;
pub use self::gather::Gather;
use crate::encode::typed::Typed;
use crate::lend::{Lend, OwnedChunks};
use crate::{Key, Partd, Result};

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
/// # What a frame costs
///
/// Each batch appended is one frame, which begins with the schema: about 300 bytes and 80 for each
/// column. The batch adds about 200 bytes and up to 64 for each of its buffers, of which a column of
/// numbers has two and a column of strings three. Batches of a thousand rows or more make that
/// negligible; smaller ones should be gathered first, for which there is [`gather`](Typed::gather).
///
/// # Versions of Arrow
///
/// The layer takes record batches of arrow 60. It cannot accept those of arrow 59 as well: its
/// conversion of a stored schema panics on damaged bytes, and only arrow 60 has one that returns an
/// error. A program that holds batches of another version exchanges them as IPC streams, which is
/// also what the store holds, or through Arrow's C data interface.
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

impl<P> Typed<ArrowCodec, P> {
    /// Creates a layer that stores record batches.
    #[must_use]
    pub fn new(inner: P) -> Arrow<P> {
        Typed::with_codec(ArrowCodec::new(), inner)
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
    /// iterator returns an error in place of a frame that cannot be decoded, and then continues
    /// with the next.
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

    /// Creates a writer that gathers small batches in memory and appends those of each key as one
    /// batch of at least `rows` rows, or earlier if they take more than `limit_bytes` in total.
    #[must_use]
    pub fn gather(&self, rows: usize, limit_bytes: usize) -> Gather<'_, P> {
        Gather::new(self, rows, limit_bytes)
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

impl<P: Lend<View: OwnedChunks>> Typed<ArrowCodec, P> {
    /// Lends the batches of a key as they are at one moment, in the order of the appends.
    ///
    /// The arrays of a batch share the bytes of the mapping: only unaligned buffers are copied, and
    /// no buffer is unaligned if its frame begins an append of 1 KiB or more. A batch keeps its
    /// segment alive, even after a delete, a compaction, and a drop of the store. Only one batch at
    /// a time takes memory of its own, so a key may be larger than memory. A frame that a
    /// [`Buffer`](crate::Buffer) has split over two chunks is copied.
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The iterator returns an error in place of a frame that cannot
    /// be decoded, and then continues with the next; it ends after bytes that are not a frame.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// # use partd::{Arrow, SegmentLog};
    /// # let rows = |numbers: Vec<i64>| {
    /// #     let column: ArrayRef = Arc::new(Int64Array::from(numbers));
    /// #     RecordBatch::try_from_iter([("n", column)]).unwrap()
    /// # };
    /// let p = Arrow::new(SegmentLog::temporary()?);
    /// p.append([("x", rows((0..1000).collect()))])?;
    /// for batch in p.lend_batches("x")? {
    ///     assert_eq!(batch?.num_rows(), 1000);
    /// }
    /// # Ok::<(), partd::Error>(())
    /// ```
    pub fn lend_batches(&self, key: impl Into<Key>) -> Result<Batches> {
        batches::lend(&self.encode, key.into())
    }
}
