//! The simulated disk: files in anonymous memory, names, locks, and a log of everything that was
//! stored, synced, created, renamed and removed, in one order.
//!
//! A [`SimDisk`] is one process's view of the disk. A process can be stopped after any of its
//! operations, and then resume or die there; a dead process does nothing more, and its locks are
//! released. The disk itself loses nothing; `timeline` computes from the log what a power cut
//! leaves behind.
//!
//! From the lowest file up:
//!
//! | file | contents |
//! |---|---|
//! | `record` | the log's events |
//! | `defect`, `counts` | deliberate defects; counts of calls |
//! | `inode`, `process` | the state of a file and of a process |
//! | `machine` | the state of the disk, and the view that a process has of it |
//! | `control` | stops, deaths and injected faults |
//! | `file`, `names`, `dir` | the engine's file-system abstraction |

mod control;
mod counts;
mod defect;
mod dir;
mod file;
mod inode;
mod machine;
mod names;
mod process;
mod record;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::counts::Counts;
pub use self::defect::Defect;
pub use self::dir::{SimDir, SimLock};
pub use self::file::SimFile;
pub use self::inode::poke;
pub use self::machine::SimDisk;
pub use self::process::{Fate, Killed};
pub use self::record::{Event, Record};

/// Locks a mutex, poisoned or not: a process may die while it holds one.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
