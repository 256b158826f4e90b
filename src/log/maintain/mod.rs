//! Maintenance of a store: syncs, compaction, and the thread that compacts automatically.

pub(crate) mod background;
pub(crate) mod compaction;
pub(crate) mod engine;
pub(crate) mod sync;
mod wakeup;

/// Blocking primitives of the background thread; the loom model of [`wakeup`] substitutes loom's.
mod blocking {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}
