//! LMDB through heed.

use anyhow::Result;
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use super::entry_name;
use crate::engine::{Engine, Setup};
use crate::workload::Piece;

pub(crate) struct Lmdb {
    env: Env,
    db: Database<Bytes, Bytes>,
    names: Vec<String>,
    batches: u32,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    // LMDB stores no more than a few times the bytes; the file is sparse.
    let map = (setup.workload.bytes() as usize * 4 + (1 << 30)).next_multiple_of(1 << 20);
    let mut options = EnvOpenOptions::new();
    options.map_size(map);
    // SAFETY: without syncs, a crash of the machine may destroy the store; it is then removed.
    unsafe { options.flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP) };
    // SAFETY: the directory is this process's alone, and it opens it once.
    let env = unsafe { options.open(setup.dir) }?;
    let mut transaction = env.write_txn()?;
    let db = env.create_database(&mut transaction, None)?;
    transaction.commit()?;
    Ok(Box::new(Lmdb { env, db, names: setup.names(), batches: 0 }))
}

impl Engine for Lmdb {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        let mut entry = Vec::new();
        for piece in batch {
            entry_name(&mut entry, &self.names[piece.key], self.batches);
            self.db.put(&mut transaction, &entry, piece.value)?;
        }
        self.batches += 1;
        Ok(transaction.commit()?)
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let transaction = self.env.read_txn()?;
        let mut value = Vec::new();
        for entry in self.db.prefix_iter(&transaction, self.names[key].as_bytes())? {
            value.extend_from_slice(entry?.1);
        }
        Ok(value)
    }
}
