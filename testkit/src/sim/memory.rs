//! The memory of simulated files. A crash test boots hundreds of thousands of disks; mapping and
//! unmapping memory for each would take longer than the tests themselves, so memory is cleared and
//! reused.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{LazyLock, Mutex};

use partd::log::fs::Mapping;

use super::disk::lock;

/// Zeroed memory that is not in use, by length.
static SPARE: LazyLock<Mutex<HashMap<u64, Vec<Mapping>>>> = LazyLock::new(Mutex::default);

/// The memory of one file.
#[derive(Debug)]
pub struct Memory(Option<Mapping>);

impl Memory {
    /// Returns `len` bytes, all zero.
    pub fn zeroed(len: u64) -> Memory {
        let spare = lock(&SPARE).get_mut(&len).and_then(Vec::pop);
        Memory(Some(spare.unwrap_or_else(|| Mapping::anonymous(len).expect("memory"))))
    }
}

impl Deref for Memory {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(mut mapping) = self.0.take() {
            mapping.clear();
            lock(&SPARE).entry(mapping.len()).or_default().push(mapping);
        }
    }
}
