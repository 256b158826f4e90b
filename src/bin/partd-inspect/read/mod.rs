//! Reading a store at rest or under live writers, through `partd-format` and plain files alone.
//!
//! Nothing here writes, maps, blocks a writer or knows the engine, so that what it says can be held
//! against what the engine says. Every file of this module names only its siblings, `partd-format`
//! and crates that the fuzz targets name too: they and the tests include it as it stands, by path.
//!
//! The invariant: no bytes on disk make it panic, loop, or take more memory than a small multiple
//! of what is really stored there.

pub(crate) mod control;
pub(crate) mod history;
pub(crate) mod index;
pub(crate) mod key;
pub(crate) mod path;
pub(crate) mod problem;
pub(crate) mod repair;
pub(crate) mod rescue;
pub(crate) mod select;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod walk;
