//! `PartdSpill`, the factory of spill files, and what all of its files share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion_common::Result;
use datafusion_execution::disk_manager::DEFAULT_MAX_TEMP_DIRECTORY_SIZE;
use datafusion_execution::memory_pool::MemoryPool;
use datafusion_execution::{SpillFile, TempFileFactory};
use partd::{
    Batch, Durability, FixedBudget, Key, KeyPart, MemoryBudget, Options, Partd, Scoped, SegmentLog,
};

use crate::budget::ReservationBudget;
use crate::error::of_store;
use crate::file::{File, StoredFile};
use crate::usage::Usage;
use crate::writer::GATHER_BUDGET_BYTES;

/// The writers that may gather short messages at the same time, if no memory pool says how many.
const GATHERING_WRITERS: u64 = 256;

/// Stores the spill files of DataFusion's operators in one partd store.
///
/// It is a [`TempFileFactory`], so one call of the disk manager's builder sends every spill through
/// it. Clones share the store.
///
/// ```
/// use std::sync::Arc;
/// use datafusion_execution::disk_manager::DiskManagerBuilder;
/// use datafusion_execution::memory_pool::FairSpillPool;
/// use datafusion_execution::runtime_env::RuntimeEnvBuilder;
/// use partd_datafusion::PartdSpill;
///
/// # fn main() -> datafusion_common::Result<()> {
/// let spill = PartdSpill::temporary()?;
/// let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spill.clone()));
/// let runtime = RuntimeEnvBuilder::new()
///     .with_memory_pool(Arc::new(FairSpillPool::new(300 << 20)))
///     .with_disk_manager_builder(disk)
///     .build_arc()?; // for `SessionContext::new_with_config_rt`
///
/// // What an operator does:
/// let file = runtime.disk_manager.create_tmp_file("a sort")?;
/// let mut writer = file.open_writer()?;
/// writer.write_all(b"rows")?;
/// writer.finish()?;
/// assert_eq!(spill.stats().used_bytes, 4);
/// drop((writer, file));
/// assert_eq!(spill.stats().files, 0);
/// # Ok(())
/// # }
/// ```
///
/// # What is counted where
///
/// `DiskManager::used_disk_space` and `max_temp_directory_size` cover DataFusion's own files only.
/// This store has its own [quota](PartdSpillBuilder::quota_bytes) and [counts](PartdSpill::stats).
#[derive(Clone, Debug)]
pub struct PartdSpill {
    core: Arc<Core>,
}

/// Counts of the spill files of a [`PartdSpill`] and of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpillStats {
    /// The spill files that exist.
    pub files: usize,
    /// Their bytes, which the quota limits.
    pub used_bytes: u64,
    /// The spill files that were created so far.
    pub created_files: u64,
    /// The bytes that were written to them.
    pub written_bytes: u64,
}

impl PartdSpill {
    /// Creates a temporary store in the directory for temporary files. It is removed with the last
    /// clone and the last spill file.
    ///
    /// # Errors
    ///
    /// `IoError` if the store cannot be created, or `External` with a [`partd::Error`].
    pub fn temporary() -> Result<PartdSpill> {
        PartdSpill::builder().build()
    }

    /// Returns a builder, to choose the directory, the store, the quota or the memory.
    #[must_use]
    pub fn builder() -> PartdSpillBuilder {
        PartdSpillBuilder::default()
    }

    /// Removes the stores that killed processes have left in a directory, and returns their paths.
    /// Stores in use stay. The directory is the one given to
    /// [`directory`](PartdSpillBuilder::directory), or [`std::env::temp_dir`].
    ///
    /// # Errors
    ///
    /// `IoError` if the directory cannot be read, or a store cannot be removed.
    pub fn sweep(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        SegmentLog::sweep(dir).map_err(of_store)
    }

