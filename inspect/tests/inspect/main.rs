//! Runs the `partd-inspect` binary as users do, on intact, live, dead and damaged stores and on
//! paths without a store, and compares its reading code with the engine's.
//!
//! All tests share one binary, because each binary links the engine again; each file tests one
//! behaviour.

mod agreement;
mod backup;
mod command_line;
mod damage;
mod few_files;
mod live;
mod many_locks;
mod salvage;
mod shortages;
mod simulated;
mod snapshots;
mod support;
mod terminal;
mod tools;
mod transcript;
mod usage;

use partd_shuffle::job;
use partd_testkit::sim;
