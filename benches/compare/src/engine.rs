//! The trait of a store in the comparison, and the list of stores that take part.
//!
//! An engine is one file in `engines/`: it appends batches, then reads every key back. Keys are
//! numbered; an engine that names its keys uses [`Workload::key_name`], made before the clock
//! starts.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use crate::engines;
use crate::workload::{Piece, Workload};

/// The memory of the engines that buffer appends: `Buffer`, *ranges*, Python's `Buffer`.
pub(crate) const MEMORY_BYTES: usize = 200_000_000;

/// A store that is being measured.
pub(crate) trait Engine: Send + Sync {
    /// Appends each value to its key.
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()>;

    /// Prepares the first read; its time counts as time of the reads.
    fn finish_appends(&mut self) -> Result<()> {
        Ok(())
    }

    /// Returns everything appended to a key, in order.
    fn get(&self, key: usize) -> Result<Vec<u8>>;

    /// Returns the values of many keys, on the threads of the current rayon pool.
    fn get_many(&self, keys: Range<usize>) -> Result<Vec<Vec<u8>>> {
        keys.into_par_iter().map(|key| self.get(key)).collect()
    }
}

/// Where an engine works.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// A fresh, empty directory.
    pub(crate) dir: &'a Path,
    pub(crate) workload: Workload,
}

impl Setup<'_> {
    pub(crate) fn names(&self) -> Vec<String> {
        (0..self.workload.keys).map(Workload::key_name).collect()
    }
}

/// The role of an engine in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// This crate.
    Ours,
    Rival,
    /// What the machine can do at best, measured with plain files.
    Limit,
}

type Open = fn(&Setup<'_>) -> Result<Box<dyn Engine>>;

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// In a process of this program.
    Rust(Open),
    /// In a process of the Python script, with this argument.
    Python(&'static str),
    /// This build lacks it; the text says what it would need.
    #[cfg_attr(feature = "rocksdb", expect(dead_code, reason = "this build lacks none"))]
    Missing(&'static str),
}

/// One engine of the comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The name on the command line.
    pub(crate) slug: &'static str,
    /// The name in tables.
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// Whether it reads values back.
    pub(crate) reads: bool,
    pub(crate) start: Start,
    /// How it is set up, and how it appends and gets.
    pub(crate) about: &'static str,
}

/// Every engine, in the order of the tables.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        slug: "segment-log",
        name: "**SegmentLog**",
        role: Role::Ours,
        reads: true,
        start: Start::Rust(engines::segment_log::open),
        about: "this crate's store on disk with its default options, read by `get_many`",
    },
    Entry {
        slug: "buffer",
        name: "**Buffer(Dict, SegmentLog)**",
        role: Role::Ours,
        reads: true,
        start: Start::Rust(engines::buffer::open),
        about: "200 MB of memory above it, read by `get_many`",
    },
    Entry {
        slug: "ranges",
        name: "ranges",
        role: Role::Rival,
        reads: true,
        start: Start::Rust(engines::ranges::open),
        about: "what query engines write themselves: a vector for each partition number, all spilled \
                to one file by vectored writes when they hold 200 MB, and byte ranges for each \
                partition; no checksums",
    },
    Entry {
        slug: "files",
        name: "file per key",
        role: Role::Rival,
        reads: true,
        start: Start::Rust(engines::files::open),
        about: "a `BufWriter` of 64 KiB for each key, never closed; the first read flushes them",
    },
    Entry {
        slug: "rocksdb",
        name: "RocksDB",
        role: Role::Rival,
        reads: true,
        #[cfg(feature = "rocksdb")]
        start: Start::Rust(engines::rocks::open),
        #[cfg(not(feature = "rocksdb"))]
        start: Start::Missing("built without the feature `rocksdb`"),
        about: "a merge operator that concatenates, a `WriteBatch` for each batch, no write-ahead \
                log, no compression, a thread per core",
    },
    Entry {
        slug: "lmdb",
        name: "LMDB",
        role: Role::Rival,
        reads: true,
        start: Start::Rust(engines::lmdb::open),
        about: "heed with `NO_SYNC` and `WRITE_MAP`; an entry for each key and batch, a transaction \
                for each batch, a prefix scan for each get",
    },
    Entry {
        slug: "fjall",
        name: "fjall",
        role: Role::Rival,
        reads: true,
        start: Start::Rust(engines::fjall::open),
        about: "entries as in LMDB, an atomic batch for each batch, the journal never synced, no \
                compression",
    },
    Entry {
        slug: "redb",
        name: "redb",
        role: Role::Rival,
        reads: true,
        start: Start::Rust(engines::redb::open),
        about: "entries as in LMDB, a transaction of `Durability::None` for each batch, a range scan \
                for each get",
    },
    Entry {
        slug: "python-buffer",
        name: "Python `Buffer(Dict, File)`",
        role: Role::Rival,
        reads: true,
        start: Start::Python("buffer"),
        about: "partd 1.4.2 with 200 MB of memory; it keeps the slices of a batch instead of copying them",
    },
    Entry {
        slug: "python-file",
        name: "Python `File`",
        role: Role::Rival,
        reads: true,
        start: Start::Python("file"),
        about: "partd 1.4.2, which opens a file for each append",
    },
    Entry {
        slug: "limit-mapped",
        name: "limit: mapped",
        role: Role::Limit,
        reads: true,
        start: Start::Rust(engines::limit_mapped::open),
        about: "CRC-32 of each value and a copy into fresh mapped, allocated files of 64 MiB; a get \
                copies the values of a key from there and computes their CRC-32",
    },
    Entry {
        slug: "limit-written",
        name: "limit: written",
        role: Role::Limit,
        reads: false,
        start: Start::Rust(engines::limit_written::open),
        about: "CRC-32 of each value and `pwritev` in groups of 256 KiB into allocated files of \
                64 MiB; values below 2 KiB are gathered first",
    },
];
