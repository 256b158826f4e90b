//! Appends values that are lists of pieces, as a `Buffer` holds them: several batches at a time.

use std::cell::RefCell;

use partd::{Batch, Durability, Key, Op, Partd, SegmentLog};

use crate::threads::{self, share};
use crate::value::Value;

/// A batch has about this many bytes, unless one value is longer; fewer are not worth a thread.
const BATCH_MIN_BYTES: usize = 512 << 10;
const BATCH_MAX_BYTES: usize = 8 << 20;
/// A value whose pieces are shorter than this on average, or than eight keys, is joined and stored as
/// one extent. Longer pieces are not copied: each is an extent with the key, and is as fast to read.
const JOINED_PIECES_MAX_BYTES: usize = 4 << 10;
/// The memory for joined values that a thread keeps; reusing it avoids page faults.
const JOINED_KEPT_MAX_BYTES: usize = 16 << 20;

thread_local! {
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A key and the pieces to append to it.
pub(crate) type Pieces = (Key, Vec<Value>);

/// Appends the pieces of each key, the keys of a batch all or none. Returns which are stored, and an
/// error if some are not.
pub(crate) fn append(log: &SegmentLog, values: &[Pieces]) -> (Vec<bool>, Option<partd::Error>) {
    let batches = split(values, threads::count());
    let written = share(batches, |batch| (batch.len(), write(log, batch)));
    let mut stored = Vec::with_capacity(values.len());
    let mut error = None;
    for (keys, result) in written {
        stored.extend((0..keys).map(|_| result.is_ok()));
        error = error.or(result.err());
    }
    (stored, error)
}

/// Splits values into batches, of which each thread gets one or more.
fn split(values: &[Pieces], threads: usize) -> Vec<&[Pieces]> {
    let bytes: usize = values.iter().map(len_of).sum();
    let end_bytes = (bytes / threads).clamp(BATCH_MIN_BYTES, BATCH_MAX_BYTES);
    let mut batch_bytes = 0;
    values
        .chunk_by(|value, _| {
            batch_bytes += len_of(value);
            let is_full = batch_bytes >= end_bytes;
            if is_full {
                batch_bytes = 0;
            }
            !is_full
        })
        .collect()
}

fn write(log: &SegmentLog, values: &[Pieces]) -> partd::Result<()> {
    JOINED.with_borrow_mut(|joined| {
        // It is empty, unless a write has panicked.
        joined.clear();
        for value in values.iter().filter(|value| is_joined(value)) {
            value.1.iter().for_each(|piece| joined.extend_from_slice(piece.bytes()));
        }
        let mut batch = Batch::with_capacity(values.len());
        let mut rest = &joined[..];
        for value in values {
            let (key, pieces) = value;
            if is_joined(value) {
                let (now, behind) = rest.split_at(len_of(value));
                batch.push(Op::Append(key.clone(), now));
                rest = behind;
            } else {
                batch.extend(pieces.iter().map(|piece| Op::Append(key.clone(), piece.bytes())));
            }
        }
        let written = log.write(&batch, Durability::Plain);
        joined.clear();
        joined.shrink_to(JOINED_KEPT_MAX_BYTES);
        written
    })
}

/// Whether the pieces are stored as one extent. A value without pieces is: the key exists.
fn is_joined(value: &Pieces) -> bool {
    let (key, pieces) = value;
    let longest = JOINED_PIECES_MAX_BYTES.max(8 * key.len());
    pieces.len() != 1 && len_of(value) < pieces.len().max(1) * longest
}

fn len_of((_, pieces): &Pieces) -> usize {
    pieces.iter().map(|piece| piece.bytes().len()).sum()
}
