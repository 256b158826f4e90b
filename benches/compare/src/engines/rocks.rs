//! RocksDB with a merge operator that concatenates.

use anyhow::Result;
use rocksdb::{DB, DBCompressionType, MergeOperands, Options, WriteBatch, WriteOptions};

use crate::engine::{Engine, Setup};
use crate::workload::Piece;

pub(crate) struct Rocks {
    db: DB,
    write: WriteOptions,
    names: Vec<String>,
}

#[expect(clippy::unnecessary_wraps, reason = "the signature is the binding's")]
fn concatenate(_: &[u8], value: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let len = value.map_or(0, <[u8]>::len) + operands.iter().map(<[u8]>::len).sum::<usize>();
    let mut joined = Vec::with_capacity(len);
    joined.extend_from_slice(value.unwrap_or_default());
    operands.iter().for_each(|operand| joined.extend_from_slice(operand));
    Some(joined)
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_merge_operator_associative("concatenate", concatenate);
    options.set_compression_type(DBCompressionType::None);
    options.increase_parallelism(std::thread::available_parallelism()?.get() as i32);
    let db = DB::open(&options, setup.dir)?;
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    Ok(Box::new(Rocks { db, write, names: setup.names() }))
}

impl Engine for Rocks {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let mut ops = WriteBatch::default();
        batch.iter().for_each(|piece| ops.merge(&self.names[piece.key], piece.value));
        Ok(self.db.write_opt(ops, &self.write)?)
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let value = self.db.get_pinned(&self.names[key])?;
        Ok(value.map_or_else(Vec::new, |value| value.to_vec()))
    }
}
