//! The read path of a handle: its version of the store, how a refresh brings it up to date, and
//! reads of values.

mod apply;
pub(crate) mod at_rest;
mod compacted;
mod copy;
pub(crate) mod cursor;
pub(crate) mod discovery;
pub(crate) mod entries;
pub(crate) mod file_extents;
pub(crate) mod follow;
mod gather;
pub(crate) mod index;
mod order;
#[cfg(feature = "bytes")]
mod owned_chunks;
mod pieces;
mod pins;
pub(crate) mod reader;
mod replay;
mod sequential;
pub(crate) mod snapshot;
mod take_in;
pub(crate) mod unverified;
pub(crate) mod value_reader;
pub(crate) mod version;
pub(crate) mod view;
pub(crate) mod view_reader;
