//! SQL under memory limits, with all of DataFusion.

mod common;
mod same_rows;
