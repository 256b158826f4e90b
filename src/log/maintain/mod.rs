//! What keeps a store in shape: stable storage, compaction, and the thread that compacts by itself.

pub(crate) mod background;
pub(crate) mod compaction;
pub(crate) mod engine;
pub(crate) mod sync;
mod wakeup;

/// What the background thread blocks on; the model of [`wakeup`] has loom's.
mod blocking {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}
