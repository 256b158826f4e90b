//! Shared code of the fuzz targets. The targets themselves are in `fuzz_targets`, one file each.
//!
//! | module | contents |
//! |---|---|
//! | `limit` | the limit on a target's allocations |
//! | `scan` | every read through `partd-format`, and its invariants |
//! | `mend` | segments whose checks are corrected after a mutation |
//! | `hostile` | a whole store built from an input |
//! | `disk` | a disk in memory with processes that die and power that fails |
//! | `ops` | operations on a store, from arbitrary bytes |
//! | `model` | runs operations, and compares every answer with a model |
#![feature(alloc_error_hook)]

pub mod disk;
pub mod hostile;
pub mod limit;
pub mod mend;
pub mod model;
pub mod ops;
pub mod scan;
