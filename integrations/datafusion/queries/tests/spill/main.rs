//! Queries that spill through partd, one subject a file. One binary, since each links all of
//! DataFusion.

mod common;
mod lifetime;
mod limits;
mod queries;
