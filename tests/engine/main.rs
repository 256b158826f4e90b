//! Tests of the engine on real files, and of the layers that need nothing else; one behaviour per
//! file.
//!
//! They share one test binary, since each binary links the engine again. To run a part:
//! `cargo test --test engine buffer::`

mod alignment;
mod backup;
mod bad_control;
mod bad_input;
mod budget;
mod buffer;
mod buffer_view;
mod compaction;
mod compaction_limits;
mod copies;
mod creating;
mod dead_segments;
mod examples;
mod extents;
mod flush_batches;
mod following;
mod full_disk;
mod identity;
mod key;
mod lent_pool;
mod network;
mod odd_input;
#[cfg(feature = "bytes")]
mod owned_chunks;
mod prefixes;
mod random_ops;
mod recycling;
mod reopen;
mod sequence;
mod shared_files;
mod shuffle;
mod streams;
mod surroundings;
mod temporary;
mod unverified;
mod versions;
mod view_chunks;
mod view_many;
mod view_reader;

/// The entry point of the children; see `partd_testkit::children`.
#[test]
#[ignore = "the children of the other tests run it"]
fn child() {
    partd_testkit::children::roles::play();
}
