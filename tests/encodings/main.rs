//! The encoding layers beside what Python writes and reads, their limits, and values of their own.
//!
//! One test binary, since each links the same libraries anew; a file for each behaviour.

#[macro_use]
#[path = "../values/mod.rs"]
mod values;

mod arrow_joins;
mod arrow_sizes;
#[path = "../counted/mod.rs"]
mod counted;
mod golden;
mod limits;
mod mutations;
mod nesting;
mod python_interop;
mod typed;
