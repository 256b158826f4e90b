//! A spill store for DataFusion: every spilling operator writes to one partd store instead of to a
//! file each.
//!
//! [`PartdSpill`] is a factory of spill files for the disk manager of DataFusion. A spill file is a
//! key of a store, so thousands of files take a few segments on disk and a dozen descriptors; a file
//! that is dropped is one small entry in the log; and what a killed process leaves is one directory,
//! which [`PartdSpill::sweep`] removes. A file can be read while it is written, as DataFusion's
//! repartitioning does: the stream of a reader waits for its writer. Record batches are lent by the
//! store's mapping, checked and without a copy.
//!
//! [`ReservationBudget`] counts the memory of a [`partd::Buffer`] in a memory pool of DataFusion.
//!
//! The crate works with one major version of DataFusion, 55.

mod budget;
mod error;
mod file;
mod framing;
mod spill;
mod stream;
mod usage;
mod writer;

pub use crate::budget::ReservationBudget;
pub use crate::spill::{PartdSpill, PartdSpillBuilder, SpillStats};
/// The crate of the store.
pub use partd;
