#![doc = include_str!("../SPEC.md")]
//!
//! # This crate
//!
//! `partd-format` turns those bytes into types and back. It does no I/O, needs neither `std` nor an
//! allocator, and has no `unsafe`: the caller brings the bytes. No input panics, and no number read
//! from the bytes is used before it is checked against the length of what was given.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod batch;
pub mod control;
mod error;
mod layout;
mod salt;
pub mod scan;
pub mod segment;
pub mod tuple;
pub mod word;

pub use crate::batch::{Batch, Entry, Kind};
pub use crate::error::{Error, Evidence};
pub use crate::salt::Salt;
pub use crate::scan::{Ending, Found, Scanner};
pub use crate::segment::SegmentHeader;
pub use crate::word::{Link, State};

/// The version of the format that this crate writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The largest sequence number. At ten million batches a second it lasts for five months.
pub const SEQUENCE_MAX: u64 = (1 << 47) - 2;

/// Rounds up to the alignment of everything in a segment: 8 bytes. `None` where that overflows.
#[must_use]
pub const fn align(bytes: u64) -> Option<u64> {
    match bytes.checked_add(7) {
        Some(sum) => Some(sum & !7),
        None => None,
    }
}
