//! Shared test support for partd. It is unpublished; published crates use it only in their tests.
//!
//! | module | contents |
//! |---|---|
//! | `build` | bytes of segments and control files, built by hand |
//! | `cgroup` | a memory limit for child processes |
//! | `children` | child processes, their roles, and the judge of their acknowledged writes |
//! | `contract` | the behaviours of the trait `Partd`, as tests of any store |
//! | `counted` | a store that counts the calls a layer makes |
//! | `history` | recorded client histories, and the checker that tests for linearizability |
//! | `sim` | the simulated disk, its power cuts, and the invariants of the crash model |
//! | `values` | the values that the Rust and Python tests exchange |

#![allow(missing_docs, missing_debug_implementations, reason = "only tests use it")]
#![allow(
    clippy::len_without_is_empty,
    clippy::new_without_default,
    clippy::should_implement_trait,
    reason = "the same"
)]

pub mod build;
pub mod cgroup;
pub mod children;
pub mod contract;
pub mod counted;
pub mod history;
pub mod sim;
pub mod values;
