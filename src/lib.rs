//! An appendable key-value byte store: append bytes to keys, read each key back as one value.
//!
//! partd is made for shuffles. Many threads and processes append small pieces to many keys at once;
//! later, each key is read back whole. The store is a directory of memory-mapped log segments, so
//! an append is one copy into a mapped file, and processes share a store without a server.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("store");
//! use partd::{Partd, SegmentLog};
//!
//! let p = SegmentLog::open(&path)?; // creates the store if there is none
//! p.append([("x", "Hello "), ("y", "123")])?; // one atomic batch
//! p.append([("x", "world!")])?;
//! assert_eq!(p.get("x")?, b"Hello world!");
//! assert_eq!(p.get("missing")?, b"");
//! assert_eq!(p.pop(["y"])?, [b"123"]); // reads and deletes in one step
//! assert!(!p.contains("y")?);
//! # Ok::<(), partd::Error>(())
//! ```
//!
//! # Stores and layers
//!
//! All methods above except `open` belong to the trait [`Partd`], which every store and every layer
//! of bytes implements:
//!
//! | type | what it is |
//! |---|---|
//! | [`SegmentLog`] | the store on disk, shared by threads and processes |
//! | [`Dict`] | a store in memory |
//! | [`Buffer`] | holds appends in memory up to a limit, then moves them to a slower store |
//! | [`Scoped`] | the keys of a store that begin with one prefix, as a store of their own |
//! | [`Encode`] | passes values through a [`Codec`], such as the compressions of [`encode`] |
//! | [`Typed`] | holds values other than bytes, such as lists or Arrow record batches |
//! | `Numpy` | holds one-dimensional arrays of numbers |
//!
//! Layers wrap a store and nest. This one compresses, keeps up to 64 MiB of compressed bytes in
//! memory, and stores the rest in a temporary directory:
//!
//! ```
//! # #[cfg(feature = "lz4")] {
//! use partd::{Buffer, Dict, Lz4, Partd, SegmentLog};
//!
//! let p = Lz4::new(Buffer::new(Dict::new(), SegmentLog::temporary()?, 64 << 20));
//! p.append([("x", "Hello "), ("x", "world!")])?;
//! assert_eq!(p.get("x")?, b"Hello world!");
//! # }
//! # Ok::<(), partd::Error>(())
//! ```
//!
//! # Keys
//!
//! A [`Key`] is a byte string, made from a string, a byte string, an integer or a tuple of those.
//! Keys of tuples sort as the tuples do. Methods take owned keys and references alike:
//!
//! ```
//! use partd::{Dict, Partd};
//!
//! let p = Dict::new();
//! p.append([(("flights", 2024), "a"), (("flights", 2025), "b")])?;
//! let keys = p.keys()?;
//! assert_eq!(p.get_many(&keys)?, [b"a", b"b"]);
//!
//! let names = vec![String::from("x"), String::from("y")];
//! assert_eq!(p.get_many(&names)?, [b"", b""]);
//! # Ok::<(), partd::Error>(())
//! ```
//!
//! # Durability
//!
//! A batch is atomic: every thread and process sees all of it or none of it, even after a crash.
//! Once a call returns, its effect survives `kill -9` of any process. A power cut leaves the store
//! as it was at one moment, no earlier than the last [`append_durable`](Partd::append_durable) or
//! [`sync`](Partd::sync) that returned. `Dict` lives and dies with its process, and `Buffer` keeps
//! these promises for what it has flushed.
//!
//! # Asynchronous programs
//!
//! Every call is synchronous. Most take microseconds. A call that may read the disk can block its
//! thread, because the segments are mapped and a page fault cannot be awaited. With the feature
//! `tokio`, `AsyncValueReader` and `ValueStream` read a value, and `FollowStream` follows one, on
//! the threads that tokio keeps for blocking work. The page `docs/from-tokio.md` of the repository
//! says which calls an executor may make itself.
//!
//! # Errors
//!
//! [`Error::kind`] returns an [`ErrorKind`] to match on. The `Display` text is a sentence for a
//! person: it names the file or key, what was expected, and what to do. No input makes a method
//! panic.
//!
//! # Cargo features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `zlib` | yes | `Zlib`, by flate2 |
//! | `snappy` | yes | `Snappy`, by snap |
//! | `lz4` | yes | `Lz4`, by `lz4_flex` |
//! | `bz2` | | `Bz2`, by bzip2 |
//! | `blosc` | | `Blosc`, by the C library c-blosc; needs a C compiler |
//! | `zstd` | | `Zstd`, by the C library zstd; needs a C compiler |
//! | `pickle` | | `Pickle`, lists as Python pickles |
//! | `msgpack` | | `Msgpack`, lists as MessagePack arrays |
//! | `numpy` | | `Numpy`, one-dimensional `ndarray` arrays |
//! | `arrow` | | `Arrow`, Arrow record batches |
//! | `bytes` | | `View::owned_chunks`, lent chunks as `bytes::Bytes` |
//! | `tracing` | | spans and events of the engine for the crate `tracing` |
//! | `tokio` | | `AsyncValueReader`, `ValueStream` and `FollowStream`, for asynchronous programs |
//! | `full` | | all of the above |
//!
//! Without any feature, the stores, `Buffer`, `Encode` and `Typed` remain.
//!
//! # Platform
//!
//! partd runs on 64-bit little-endian Linux. The crate `partd-format` describes and parses the
//! bytes on disk, and the tool `partd-inspect` shows, checks and salvages a store.

