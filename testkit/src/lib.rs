//! What the tests of partd share. It is not published, and nothing that is published depends on it
//! outside its tests.
//!
//! | module | what it owns |
//! |---|---|
//! | `build` | the bytes of segments and control files, built by hand |
//! | `cgroup` | a limit of memory for child processes |
//! | `children` | child processes, what they do, and the judge of what they acknowledged |
//! | `counted` | a store that counts the calls that a layer makes |
//! | `history` | recorded histories of clients, and the checker that decides whether one is linear |
//! | `sim` | the simulated disk, its power cuts, and the invariants of the crash model |
//! | `values` | the values that Rust and Python give each other |

#![allow(missing_docs, missing_debug_implementations, reason = "nothing but tests uses it")]
#![allow(
    clippy::len_without_is_empty,
    clippy::new_without_default,
    clippy::should_implement_trait,
    reason = "the same"
)]

pub mod build;
pub mod cgroup;
pub mod children;
pub mod counted;
pub mod history;
pub mod sim;
pub mod values;
