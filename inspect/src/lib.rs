//! Reads a store, at rest or under live writers, through `partd-format` and plain files.
//!
//! Nothing here writes to a store, maps a file, blocks a writer or uses the engine. So its results
//! can be compared with those of the engine. The tool `partd-inspect` is the binary of this crate,
//! enabled by its feature `cli`.
//!
//! No bytes on disk make it panic, loop, or take more memory than a small multiple of what the file
//! system really stores.

#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod ahead;
pub mod control;
pub mod history;
pub mod index;
pub mod key;
pub mod locks;
pub mod names;
pub mod path;
pub mod problem;
pub mod repair;
pub mod rescue;
pub mod select;
pub mod source;
pub mod store;
pub mod text;
pub mod walk;
