//! Tests of the engine on real files, and of the layers that need nothing else; one behaviour per
//! file.
//!
//! They share one test binary, since each binary links the engine again. To run a part:
//! `cargo test --test engine buffer::`

mod bad_input;
mod budget;
mod buffer;
mod compaction;
mod compaction_limits;
mod copies;
mod dead_segments;
mod examples;
mod following;
mod full_disk;
mod identity;
mod key;
mod network;
mod odd_input;
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
mod versions;

/// The entry point of the children; see `partd_testkit::children`.
#[test]
#[ignore = "the children of the other tests run it"]
fn child() {
    partd_testkit::children::roles::play();
}
