//! partd: an appendable key-value byte store on a memory-mapped segment log.
//!
//! Append bytes to keys, get them back whole. [`SegmentLog`] is the store on disk, [`Dict`] the one
//! in memory; [`Buffer`] puts one in front of the other; [`Encode`] and the typed layers sit on top.
//! All of them are [`Partd`], so they nest.
//!
//! ```
//! use partd::{Buffer, Dict, Partd, SegmentLog};
//! let p = Buffer::new(Dict::new(), SegmentLog::temporary()?, 64 << 20);
//! p.append([("x", "Hello "), ("y", "123")])?;
//! p.append([("x", "world!")])?;
//! assert_eq!(p.get("x")?, b"Hello world!");
//! # Ok::<(), partd::Error>(())
//! ```
//!
//! The README has the promises that hold in a crash; `partd_format` has the bytes on disk.

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "partd runs on 64-bit little-endian Linux: its mappings, locks and syncs are Linux's"
);

mod buffer;
mod dict;
pub mod encode;
mod error;
mod key;
#[doc(hidden)]
pub mod log;
mod partd;
mod threads;

pub use crate::buffer::{Buffer, BufferStats};
pub use crate::dict::Dict;
#[cfg(feature = "arrow")]
pub use crate::encode::Arrow;
#[cfg(feature = "blosc")]
pub use crate::encode::Blosc;
#[cfg(feature = "bz2")]
pub use crate::encode::Bz2;
#[cfg(feature = "lz4")]
pub use crate::encode::Lz4;
#[cfg(feature = "msgpack")]
pub use crate::encode::Msgpack;
#[cfg(feature = "numpy")]
pub use crate::encode::Numpy;
#[cfg(feature = "pickle")]
pub use crate::encode::Pickle;
#[cfg(feature = "snappy")]
pub use crate::encode::Snappy;
#[cfg(feature = "zlib")]
pub use crate::encode::Zlib;
#[cfg(feature = "zstd")]
pub use crate::encode::Zstd;
pub use crate::encode::{Codec, CodecError, Encode, Typed, compression};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::key::{Key, KeyPart, TupleInteger, TuplePart};
pub use crate::log::{Compaction, Options, SegmentLog, Skipped, Stats, Verified, View};
pub use crate::partd::{Batch, Chunks, Durability, MemoryStore, Op, Partd};

/// The examples of the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
