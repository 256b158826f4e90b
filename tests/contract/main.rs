//! The contract of `Partd`: one suite that every store and layer runs.
//!
//! To add a store, add one line at the end of this file: a name, and an expression that creates an
//! empty one. All of them are boxed, so that the suite is compiled once.

use std::sync::Arc;

#[cfg(feature = "zlib")]
use partd::Zlib;
use partd::{Buffer, Dict, Encode, MemoryStore, Partd, Scoped, SegmentLog};
use partd_testkit::contract;

/// A buffer with a memory limit.
fn buffer(limit_bytes: u64) -> Buffer<Dict, Dict> {
    Buffer::new(Dict::new(), Dict::new(), limit_bytes)
}

/// A segment log of many small segments.
fn small_segments() -> SegmentLog {
    SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap()
}

/// A small buffer in front of a segment log, so that it fills up quickly.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
fn small_buffer() -> Buffer<Dict, SegmentLog> {
    Buffer::new(Dict::new(), small_segments(), 60 << 10)
}

/// A compressing layer, at a fast level if that matters: at its default level, Bz2 takes megabytes
/// for each value.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
fn compressed(name: &str, below: impl Partd + 'static) -> Box<dyn Partd> {
    partd::compression(name, Box::new(below)).unwrap()
}

/// A layer made of closures, which stores every byte inverted.
fn inverting(below: impl Partd) -> impl Partd {
    let invert = |bytes: &[u8]| Ok(bytes.iter().map(|byte| !byte).collect());
    Encode::from_fns(invert, invert, |parts| Ok(parts.concat()), below)
}

contract! {
    segment_log: SegmentLog::temporary().unwrap();
    segment_log_of_small_segments: small_segments();
    buffer_over_segment_log: Buffer::new(Dict::new(), small_segments(), 60 << 10);
    dict: Dict::new();
    boxed_dyn: Box::new(Dict::new()) as Box<dyn Partd>;
    boxed_dyn_segment_log: Box::<dyn Partd>::from(small_segments());
    arc: Arc::new(Dict::new());
    scoped: Scoped::new(Dict::new(), ("job", 7));
    scoped_segment_log: Scoped::new(small_segments(), "scope");
    buffer_over_scoped: Buffer::new(Dict::new(), Scoped::new(Dict::new(), 1), 60 << 10);
    buffer_without_memory: buffer(0);
    buffer_of_40_kib: buffer(40 << 10);
    buffer_of_200_kib: buffer(200 << 10);
    buffer_of_1_gib: buffer(1 << 30);
    buffer_of_boxed_dyn: Buffer::new(
        Box::new(Dict::new()) as Box<dyn MemoryStore>,
        Box::new(buffer(4096)) as Box<dyn Partd>,
        60 << 10,
    );
    closures: inverting(Dict::new());
    closures_over_segment_log: inverting(small_segments());
    buffer_over_closures: Buffer::new(Dict::new(), inverting(small_segments()), 60 << 10);
    #[cfg(feature = "zlib")]
    buffer_over_zlib:
        Buffer::new(Dict::new(), compressed("zlib", small_segments()), 60 << 10);
    #[cfg(feature = "zlib")]
    buffer_of_zlib: Buffer::new(Zlib::new(Dict::new()), small_segments(), 60 << 10);
    #[cfg(feature = "zlib")]
    zlib: compressed("zlib", Dict::new());
    #[cfg(feature = "zlib")]
    zlib_over_segment_log: compressed("zlib", small_segments());
    #[cfg(feature = "zlib")]
    zlib_over_buffer: compressed("zlib", small_buffer());
    #[cfg(feature = "snappy")]
    snappy: compressed("snappy", Dict::new());
    #[cfg(feature = "snappy")]
    snappy_over_segment_log: compressed("snappy", small_segments());
    #[cfg(feature = "snappy")]
    snappy_over_buffer: compressed("snappy", small_buffer());
    #[cfg(feature = "lz4")]
    lz4: compressed("lz4", Dict::new());
    #[cfg(feature = "lz4")]
    lz4_over_segment_log: compressed("lz4", small_segments());
    #[cfg(feature = "lz4")]
    lz4_over_buffer: compressed("lz4", small_buffer());
    #[cfg(feature = "blosc")]
    blosc: compressed("blosc", Dict::new());
    #[cfg(feature = "blosc")]
    blosc_over_segment_log: compressed("blosc", small_segments());
    #[cfg(feature = "blosc")]
    blosc_over_buffer: compressed("blosc", small_buffer());
    #[cfg(feature = "zstd")]
    zstd: compressed("zstd", Dict::new());
    #[cfg(feature = "zstd")]
    zstd_over_segment_log: compressed("zstd", small_segments());
    #[cfg(feature = "zstd")]
    zstd_over_buffer: compressed("zstd", small_buffer());
}

#[cfg(feature = "bz2")]
contract! {
    @slow
    bz2: compressed("bz2:1", Dict::new());
    bz2_over_segment_log: compressed("bz2:1", small_segments());
    bz2_over_buffer: compressed("bz2:1", small_buffer());
}
