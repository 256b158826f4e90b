//! The tests of the spill store, one subject a file. One binary, since each links all of DataFusion.

mod common;
mod following;
mod lifetime;
mod limits;
mod queries;
