//! The open stores of this process: one per directory, identified by device and inode.
//!
//! Opening a store takes as long as a hundred appends, and Python code unpickles a `File` for every
//! task. So a store stays open for a short time after its last user has released it. Each open
//! store holds a descriptor of its directory, so that no other directory can get the same inode
//! number.
//!
//! A forked child shares none of this: it notices the different process id and starts with no
//! stores.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use partd::{Options, SegmentLog};
use pyo3::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error;

/// How long a store stays open without a user.
const IDLE: Duration = Duration::from_secs(2);
/// How often to check for idle stores.
const IDLE_POLL: Duration = Duration::from_millis(250);
/// How many times to try to open a store whose directory is replaced in the meantime.
const OPEN_TRIES: u32 = 8;

/// An open store.
pub(crate) struct Store {
    pub(crate) log: SegmentLog,
    path: PathBuf,
    id: DirId,
    /// Keeps the inode in use, so that no later directory can have the same `id`.
    dir: OwnedFd,
    pid: u32,
    released_ms: AtomicU64,
}

/// The identity of a directory, independent of its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct DirId {
    device: u64,
    inode: u64,
}

impl DirId {
    fn of(stat: &Stat) -> DirId {
        DirId { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Why a store cannot be used.
pub(crate) enum Fail {
    /// The directory does not exist.
    Gone(PathBuf),
    /// The directory cannot be accessed.
    Io(PathBuf, io::Error),
    /// An error of the engine.
    Engine(Box<partd::Error>),
    /// A Python exception.
    Python(PyErr),
}

impl From<partd::Error> for Fail {
    fn from(error: partd::Error) -> Fail {
        Fail::Engine(Box::new(error))
    }
}

impl From<PyErr> for Fail {
    fn from(error: PyErr) -> Fail {
        Fail::Python(error)
    }
}

impl From<Fail> for PyErr {
    fn from(fail: Fail) -> PyErr {
        match fail {
            Fail::Gone(path) => error::missing(&path),
            Fail::Io(path, source) => {
                error::os_error(&source, format!("cannot access the store: {source}"), &path)
            }
            Fail::Engine(error) => error::to_python(&error),
            Fail::Python(error) => error,
        }
    }
}

impl Store {
    /// Returns whether this process opened the store and `path` still leads to its directory.
    pub(crate) fn is_current(&self, path: &Path) -> Result<bool, Fail> {
        Ok(self.pid == process::id() && self.id == identity(path)?)
    }

    /// Returns whether the directory has a file of this name.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.dir, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }
}

fn identity(path: &Path) -> Result<DirId, Fail> {
    match rustix::fs::stat(path) {
        Ok(stat) => Ok(DirId::of(&stat)),
        Err(Errno::NOENT) => Err(Fail::Gone(path.to_owned())),
        Err(errno) => Err(Fail::Io(path.to_owned(), errno.into())),
    }
}

/// The stores of one process.
struct Stores {
    pid: u32,
    slots: Mutex<HashMap<DirId, Arc<Slot>>>,
    is_reaping: Mutex<bool>,
    began: Instant,
}

/// The store of one directory, if it is open. The lock is held while the store is being opened.
#[derive(Default)]
struct Slot(Mutex<Option<Arc<Store>>>);

static STORES: AtomicPtr<Stores> = AtomicPtr::new(std::ptr::null_mut());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the stores of this process. The stores of a parent process stay untouched and are never
/// freed.
fn stores() -> &'static Stores {
    let pid = process::id();
    loop {
        let current = STORES.load(Ordering::Acquire);
        // SAFETY: a pointer that is not null comes from `Box::leak` below and is never freed.
        if let Some(stores) = unsafe { current.as_ref() }.filter(|stores| stores.pid == pid) {
            return stores;
        }
        let new = Box::leak(Box::new(Stores {
            pid,
            slots: Mutex::default(),
            is_reaping: Mutex::default(),
            began: Instant::now(),
        }));
        let swapped = STORES.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_ok() {
            return new;
        }
    }
}

/// Returns the store at a path. Opens it unless this process has it open.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Arc<Store>, Fail> {
    let stores = stores();
    for _ in 0..OPEN_TRIES {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Err(Fail::Gone(path.to_owned())),
            Err(errno) => return Err(Fail::Io(path.to_owned(), errno.into())),
        };
        let stat = rustix::fs::fstat(&dir).map_err(|e| Fail::Io(path.to_owned(), e.into()))?;
        let id = DirId::of(&stat);
        let slot = Arc::clone(lock(&stores.slots).entry(id).or_default());
        let mut place = lock(&slot.0);
        // If the directory of the open store was moved, only its current users keep that store.
        if let Some(store) = &*place
            && store.is_current(&store.path).unwrap_or(false)
        {
            return Ok(Arc::clone(store));
        }
        let opened = options.open(path);
        let is_same = identity(path).is_ok_and(|now| now == id);
        match opened {
            Ok(log) if is_same => {
                let path = path.to_owned();
                let released_ms = AtomicU64::new(0);
                let store = Arc::new(Store { log, path, id, dir, pid: stores.pid, released_ms });
                *place = Some(Arc::clone(&store));
                return Ok(store);
            }
            result => {
                drop(place);
                stores.forget_empty(id);
                // If the path leads to another directory by now, either may have been opened: try
                // again.
                if is_same {
                    result?;
                }
            }
        }
    }
    Err(Fail::Gone(path.to_owned()))
}