    /// Returns the counts of spill files and of their bytes.
    #[must_use]
    pub fn stats(&self) -> SpillStats {
        let usage = &self.core.usage;
        SpillStats {
            files: usage.files.load(Relaxed),
            used_bytes: usage.used_bytes.load(Relaxed),
            created_files: usage.created.load(Relaxed),
            written_bytes: usage.written_bytes.load(Relaxed),
        }
    }

    /// Changes the quota, for writes from now on.
    pub fn set_quota_bytes(&self, bytes: u64) {
        self.core.usage.quota_bytes.store(bytes, Relaxed);
    }

    /// Returns the store, to look at its [`stats`](SegmentLog::stats).
    #[must_use]
    pub fn store(&self) -> &Arc<SegmentLog> {
        self.core.store.store()
    }
}

impl TempFileFactory for PartdSpill {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        let usage = &self.core.usage;
        let number = usage.created.fetch_add(1, Relaxed);
        usage.files.fetch_add(1, Relaxed);
        Ok(Arc::new(StoredFile(Arc::new(File::new(&self.core, number, description)))))
    }
}

/// Builds a [`PartdSpill`].
pub struct PartdSpillBuilder {
    directory: Option<PathBuf>,
    options: Options,
    store: Option<Scoped<Arc<SegmentLog>>>,
    quota_bytes: u64,
    budget: Option<Box<dyn MemoryBudget>>,
}

impl Default for PartdSpillBuilder {
    fn default() -> PartdSpillBuilder {
        // Long segments are few files; their space is taken as they fill. A segment that holds live
        // bytes of a long query beside many dead ones is rewritten once three quarters are dead;
        // most segments die whole, since files that are written together are read together.
        let options = SegmentLog::options()
            .segment_len_bytes(256 << 20)
            .recycled_segments(2)
            .compaction_dead_share(0.75);
        PartdSpillBuilder {
            directory: None,
            options,
            store: None,
            quota_bytes: DEFAULT_MAX_TEMP_DIRECTORY_SIZE,
            budget: None,
        }
    }
}

impl PartdSpillBuilder {
    /// Creates the temporary store inside `dir`. The default is [`std::env::temp_dir`].
    #[must_use]
    pub fn directory(mut self, dir: impl Into<PathBuf>) -> PartdSpillBuilder {
        self.directory = Some(dir.into());
        self
    }

    /// Sets the options of the temporary store. The default has segments of 256 MiB.
    #[must_use]
    pub fn options(mut self, options: Options) -> PartdSpillBuilder {
        self.options = options;
        self
    }

    /// Stores the spill files in a given store, under the keys that begin with `scope`, instead of
    /// in a temporary store.
    ///
    /// The scope belongs to one `PartdSpill` at a time, whatever the process: [`build`] removes what
    /// a killed process has left under it, and the last clone removes the scope. Nothing else in
    /// the store is touched.
    ///
    /// [`build`]: PartdSpillBuilder::build
    #[must_use]
    pub fn store(mut self, store: Arc<SegmentLog>, scope: impl KeyPart) -> PartdSpillBuilder {
        self.store = Some(Scoped::new(store, scope));
        self
    }

    /// Limits the bytes of all spill files that exist at the same time. The default is DataFusion's
    /// limit of its own, 100 GiB.
    ///
    /// A write beyond it fails with `ResourcesExhausted`. The store may take more disk space, since
    /// the bytes of removed files lie among those of others until a segment of them is dead or a
    /// compaction pays; [`Options::max_store_bytes`] limits that space, with the same error.
    #[must_use]
    pub fn quota_bytes(mut self, bytes: u64) -> PartdSpillBuilder {
        self.quota_bytes = bytes;
        self
    }

    /// Counts the memory of the writers in a memory pool: up to 32 KiB for each one that gathers
    /// short batches. Without a pool, 8 MiB are for all writers together. A writer without memory
    /// appends each batch by itself.
    ///
    /// A batch that is being encoded is not counted; nor does DataFusion count that.
    #[must_use]
    pub fn memory_pool(mut self, pool: &Arc<dyn MemoryPool>) -> PartdSpillBuilder {
        self.budget = Some(Box::new(ReservationBudget::register(pool, "PartdSpill")));
        self
    }

