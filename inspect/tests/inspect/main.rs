//! `partd-inspect` as its users run it: the binary itself on stores that are whole, live, dead,
//! damaged or none, and its reading path held against the engine's.
//!
//! One test binary, since each links the engine anew; a file for each behaviour.

mod agreement;
mod command_line;
mod damage;
mod few_files;
mod live;
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
