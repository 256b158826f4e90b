//! Gathers small record batches in memory, so that each frame holds many rows.

use std::collections::HashMap;
use std::{fmt, slice};

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_data::transform::MutableArrayData;
use arrow_schema::ArrowError;
use foldhash::fast::RandomState;

use super::{Arrow, check, codec, compact, join};
use crate::encode::CodecError;
use crate::encode::run::reason;
use crate::{Error, Key, Partd, Result};

/// A writer that gathers the small batches of each key, and appends them as larger ones.
///
/// A frame costs a fixed number of bytes besides its rows (see [`Arrow`]), which is most of it for
/// a batch of a few rows. A shuffle that splits each batch into many partitions therefore
/// appends through this writer. Created by [`Arrow::gather`](crate::Typed::gather).
///
/// Gathered batches are in memory only: readers do not see them, and they do not survive a crash,
/// until they are written. [`flush`](Gather::flush) writes them, and so does dropping the writer,
/// which cannot report an error. While they are written, the joined batches of all keys and their
/// encoded frames are in memory too: about three times what was gathered.
///
/// ```
/// use std::sync::Arc;
/// use arrow_array::{ArrayRef, Int64Array, RecordBatch};
/// use partd::{Arrow, SegmentLog};
/// let row = |number: i64| {
///     let column: ArrayRef = Arc::new(Int64Array::from(vec![number]));
///     RecordBatch::try_from_iter([("n", column)]).unwrap()
/// };
/// let p = Arrow::new(SegmentLog::temporary()?);
/// let mut gather = p.gather(8192, 64 << 20);
/// for number in 0..1000 {
///     gather.append(number % 2, &row(number))?;
/// }
/// gather.flush()?;
/// assert_eq!(p.batches(0)?.count(), 1);
/// assert_eq!(p.get(0)?.num_rows(), 500);
/// # Ok::<(), partd::Error>(())
/// ```
pub struct Gather<'a, P: Partd> {
    arrow: &'a Arrow<P>,
    rows: usize,
    limit_bytes: usize,
    keys: HashMap<Key, Pending, RandomState>,
    memory_bytes: usize,
}

/// The batches of a key that are not written yet. All have the same schema.
#[derive(Default)]
struct Pending {
    batches: Vec<RecordBatch>,
    rows: usize,
    memory_bytes: usize,
}

impl<'a, P: Partd> Gather<'a, P> {
    pub(super) fn new(arrow: &'a Arrow<P>, rows: usize, limit_bytes: usize) -> Gather<'a, P> {
        Gather { arrow, rows, limit_bytes, keys: HashMap::default(), memory_bytes: 0 }
    }

    /// Adds a batch to a key.
    ///
    /// The rows are copied, so a slice does not keep the memory of its whole batch. The key is
    /// written if it has gathered enough rows or if the schema changes, and everything gathered is
    /// written first if the batch would exceed the memory limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the batch can never be written, and the
    /// other errors of [`append`](crate::Typed::append). This batch is then not gathered, and
    /// no earlier batch is lost, so the call can be repeated.
    pub fn append(&mut self, key: impl Into<Key>, batch: &RecordBatch) -> Result<()> {
        let key = key.into();
        let batch = own_rows(batch).map_err(|error| Error::Encode {
            layer: codec::NAME,
            key: key.clone(),
            reason: reason(&error),
        })?;
        let memory_bytes = batch.get_array_memory_size();
        if self.memory_bytes + memory_bytes > self.limit_bytes {
            self.flush()?;
        } else if let Some(pending) = self.keys.get(&key)
            && pending.batches.first().is_some_and(|first| first.schema() != batch.schema())
        {
            self.write(slice::from_ref(&key))?;
        }
        let pending = self.keys.entry(key.clone()).or_default();
        let rows = batch.num_rows();
        pending.batches.push(batch);
        pending.rows += rows;
        pending.memory_bytes += memory_bytes;
        self.memory_bytes += memory_bytes;
        if pending.rows < self.rows && self.memory_bytes <= self.limit_bytes {
            return Ok(());
        }
        let written = self.write(slice::from_ref(&key));
        if written.is_err()
            && let Some(pending) = self.keys.get_mut(&key)
        {
            pending.batches.pop();
            pending.rows -= rows;
            pending.memory_bytes -= memory_bytes;
            self.memory_bytes -= memory_bytes;
        }
        written
    }

    /// Writes everything gathered, as one atomic batch.
    ///
    /// # Errors
    ///
    /// Those of [`append`](crate::Typed::append). Everything then stays gathered.
    pub fn flush(&mut self) -> Result<()> {
        let mut keys: Vec<Key> = self.keys.keys().cloned().collect();
        keys.sort_unstable();
        self.write(&keys)
    }

    /// Returns the memory that the gathered batches hold, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn write(&mut self, keys: &[Key]) -> Result<()> {
        let mut pairs = Vec::new();
        for key in keys {
            let Some(pending) = self.keys.get(key) else { continue };
            let Some(first) = pending.batches.first() else { continue };
            match join::join(first.schema(), pending.batches.clone()) {
                Ok(joined) => pairs.push((key, joined)),
                // One batch cannot hold all rows, so write those that the caller gave.
                Err(_) => pairs.extend(pending.batches.iter().map(|batch| (key, batch.clone()))),
            }
        }
        self.arrow.append(pairs)?;
        for key in keys {
            if let Some(pending) = self.keys.remove(key) {
                self.memory_bytes -= pending.memory_bytes;
            }
        }
        Ok(())
    }
}

/// Copies the rows of a batch that can be encoded, so that it shares no memory with others.
fn own_rows(batch: &RecordBatch) -> Result<RecordBatch, CodecError> {
    check::types(&batch.schema())?;
    let batch = compact::batch(batch)?;
    let copy = |column: &ArrayRef| {
        let rows = column.to_data();
        let mut copied = MutableArrayData::new(vec![&rows], false, rows.len());
        copied.try_extend(0, 0, rows.len())?;
        Ok(make_array(copied.freeze()))
    };
    let columns = batch.columns().iter().map(copy).collect::<Result<_, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

impl<P: Partd> Drop for Gather<'_, P> {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

impl<P: Partd> fmt::Debug for Gather<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("keys", &self.keys.len())
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}
