//! Reading a store at rest or under live writers, through `partd-format` and plain files alone.
//!
//! Nothing here writes, maps, blocks a writer or knows the engine, so that what it says can be held
//! against what the engine says. The tool `partd-inspect` is the binary of
//! this crate, behind its feature `cli`.
//!
//! The invariant: no bytes on disk make it panic, loop, or take more memory than a small multiple
//! of what is really stored there.

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
pub mod walk;
