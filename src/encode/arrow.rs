//! `Arrow`: record batches as Arrow IPC streams, joined by concatenation.
//!
//! A frame is one whole IPC stream: schema, batches, end. It is checked here (`check`) and then
//! read by the arrow crates, which validate every array, from one copy of the frame: no memory is
//! taken by a declared length. No byte of a frame is part of two buffers, so that what is copied
//! out of it takes no more than the frame, but for the bitmaps of what is null. Buffers that are
//! compressed inside the stream are refused: compression is another layer's business.
//!
//! `compact` reduces a batch to its own rows before it is encoded, `join` concatenates, and
//! `batches` is for values that need not, or cannot, be one batch.

mod batches;
mod check;
mod codec;
mod compact;
mod join;

pub use self::batches::Batches;
pub use self::codec::ArrowCodec;
use crate::encode::typed::Typed;
use crate::{Key, Partd, Result};

/// A layer of record batches: what is appended to a key is one batch when it is read.
///
/// The row of the Python partd's pandas layers, in a format of its own: each frame is an Arrow IPC
/// stream, which every Arrow library reads. A missing key has no rows and no columns. Columns may
/// have all types but unions. The limit on decoded bytes counts those of the frames.
///
/// A batch is compacted before it is encoded: a slice, or what a filter left of a batch, takes the
/// space of its own rows, whatever buffers it shares with others.
///
/// # Values that cannot be one batch
///
/// Batches of one key must have the same schema to be joined, and one batch must be able to hold
/// their rows: `Utf8`, `Binary` and `List` count to 2 GiB or 2³¹ items, and the keys of a
/// dictionary to as many values as their type has. Where that fails, [`get`](Typed::get) and
/// [`pop`](Typed::pop) return an error that says why, and change nothing.
/// [`batches`](Typed::batches) and [`pop_batches`](Typed::pop_batches) return the batches as they
/// were appended, and need nothing of that.
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
    /// Keeps record batches in a store.
    pub fn new(inner: P) -> Arrow<P> {
        Typed::with_codec(ArrowCodec::new(), inner)
    }
}

impl<P: Partd> Typed<ArrowCodec, P> {
    /// The number of rows under a key; 0 where it is missing. Its batches are decoded for it, one
    /// at a time.
    pub fn len_of(&self, key: impl Into<Key>) -> Result<u64> {
        self.batches(key)?.map(|batch| Ok(batch?.num_rows() as u64)).sum()
    }

    /// The batches of a key, in the order in which they were appended, decoded one at a time.
    ///
    /// They are those of one moment. Only one of them is held decoded, so that the limit on decoded
    /// bytes is for each by itself; the encoded bytes of the key are held until the iterator is
    /// dropped.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or what is stored is no sequence of frames. A frame that cannot
    /// be decoded is an error of the iterator in its place; the batches behind it follow.
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

    /// Removes a key, and returns its batches as [`batches`](Typed::batches) does.
    ///
    /// # Errors
    ///
    /// As of [`batches`](Typed::batches). Each frame is decoded before the key is removed; if one
    /// cannot be, the key stays, as far as [`Encode`](crate::Encode#taking) can promise it.
    pub fn pop_batches(&self, key: impl Into<Key>) -> Result<Batches> {
        batches::take(&self.encode, key.into())
    }
}
