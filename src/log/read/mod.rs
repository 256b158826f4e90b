//! The read path of a handle: its version of the store, how a refresh brings it up to date, and
//! reads of values.

pub(crate) mod at_rest;
mod compacted;
pub(crate) mod cursor;
pub(crate) mod discovery;
mod gather;
pub(crate) mod index;
mod order;
mod pins;
pub(crate) mod reader;
mod replay;
pub(crate) mod snapshot;
mod take_in;
pub(crate) mod version;
pub(crate) mod view;
