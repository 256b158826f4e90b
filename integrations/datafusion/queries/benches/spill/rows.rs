//! Generated tables that take no memory, and the checksum of a result.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;

const BATCH_ROWS: u64 = 8192;
/// The length of the strings, most of whose bytes are random.
const STRING_BYTES: usize = 48;

/// The finalizer of splitmix64: a permutation of all numbers that looks random.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The columns of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Columns {
    /// `k`, which is unique, and `s`, a short text with it: about 60 bytes a row.
    Pairs,
    /// `id`, which counts the rows, `k`, which is one of this many keys, the numbers `v` and `w`,
    /// and `s`, 48 random letters: about 96 bytes a row.
    Wide { keys: u64 },
}

/// One partition of a table.
#[derive(Clone, Debug)]
struct Part {
    schema: SchemaRef,
    columns: Columns,
    seed: u64,
    rows: Range<u64>,
    /// The rows of the whole table.
    of: u64,
}

impl Part {
    fn batch(&self, rows: Range<u64>) -> Result<RecordBatch> {
        let columns = match self.columns {
            Columns::Pairs => self.pairs(rows),
            Columns::Wide { keys } => self.wide(rows, keys),
        };
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn pairs(&self, rows: Range<u64>) -> Vec<ArrayRef> {
        // The factor has no divisor in common with a number of rows that only 2, 3, 5 and 7 divide,
        // so the keys are a permutation, another one for each seed.
        let keys = rows.map(|n| (n * 15_485_863 + self.seed * 1_000_003) % self.of);
        let keys = Int64Array::from_iter_values(keys.map(|key| key as i64));
        let mut texts = StringViewBuilder::with_capacity(keys.len());
        for key in keys.values() {
            texts.append_value(format!("payload-{key}-{:x<24}", ""));
        }
        vec![Arc::new(keys), Arc::new(texts.finish())]
    }

    fn wide(&self, rows: Range<u64>, keys: u64) -> Vec<ArrayRef> {
        let random = |n: u64, column: u64| mix(mix(n ^ (self.seed << 48)) ^ column);
        let numbers = |column: u64, modulo: u64| -> ArrayRef {
            let numbers = rows.clone().map(|n| (random(n, column) % modulo) as i64);
            Arc::new(Int64Array::from_iter_values(numbers))
        };
        let mut strings = StringViewBuilder::with_capacity(BATCH_ROWS as usize);
        let mut string = [0; STRING_BYTES];
        for n in rows.clone() {
            for (i, word) in string.chunks_exact_mut(8).enumerate() {
                for (byte, bits) in word.iter_mut().zip(random(n, 10 + i as u64).to_le_bytes()) {
                    *byte = b'a' + bits % 16;
                }
            }
            strings.append_value(std::str::from_utf8(&string).unwrap_or_default());
        }
        let ids = Int64Array::from_iter_values(rows.clone().map(|n| n as i64));
        vec![
            Arc::new(ids),
            numbers(1, keys),
            numbers(2, 1 << 40),
            numbers(3, 1 << 40),
            Arc::new(strings.finish()),
        ]
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let part = self.clone();
        let starts = self.rows.clone().step_by(BATCH_ROWS as usize);
        let end = self.rows.end;
        let batches = starts.map(move |start| part.batch(start..end.min(start + BATCH_ROWS)));
        let stream = futures::stream::iter(batches);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

/// Registers a table of two partitions.
pub(crate) fn register(
    session: &SessionContext,
    name: &str,
    seed: u64,
    rows: u64,
    columns: Columns,
) -> Result<()> {
    let numbers: &[&str] = match columns {
        Columns::Pairs => &["k"],
        Columns::Wide { .. } => &["id", "k", "v", "w"],
    };
    let mut fields: Vec<Field> =
        numbers.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect();
    fields.push(Field::new("s", DataType::Utf8View, false));
    let schema = Arc::new(Schema::new(fields));
    let part = |part| -> Arc<dyn PartitionStream> {
        Arc::new(Part { schema: Arc::clone(&schema), columns, seed, rows: part, of: rows })
    };
    let parts = vec![part(0..rows / 2), part(rows / 2..rows)];
    let table = StreamingTable::try_new(Arc::clone(&schema), parts)?;
    session.register_table(name, Arc::new(table))?;
    Ok(())
}

/// A checksum of rows that does not depend on their order.
#[derive(Debug, Default)]
pub(crate) struct Checksum {
    pub(crate) rows: u64,
    pub(crate) sum: u64,
}

impl Checksum {
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        let mut rows = vec![0_u64; batch.num_rows()];
        for (at, column) in batch.columns().iter().enumerate() {
            let mut add = |row: usize, word: u64| {
                rows[row] = rows[row].wrapping_mul(31).wrapping_add(mix(word ^ at as u64));
            };
            if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
                numbers.values().iter().enumerate().for_each(|(row, n)| add(row, *n as u64));
            } else if let Some(strings) = column.as_string_view_opt() {
                for row in 0..strings.len() {
                    let mut word = 0_u64;
                    for bytes in strings.value(row).as_bytes().chunks(8) {
                        let mut eight = [0; 8];
                        eight[..bytes.len()].copy_from_slice(bytes);
                        word = word.rotate_left(7) ^ u64::from_le_bytes(eight);
                    }
                    add(row, word);
                }
            }
        }
        self.rows += rows.len() as u64;
        self.sum = rows.into_iter().map(mix).fold(self.sum, u64::wrapping_add);
    }
}

/// Checks that the values of the first column never decrease.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: Option<i64>,
}

impl Order {
    pub(crate) fn is_kept_by(&mut self, batch: &RecordBatch) -> bool {
        let Some(numbers) = batch.column(0).as_primitive_opt::<Int64Type>() else { return false };
        let values = numbers.values();
        let first = values.first().copied();
        let is_kept = values.is_sorted() && (first.is_none() || self.last <= first);
        self.last = values.last().copied().or(self.last);
        is_kept
    }
}
