//! fjall, an LSM tree.

use anyhow::Result;
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::entry_name;
use crate::engine::{Engine, Setup};
use crate::workload::Piece;

pub(crate) struct Fjall {
    db: Database,
    keyspace: Keyspace,
    names: Vec<String>,
    batches: u32,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let db = Database::builder(setup.dir).open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::disabled())
    };
    let keyspace = db.keyspace("data", options)?;
    Ok(Box::new(Fjall { db, keyspace, names: setup.names(), batches: 0 }))
}

impl Engine for Fjall {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let mut ops = self.db.batch();
        let mut entry = Vec::new();
        for piece in batch {
            entry_name(&mut entry, &self.names[piece.key], self.batches);
            ops.insert(&self.keyspace, &entry[..], piece.value);
        }
        self.batches += 1;
        Ok(ops.commit()?)
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let mut value = Vec::new();
        for entry in self.keyspace.prefix(&self.names[key]) {
            value.extend_from_slice(&entry.value()?);
        }
        Ok(value)
    }
}
