//! An in-memory store that records each call, to check how a layer uses the store below it.

use std::sync::Mutex;

use partd::{Batch, Chunks, Dict, Durability, Key, MemoryStore, Partd, Result};

#[derive(Debug, Default)]
pub struct Counted {
    dict: Dict,
    calls: Mutex<Vec<&'static str>>,
}

impl Counted {
    fn count(&self, call: &'static str) -> &Dict {
        self.calls.lock().unwrap().push(call);
        &self.dict
    }

    /// Returns the calls since the previous `calls`.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Partd for Counted {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.count("write").write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.count("read").read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.count("take").take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.count("lens").lens(keys)
    }
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.count("present").present(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.count("keys").keys()
    }
    fn sync(&self) -> Result<()> {
        self.count("sync").sync()
    }
    fn visit(
        &self,
        keys: &[Key],
        visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
    ) -> Result<()> {
        self.count("visit").visit(keys, visit)
    }
}

impl MemoryStore for Counted {
    fn memory_bytes(&self) -> u64 {
        self.dict.memory_bytes()
    }
    fn spare_bytes(&self) -> u64 {
        self.dict.spare_bytes()
    }
    fn release_spare(&self) {
        self.dict.release_spare();
    }
    fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
        self.count("write_within").write_within(batch, limit_bytes)
    }
    fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
        self.count("heaviest").heaviest(bytes)
    }
}
