//! Counts the bytes of the spill files, against a quota.
//!
//! Invariant: the bytes in use are those of the files that exist, and adding to them never exceeds
//! the quota.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use datafusion_common::{DataFusionError, Result, human_readable_size};

/// The bytes and numbers of the spill files of one store.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) quota_bytes: AtomicU64,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) files: AtomicUsize,
    pub(crate) created: AtomicU64,
}

impl Usage {
    pub(crate) fn new(quota_bytes: u64) -> Usage {
        Usage {
            quota_bytes: AtomicU64::new(quota_bytes),
            used_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            files: AtomicUsize::new(0),
            created: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` more, unless they exceed the quota. `what` says what needs them.
    pub(crate) fn add(&self, bytes: u64, what: &str) -> Result<()> {
        let quota = self.quota_bytes.load(Relaxed);
        let add = |used: u64| used.checked_add(bytes).filter(|used| *used <= quota);
        match self.used_bytes.fetch_update(Relaxed, Relaxed, add) {
            Ok(_) => {
                self.written_bytes.fetch_add(bytes, Relaxed);
                Ok(())
            }
            Err(used) => Err(DataFusionError::ResourcesExhausted(format!(
                "{what}: the spill files take {} and need {} more, which exceeds their quota of {}; \
                 raise it with `PartdSpill::set_quota_bytes`",
                human_readable_size(used as usize),
                human_readable_size(bytes as usize),
                human_readable_size(quota as usize),
            ))),
        }
    }

    /// Subtracts a file that is gone.
    pub(crate) fn remove_file(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Relaxed);
        self.files.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_up_to_the_quota_are_granted_and_those_of_a_removed_file_become_free() {
        let usage = Usage::new(100);
        usage.files.store(1, Relaxed);
        usage.add(100, "a sort").unwrap();
        let error = usage.add(1, "a sort").unwrap_err();
        assert!(matches!(error, DataFusionError::ResourcesExhausted(_)), "{error:?}");
        assert!(error.to_string().contains("a sort"), "{error}");
        usage.remove_file(100);
        usage.add(100, "a sort").unwrap();
        assert_eq!(usage.written_bytes.load(Relaxed), 200);
        assert!(usage.add(u64::MAX, "a sort").is_err());
    }
}