/// Releases a store, which stays open for [`IDLE`].
pub(crate) fn release(store: Arc<Store>) {
    let stores = stores();
    if store.pid != stores.pid {
        return;
    }
    store.released_ms.store(stores.now_ms(), Ordering::Relaxed);
    drop(store);
    stores.reap_later();
}

/// Releases a store, and closes it unless this process still uses it elsewhere.
pub(crate) fn close(store: Arc<Store>) {
    let stores = stores();
    if store.pid != stores.pid {
        return;
    }
    let id = store.id;
    drop(store);
    stores.close_unused(|store| store.id == id);
}

impl Stores {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Removes the slot of a store that could not be opened.
    fn forget_empty(&self, id: DirId) {
        let mut slots = lock(&self.slots);
        let is_empty = |slot: &Arc<Slot>| Arc::strong_count(slot) <= 2 && lock(&slot.0).is_none();
        if slots.get(&id).is_some_and(is_empty) {
            slots.remove(&id);
        }
    }

    /// Closes the unused stores for which `fits` holds; returns how many unused stores are left.
    fn close_unused(&self, fits: impl Fn(&Store) -> bool) -> usize {
        let mut closing = Vec::new();
        let mut left = 0;
        lock(&self.slots).retain(|_, slot| {
            // The store of a locked slot is being opened.
            let Ok(mut place) = slot.0.try_lock() else { return true };
            // New references come only from the slot, which is locked. So with a count of one the
            // store is unused and stays so.
            let unused = place.as_ref().filter(|store| Arc::strong_count(store) == 1);
            let Some(store) = unused else { return true };
            if fits(store) {
                closing.extend(place.take());
                return false;
            }
            left += 1;
            true
        });
        // Closing a store may compact it, which takes time, so do it without the lock.
        drop(closing);
        left
    }

    /// Starts a thread that closes idle stores, if none runs. The thread ends when no unused store
    /// is left.
    fn reap_later(&'static self) {
        let mut is_reaping = lock(&self.is_reaping);
        if *is_reaping {
            return;
        }
        let reap = move || {
            loop {
                thread::sleep(IDLE_POLL);
                let now_ms = self.now_ms();
                let idle_ms = IDLE.as_millis() as u64;
                let is_due = |store: &Store| {
                    let age_ms = now_ms.saturating_sub(store.released_ms.load(Ordering::Relaxed));
                    age_ms >= idle_ms || !store.is_current(&store.path).unwrap_or(false)
                };
                if self.close_unused(is_due) == 0 {
                    let mut is_reaping = lock(&self.is_reaping);
                    if self.close_unused(|_| false) == 0 {
                        *is_reaping = false;
                        return;
                    }
                }
            }
        };
        *is_reaping = thread::Builder::new().name("partd-idle".to_owned()).spawn(reap).is_ok();
        if !*is_reaping {
            drop(is_reaping);
            self.close_unused(|_| true);
        }
    }
}

/// Closes the unused stores of this process immediately.
#[pyfunction]
pub(crate) fn close_idle(py: Python<'_>) {
    py.detach(|| stores().close_unused(|_| true));
}

/// Returns the number of stores that this process has open, used or not.
#[pyfunction]
pub(crate) fn open_stores(py: Python<'_>) -> usize {
    py.detach(|| {
        let slots: Vec<Arc<Slot>> = lock(&stores().slots).values().cloned().collect();
        slots.iter().filter(|slot| lock(&slot.0).is_some()).count()
    })
}
