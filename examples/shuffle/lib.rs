//! The shuffle example without its command line, so that tests can run it too.

pub mod job;
mod records;
