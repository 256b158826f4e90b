//! redb, a copy-on-write B-tree.

use anyhow::Result;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::entry_name;
use crate::engine::{Engine, Setup};
use crate::workload::Piece;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");

pub(crate) struct Redb {
    db: Database,
    names: Vec<String>,
    batches: u32,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let db = Database::create(setup.dir.join("redb"))?;
    Ok(Box::new(Redb { db, names: setup.names(), batches: 0 }))
}

impl Engine for Redb {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut table = transaction.open_table(TABLE)?;
        let mut entry = Vec::new();
        for piece in batch {
            entry_name(&mut entry, &self.names[piece.key], self.batches);
            table.insert(&entry[..], piece.value)?;
        }
        drop(table);
        self.batches += 1;
        Ok(transaction.commit()?)
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        let (mut first, mut last) = (Vec::new(), Vec::new());
        entry_name(&mut first, &self.names[key], 0);
        entry_name(&mut last, &self.names[key], self.batches);
        let mut value = Vec::new();
        for entry in table.range(&first[..]..&last[..])? {
            value.extend_from_slice(entry?.1.value());
        }
        Ok(value)
    }
}
