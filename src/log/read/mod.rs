//! The read path of one handle: what it knows of the store, how it keeps up, and values out of extents.

pub(crate) mod at_rest;
mod compacted;
pub(crate) mod cursor;
pub(crate) mod discovery;
mod gather;
pub(crate) mod index;
mod pins;
pub(crate) mod reader;
mod replay;
pub(crate) mod snapshot;
mod take_in;
pub(crate) mod version;
pub(crate) mod view;
