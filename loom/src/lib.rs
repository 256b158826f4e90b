//! The commit protocol of partd under loom: the code of `src/log/shared/commit.rs` on loom's
//! atomics; and the sleep of its background thread, in [`sleeper`].
//!
//! [`world`] models a store: the commit word, the slots, and segments with link words, state words
//! and bytes; its writers die at any step that a test chooses. [`weaken`] weakens one ordering of
//! one operation. [`scenario`] combines writers and a reader and checks what they see against the
//! contract. Loom explores every interleaving up to a bound on preemptions, and every value that a
//! load may return under its ordering.
//!
//! The protocol is not copied: `commit`, `help` and `take_over` are the engine's own. The engine's
//! code around them (claim, mark committed, read) is modelled in `world`, and a test compares the
//! orderings there with those in the engine's source.
//!
//! `cargo test --release --manifest-path loom/Cargo.toml`

pub mod scenario;
pub mod sleeper;
pub mod weaken;
pub mod world;
