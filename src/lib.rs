//! partd: an appendable key-value byte store on a memory-mapped segment log.

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "partd runs on 64-bit little-endian Linux: its mappings, locks and syncs are Linux's"
);

mod buffer;
mod dict;
mod error;
mod key;
#[doc(hidden)]
pub mod log;
mod partd;

pub use crate::buffer::{Buffer, BufferStats};
pub use crate::dict::Dict;
pub use crate::error::{Error, Result};
pub use crate::key::{Key, KeyPart};
pub use crate::log::{Compaction, Options, SegmentLog, Stats, Verified, View};
pub use crate::partd::{Batch, Chunks, Durability, Op, Partd};