#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc, clippy::must_use_candidate)]

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!(
    "partd runs on 64-bit little-endian Linux: its mappings, locks and syncs are Linux's"
);

#[cfg(feature = "tokio")]
mod aio;
mod batch;
mod batch_builder;
mod buffer;
mod dict;
pub mod encode;
mod error;
mod key;
mod lend;
#[doc(hidden)]
pub mod log;
mod partd;
mod scoped;
mod threads;

#[cfg(feature = "tokio")]
pub use crate::aio::{AsyncUpdate, AsyncValueReader, FollowStream, ValueStream};
pub use crate::batch::{Batch, Op};
pub use crate::batch_builder::BatchBuilder;
pub use crate::buffer::{Buffer, BufferStats, FixedBudget, MemoryBudget};
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
pub use crate::lend::Lend;
#[cfg(feature = "bytes")]
pub use crate::lend::{LentChunks, OwnedChunks};
pub use crate::log::{
    BackgroundError, Backup, Compaction, Counters, FileExtent, FileExtents, Options, SegmentLog,
    Seq, Skipped, Stats, Unverified, Verified, View, ViewReader,
};
pub use crate::log::{Entries, Follower, Position, Update, ValueReader};
pub use crate::partd::{Chunks, Durability, MemoryStore, Partd};
pub use crate::scoped::Scoped;
#[doc(hidden)]
pub use crate::threads::LentPool;
/// The crate `partd-format`: the bytes on disk, which [`Error::Damage`] describes.
pub use partd_format as format;

/// The crates of Arrow whose types `Arrow` takes and returns, in the version that it uses.
///
/// ```
/// use std::sync::Arc;
/// use partd::arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// use partd::{Arrow, Dict};
/// let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
/// let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
/// let p = Arrow::new(Dict::new());
/// p.append([("x", rows)])?;
/// assert_eq!(p.get("x")?.num_rows(), 2);
/// # Ok::<(), partd::Error>(())
/// ```
#[cfg(feature = "arrow")]
pub mod arrow {
    pub use arrow_array as array;
    pub use arrow_schema as schema;
}

/// Compiles and runs the examples of the page about asynchronous programs.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../docs/from-tokio.md")]
struct FromTokio;

/// Compiles and runs the examples in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles and runs the examples in `docs/keys.md`.
#[cfg(doctest)]
#[doc = include_str!("../docs/keys.md")]
struct KeysPage;

/// Compiles and runs the examples in `docs/memory.md`.
#[cfg(doctest)]
#[doc = include_str!("../docs/memory.md")]
struct MemoryPage;

#[cfg(test)]
mod tests {
    #[test]
    fn the_front_page_documents_every_cargo_feature() {
        let manifest = include_str!("../Cargo.toml");
        let features =
            manifest.split("\n[features]\n").nth(1).unwrap().split("\n[").next().unwrap();
        let names: Vec<&str> = features
            .lines()
            .filter_map(|line| line.split_once(" = ["))
            .map(|(name, _)| name)
            .filter(|&name| name != "default")
            .collect();
        assert!(names.len() >= 11, "{names:?}");
        for name in names {
            let row = format!("//! | `{name}` |");
            assert!(include_str!("lib.rs").contains(&row), "no row for the feature `{name}`");
        }
    }
}
