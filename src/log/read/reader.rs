//! The reading half of a handle: its version of the store, brought up to now before anyone looks at it.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::Key;
use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::read::snapshot::Snapshot;
use crate::log::read::version::Version;
use crate::log::store::Store;

/// The version of the store that a handle knows.
#[derive(Debug)]
pub(crate) struct Reader<D: Disk> {
    version: RwLock<Version<D>>,
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new() -> Reader<D> {
        Reader { version: RwLock::new(Version::default()) }
    }

    /// Looks at the version as of now.
    pub(crate) fn with_version<T>(
        &self,
        store: &Store<D>,
        look: impl FnOnce(&Version<D>) -> T,
    ) -> Result<T> {
        store.check_process()?;
        store.check_frozen()?;
        let version = self.version();
        if version.is_current(store) {
            return Ok(look(&version));
        }
        drop(version);
        let mut version = self.version_mut();
        version.refresh(store, false)?;
        Ok(look(&version))
    }

    /// Looks at the version as of now, also at which segments were sealed since the last batch.
    pub(crate) fn with_walked_version<T>(
        &self,
        store: &Store<D>,
        look: impl FnOnce(&Version<D>) -> T,
    ) -> Result<T> {
        store.check_process()?;
        store.check_frozen()?;
        let mut version = self.version_mut();
        version.refresh(store, true)?;
        Ok(look(&version))
    }

    /// What some keys hold now.
    pub(crate) fn snapshot(&self, store: &Store<D>, keys: &[Key]) -> Result<Snapshot<D::File>> {
        self.with_version(store, |version| Snapshot::of_keys(store, version, keys))
    }

    fn version(&self) -> RwLockReadGuard<'_, Version<D>> {
        self.version.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version, for as long as nobody else looks at it.
    pub(crate) fn version_mut(&self) -> RwLockWriteGuard<'_, Version<D>> {
        self.version.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody has looked at the version, so that it costs memory.
    pub(crate) fn is_built(&self) -> bool {
        self.version().is_built()
    }

    /// Gives back the memory of the version.
    pub(crate) fn forget(&self) {
        self.version_mut().reset();
    }
}
