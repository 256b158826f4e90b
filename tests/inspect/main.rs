//! `partd-inspect` as its users run it: the binary itself on stores that are whole, live, dead,
//! damaged or none, and its reading path held against the engine's.
//!
//! One test binary, since each links the engine anew; a file for each behaviour.

mod agreement;
mod command_line;
mod damage;
mod few_files;
#[path = "../../examples/shuffle/job.rs"]
#[allow(dead_code, reason = "the example shows the rest of its report")]
mod job;
mod live;
#[path = "../../src/bin/partd-inspect/read/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the binary uses the rest of it")]
mod read;
#[path = "../../examples/shuffle/records.rs"]
mod records;
mod salvage;
#[path = "../sim/mod.rs"]
mod sim;
mod simulated;
mod snapshots;
mod support;
mod terminal;
mod tools;
mod transcript;
mod usage;
