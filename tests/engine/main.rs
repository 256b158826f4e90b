//! The engine on real files, and the layers above it that need nothing else: one behaviour per file.
//!
//! One test binary, since each links the engine anew. A part alone: `cargo test --test engine buffer::`

mod bad_input;
mod budget;
mod buffer;
mod compaction;
mod compaction_limits;
mod copies;
mod dead_segments;
mod examples;
mod full_disk;
mod identity;
mod key;
mod network;
mod odd_input;
mod random_ops;
mod recycling;
mod reopen;
mod shared_files;
mod shuffle;
mod surroundings;
mod temporary;
mod versions;

/// What the children run; see `partd_testkit::children`.
#[test]
#[ignore = "the children of the other tests run it"]
fn child() {
    partd_testkit::children::roles::play();
}
