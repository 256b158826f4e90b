//! Compaction: live entries of sealed segments move into one new segment, and the old segments are
//! removed.
//!
//! One run writes one output: each key's values side by side, with their sequence numbers. Safety
//! rests on the order of the steps:
//!
//! - The history up to `max_seq` is synced, except for the inputs.
//! - The output is written, synced and renamed, and the directory is synced.
//! - Now everything up to `max_seq` is on stable storage, so the durable sequence number rises and
//!   the inputs are unlinked. Data that was deleted before anyone asked for a sync may never have
//!   to be written to disk.
//! - Only after the unlinks are durable may a later run drop a delete.
//!
//! A reader that finds both an output and one of its inputs ignores the input. A compaction runs
//! beside appends, gets, deletes and pops of every process, but only one runs at a time. Its memory
//! grows with the number of keys and extents, not with their bytes.

mod base;
mod output;
mod plan;
mod run;
mod stop;

pub(crate) use self::base::Aim;
pub(crate) use self::run::compact;
pub use self::run::{Compaction, Skipped};
pub(crate) use self::stop::Stop;
