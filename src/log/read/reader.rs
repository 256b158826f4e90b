//! The read half of a handle: its version of the store, which is refreshed before each use.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::Key;
use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::read::snapshot::Snapshot;
use crate::log::read::version::Version;
use crate::log::store::Store;

/// A handle's version of the store, behind a lock.
#[derive(Debug)]
pub(crate) struct Reader<D: Disk> {
    version: RwLock<Version<D>>,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new() -> Reader<D> {
        Reader { version: RwLock::new(Version::default()) }
    }

    /// Refreshes the version if necessary, and passes it to `read`.
    pub(crate) fn with_version<T>(
        &self,
        store: &Store<D>,
        read: impl FnOnce(&Version<D>) -> T,
    ) -> Result<T> {
        store.check_process()?;
        store.check_frozen()?;
        let version = self.version();
        if version.is_current(store) {
            return Ok(read(&version));
        }
        drop(version);
        let mut version = self.version_mut();
        version.refresh(store, false)?;
        Ok(read(&version))
    }

    /// Passes the current version to `read`, after a refresh that also detects segments that were
    /// sealed since the last batch.
    pub(crate) fn with_walked_version<T>(
        &self,
        store: &Store<D>,
        read: impl FnOnce(&Version<D>) -> T,
    ) -> Result<T> {
        store.check_process()?;
        store.check_frozen()?;
        let mut version = self.version_mut();
        version.refresh(store, true)?;
        Ok(read(&version))
    }

    /// Returns a snapshot of the keys' current values.
    pub(crate) fn snapshot(&self, store: &Store<D>, keys: &[Key]) -> Result<Snapshot<D::File>> {
        self.with_version(store, |version| Snapshot::of_keys(store, version, keys))
    }

    fn version(&self) -> RwLockReadGuard<'_, Version<D>> {
        self.version.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the version exclusively.
    pub(crate) fn version_mut(&self) -> RwLockWriteGuard<'_, Version<D>> {
        self.version.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the version was ever built, and so takes memory.
    pub(crate) fn is_built(&self) -> bool {
        self.version().is_built()
    }

    /// Frees the memory of the version. The next use builds it again.
    pub(crate) fn forget(&self) {
        self.version_mut().reset();
    }
}
