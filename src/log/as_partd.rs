//! `SegmentLog` as a `Partd`: the operations that every store has.

use crate::Key;
use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::maintain::engine::Engine;
use crate::log::{SegmentLog, pop, trace};
use crate::partd::{Batch, Chunks, Durability, Partd};
use crate::threads::{self, LentPool};

impl<D: Disk> Partd for SegmentLog<D> {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.commit(batch, durability).map(drop)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.read_with_room(keys, &[])
    }

    fn read_with_room(&self, keys: &[Key], room: &[usize]) -> Result<Vec<Vec<u8>>> {
        let Engine { store, reader, .. } = &*self.engine;
        let snapshot = reader.snapshot(store, keys)?;
        snapshot.check_read(store)?;
        let values = snapshot.values(store.pool(), room)?;
        store.tally.read(values.iter().map(|value| value.len() as u64).sum());
        Ok(values)
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let Engine { store, reader, writer, .. } = &*self.engine;
        store.check_writable()?;
        let taken = pop::take(store, reader, writer, keys);
        let values = taken.inspect_err(|e| trace::out_of_space(self.path(), "pop", e))?;
        store.tally.read(values.iter().map(|value| value.len() as u64).sum());
        self.background.removed(&self.engine);
        Ok(values)
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        let Engine { store, reader, .. } = &*self.engine;
        reader.with_version(store, |version| {
            keys.iter().map(|key| version.index.get(key.as_bytes()).map(|slot| slot.len)).collect()
        })
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.keys_with(&Key::default())
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        let Engine { store, reader, .. } = &*self.engine;
        let mut keys: Vec<Key> = reader.with_version(store, |version| {
            let keys = version.index.keys().map(|slot| &slot.key);
            keys.filter(|key| key.as_bytes().starts_with(prefix.as_bytes())).cloned().collect()
        })?;
        threads::sort(store.pool(), &mut keys);
        Ok(keys)
    }

    fn sync(&self) -> Result<()> {
        let store = &self.engine.store;
        store.check_writable()?;
        self.sync_up_to(store.visible())
    }

    #[inline]
    fn check(&self, durability: Durability) -> Result<()> {
        let store = &self.engine.store;
        store.check_writable()?;
        match durability {
            Durability::Plain => Ok(()),
            // Fail before writing a batch that could not be made durable.
            Durability::Durable => store.check_sync(store.control()?),
        }
    }

    fn lent_pool(&self) -> Option<&LentPool> {
        self.engine.store.pool()
    }

    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        let Engine { store, reader, .. } = &*self.engine;
        let snapshot = reader.snapshot(store, keys)?;
        let chunks = snapshot.chunks(store.pool())?;
        store.tally.read(snapshot.bytes());
        visit(&chunks)
    }
}
