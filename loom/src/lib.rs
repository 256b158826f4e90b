//! The commit protocol of partd under loom: the code of `src/log/shared/commit.rs` on loom's atomics; and
//! the sleep of its background thread, in [`sleeper`].
//!
//! [`world`] stands for a store: commit word, slots, and segments with link words, state words and
//! bytes; its writers die at any step that a test chooses. [`weaken`] makes one ordering of one
//! operation weaker. [`scenario`] puts writers and a reader together and holds what they see
//! against the contract. Loom explores every interleaving up to a bound on preemptions, and every
//! value that a load may return under its ordering.
//!
//! Not a copy of the protocol: `commit`, `help` and `take_over` are the engine's own. What the
//! engine does around them (claim, settle, read) is modelled in `world`, and a test holds the
//! orderings there against those in the engine's source.
//!
//! `cargo test --release --manifest-path loom/Cargo.toml`

pub mod scenario;
pub mod sleeper;
pub mod weaken;
pub mod world;
