//! The shuffle of the example, apart from its command line, so that tests run it too.

pub mod job;
mod records;
