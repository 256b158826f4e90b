//! Writes the bytes of a batch: its layout, its values with their checksums, and its head.

use std::cell::RefCell;
use std::hint::black_box;
use std::io;

use partd_format::Kind;
use partd_format::batch::{Layout, NewEntry};

use crate::error::{Error, Result};
use crate::log::fs::{Disk, DiskFile};
use crate::log::options::Options;
use crate::log::segment::batch_writer::{BatchWriter, GROUP_BYTES, Scratch};
use crate::log::segment::claim::Claim;
use crate::log::segment::through::Through;
use crate::log::store::Store;
use crate::partd::{Batch, Op};

/// The number of values that are loaded at a time: enough that their cache misses overlap, few enough
/// that the first are still in the nearest cache when the last arrive.
const LOADED_VALUES: usize = 16;
/// The CPU by itself loads the rest of a longer value ahead.
const LOADED_BYTES: usize = 1024;
const CACHE_LINE_BYTES: usize = 64;

thread_local! {
    /// The checksums of a batch's values and the memory of its writer, reused from batch to batch.
    static SCRATCH: RefCell<(Vec<u32>, Scratch)> = RefCell::default();
}

/// The properties of a batch that are needed to claim space for it.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    /// Whether the batch has removals: deletes, prefix deletes or clears.
    pub(crate) removes: bool,
    /// Whether the batch has only removals.
    pub(crate) only_removes: bool,
}

impl Shape {
    /// Computes the shape of a batch; fails if the format cannot hold the batch.
    pub(crate) fn of<D: Disk>(store: &Store<D>, batch: &Batch<'_>) -> Result<Shape> {
        let mut shape = Shape { layout: Layout::new(), removes: false, only_removes: true };
        for op in batch.ops() {
            match kind_of(op).has_value() {
                true => shape.only_removes = false,
                false => shape.removes = true,
            }
            let key_len = key_of(op).len() as u64;
            shape.layout.add(key_len, op.value().len() as u64).map_err(|error| {
                let key = op.key().cloned().unwrap_or_default();
                Error::Invalid(format!(
                    "{}: the batch exceeds a format limit at key {key}: {} may be {}, not {}",
                    store.directory.path().display(),
                    error.what,
                    error.expected,
                    error.found
                ))
            })?;
        }
        Ok(shape)
    }

    /// The room that the batch must leave in its segment: removals may use what others leave.
    pub(crate) fn reserve(&self, options: &Options) -> u64 {
        if self.only_removes { 0 } else { options.reserve() }
    }
}

/// Writes all of a batch except its link and state words.
pub(crate) fn fill<F: DiskFile>(
    claim: &mut Claim<F>,
    batch: &Batch<'_>,
    layout: &Layout,
    durable_seq: u64,
) -> io::Result<()> {
    SCRATCH.with_borrow_mut(|(checksums, scratch)| {
        checksums.clear();
        let through = claim.through();
        if through == Through::Mapping {
            claim.populate()?;
        }
        let first = claim.segment().value_hasher();
        let mut writer = BatchWriter::new(claim, layout, through, scratch);
        for ops in batch.ops().chunks(LOADED_VALUES) {
            ops.iter().for_each(|op| load(op.value()));
            for op in ops {
                if !kind_of(op).has_value() {
                    checksums.push(0);
                    continue;
                }
                writer.begin_value(op.value().len() as u64);
                let mut hasher = first.clone();
                for piece in op.value().chunks(GROUP_BYTES) {
                    hasher.update(piece);
                    if writer.push(piece) {
                        writer.flush()?;
                    }
                }
                checksums.push(hasher.finalize());
            }
        }
        let entries = batch.ops().iter().zip(&*checksums).map(|(op, &value_checksum)| NewEntry {
            kind: kind_of(op),
            key: key_of(op),
            value_len: op.value().len() as u64,
            value_checksum,
            sequence: 0,
        });
        writer.finish(layout, durable_seq, entries)?;
        scratch.shrink();
        checksums.shrink_to(1 << 18);
        Ok(())
    })
}

/// Loads the beginning of a value into the CPU cache. The checksum is the first to read a value, and
/// would otherwise wait for the memory of one short value after another.
///
/// This is *group prefetching* (Chen, Ailamaki, Gibbons and Mowry, "Improving hash join performance
/// through prefetching", 2004), with loads in place of the prefetch instruction, which is unsafe.
#[inline]
fn load(value: &[u8]) {
    let value = &value[..value.len().min(LOADED_BYTES)];
    for line in value.chunks(CACHE_LINE_BYTES) {
        black_box(line[0]);
    }
    if let Some(last) = value.last() {
        black_box(*last);
    }
}

/// The key in the entry of an operation: for a removal by prefix, the prefix.
#[inline]
fn key_of<'a>(op: &'a Op<'_>) -> &'a [u8] {
    match op {
        Op::Append(key, _) | Op::Set(key, _) | Op::Delete(key) | Op::DeletePrefix(key) => {
            key.as_bytes()
        }
        Op::Clear => &[],
    }
}

fn kind_of(op: &Op<'_>) -> Kind {
    match op {
        Op::Append(..) => Kind::Append,
        Op::Set(..) => Kind::Set,
        Op::Delete(_) => Kind::Delete,
        Op::Clear => Kind::Clear,
        Op::DeletePrefix(_) => Kind::DeletePrefix,
    }
}