    /// Creates the store, or clears the scope of the given one.
    ///
    /// # Errors
    ///
    /// `IoError` if a system call fails, or `External` with a [`partd::Error`].
    pub fn build(self) -> Result<PartdSpill> {
        let store = match self.store {
            Some(store) => {
                store.clear().map_err(of_store)?;
                store
            }
            None => {
                let dir = self.directory.unwrap_or_else(std::env::temp_dir);
                let log = self.options.temporary_in(dir).map_err(of_store)?;
                Scoped::new(Arc::new(log), "spill")
            }
        };
        let fixed = || -> Box<dyn MemoryBudget> {
            Box::new(FixedBudget::new(GATHERING_WRITERS * GATHER_BUDGET_BYTES))
        };
        let core = Core {
            store,
            usage: Usage::new(self.quota_bytes),
            budget: self.budget.unwrap_or_else(fixed),
            doomed: Mutex::default(),
            failed_removals: AtomicU64::new(0),
        };
        Ok(PartdSpill { core: Arc::new(core) })
    }
}

impl fmt::Debug for PartdSpillBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartdSpillBuilder")
            .field("directory", &self.directory)
            .field("options", &self.options)
            .field("store", &self.store)
            .field("quota_bytes", &self.quota_bytes)
            .finish_non_exhaustive()
    }
}

/// State shared by the spill files of one [`PartdSpill`].
pub(crate) struct Core {
    pub(crate) store: Scoped<Arc<SegmentLog>>,
    pub(crate) usage: Usage,
    pub(crate) budget: Box<dyn MemoryBudget>,
    /// The keys of files that are gone but could not be removed, on a full disk for instance.
    doomed: Mutex<Vec<Key>>,
    failed_removals: AtomicU64,
}

impl Core {
    /// Returns the key of a file in the scope, and in the whole store.
    pub(crate) fn key_of(&self, number: u64) -> (Key, Key) {
        let name = Key::from(number);
        let key = [self.store.prefix().as_bytes(), name.as_bytes()].concat();
        (name, Key::from(&key[..]))
    }

    /// Counts a file as gone, and removes its key if it has one.
    pub(crate) fn remove_file(&self, len_bytes: u64, name: Option<Key>) {
        self.usage.remove_file(len_bytes);
        if let Some(name) = name {
            self.remove_keys(Some(name));
        }
    }

    /// Removes a key, and those whose removal has failed before.
    fn remove_keys(&self, name: Option<Key>) {
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        doomed.extend(name);
        match self.store.delete(doomed.iter()) {
            Ok(()) => doomed.clear(),
            Err(error) => {
                // The next removal tries again; nobody reads the bytes meanwhile.
                if self.failed_removals.fetch_add(1, Relaxed) == 0 {
                    log::warn!("cannot remove a spill file: {error}");
                }
            }
        }
    }

    /// Appends to files. Without space for it, frees that of removed files, which may not be free
    /// yet, and tries again.
    pub(crate) fn write(&self, batch: &Batch<'_>) -> partd::Result<()> {
        let written = self.store.write(batch, Durability::Plain);
        let Err(error) = written else { return Ok(()) };
        let usage = &self.usage;
        let has_removed = usage.written_bytes.load(Relaxed) > usage.used_bytes.load(Relaxed);
        if !error.is_out_of_space() || !has_removed {
            return Err(error);
        }
        self.remove_keys(None);
        match self.store.store().compact() {
            Ok(_) => self.store.write(batch, Durability::Plain),
            Err(_) => Err(error),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Of a temporary store, this removes nothing that its own end would not.
        if let Err(error) = self.store.clear() {
            log::warn!("cannot remove the spill files of {:?}: {error}", self.store.prefix());
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("store", &self.store)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}
