//! This crate's `SegmentLog`.

use std::ops::Range;

use anyhow::Result;
use partd::{Batch, Durability, Key, Op, Partd, SegmentLog};

use crate::engine::{Engine, Setup};
use crate::workload::Piece;

/// Any store of this crate.
pub(crate) struct Store<P> {
    store: P,
    keys: Vec<Key>,
}

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let log = SegmentLog::open(setup.dir.join("store"))?;
    Ok(Box::new(Store::new(log, setup)))
}

impl<P> Store<P> {
    pub(crate) fn new(store: P, setup: &Setup<'_>) -> Store<P> {
        Store { store, keys: setup.names().into_iter().map(Key::from).collect() }
    }
}

impl<P: Partd + Send + Sync> Engine for Store<P> {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        let mut ops = Batch::with_capacity(batch.len());
        for piece in batch {
            ops.push(Op::Append(self.keys[piece.key].clone(), piece.value));
        }
        Ok(self.store.write(&ops, Durability::Plain)?)
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        Ok(self.store.get(self.keys[key].clone())?)
    }

    fn get_many(&self, keys: Range<usize>) -> Result<Vec<Vec<u8>>> {
        Ok(self.store.read(&self.keys[keys])?)
    }
}
