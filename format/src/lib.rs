#![doc = include_str!("../SPEC.md")]
//!
//! # This crate
//!
//! `partd-format` decodes these bytes into types and encodes them. It does no I/O, needs neither
//! `std` nor an allocator, and has no `unsafe`; the caller supplies the bytes. No input makes it
//! panic, and it checks every number that it reads against the length of the input before use.
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
pub use crate::scan::{Ending, ScannedBatch, Scanner};
pub use crate::segment::SegmentHeader;
pub use crate::word::{Link, State};

/// The version of the format that this crate writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The largest sequence number: enough for five months at ten million batches a second.
pub const SEQUENCE_MAX: u64 = (1 << 47) - 2;

/// Rounds `bytes` up to a multiple of 8, the alignment within a segment; `None` on overflow.
#[must_use]
pub const fn align(bytes: u64) -> Option<u64> {
    match bytes.checked_add(7) {
        Some(sum) => Some(sum & !7),
        None => None,
    }
}
