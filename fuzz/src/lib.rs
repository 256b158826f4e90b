//! What the fuzz targets share. The targets themselves are in `fuzz_targets`, one file each.
//!
//! | module | what it owns |
//! |---|---|
//! | `limit` | the limit on what a target may allocate |
//! | `scan` | everything that `partd-format` reads, and what must hold of it |
//! | `mend` | segments whose checks are made to hold after a mutation |
//! | `hostile` | a whole store out of an input |
//! | `disk` | a disk in memory, whose processes die and whose power fails |
//! | `ops` | operations on a store, with the model that they are held against |
#![feature(alloc_error_hook)]

pub mod disk;
pub mod hostile;
pub mod limit;
pub mod mend;
pub mod ops;
pub mod scan;
