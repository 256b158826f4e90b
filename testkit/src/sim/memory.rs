//! The memory of simulated files. A crash test boots hundreds of thousands of disks; mapping and
//! unmapping memory for each would take longer than the tests themselves, so memory is cleared, as far
//! as it was stored to, and reused.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};

use partd::log::fs::Mapping;

use super::disk::lock;

/// Zeroed memory that is not in use, by length.
static SPARE: LazyLock<Mutex<HashMap<u64, Vec<Mapping>>>> = LazyLock::new(Mutex::default);

/// The memory of one file.
#[derive(Debug)]
pub struct Memory {
    mapping: Option<Mapping>,
    stored_end: AtomicU64,
}

impl Memory {
    /// Returns `len` bytes, all zero.
    pub fn zeroed(len: u64) -> Memory {
        let spare = lock(&SPARE).get_mut(&len).and_then(Vec::pop);
        let mapping = spare.unwrap_or_else(|| Mapping::anonymous(len).expect("memory"));
        Memory { mapping: Some(mapping), stored_end: AtomicU64::new(0) }
    }

    /// Records a store that ends at `end`. Whoever stores to the memory calls this.
    pub fn stored(&self, end: u64) {
        self.stored_end.fetch_max(end, Relaxed);
    }

    /// The end of the last byte that was stored: every byte from here on is zero.
    pub fn stored_end(&self) -> u64 {
        self.stored_end.load(Relaxed)
    }
}

impl Deref for Memory {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        self.mapping.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(mut mapping) = self.mapping.take() {
            mapping.clear(self.stored_end().min(mapping.len()));
            lock(&SPARE).entry(mapping.len()).or_default().push(mapping);
        }
    }
}
