//! A store in memory that notes each call it gets, to prove how a layer goes about its work.

use std::sync::Mutex;

use partd::{Batch, Chunks, Dict, Durability, Key, MemoryStore, Partd, Result};

#[derive(Debug, Default)]
pub struct Counted {
    dict: Dict,
    calls: Mutex<Vec<&'static str>>,
}

impl Counted {
    fn note(&self, call: &'static str) -> &Dict {
        self.calls.lock().unwrap().push(call);
        &self.dict
    }

    /// The calls since the last time that this was asked.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Partd for Counted {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.note("write").write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.note("read").read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.note("take").take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.note("lens").lens(keys)
    }
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.note("present").present(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.note("keys").keys()
    }
    fn sync(&self) -> Result<()> {
        self.note("sync").sync()
    }
    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        self.note("visit").visit(keys, visit)
    }
}

impl MemoryStore for Counted {
    fn memory_bytes(&self) -> u64 {
        self.dict.memory_bytes()
    }
    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        self.note("write_within").write_within(batch, limit_bytes)
    }
    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        self.note("heaviest").heaviest(bytes)
    }
}
