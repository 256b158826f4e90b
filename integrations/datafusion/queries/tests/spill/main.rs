//! SQL under memory limits, with all of DataFusion.

mod common;
mod queries;
