//! The engine on the simulated disk: power cuts, kills at every operation, failing calls, damage,
//! and the costs of operations, counted in disk calls.
//!
//! One test binary, since each binary instantiates the engine again; one file per behaviour. To run
//! a part: `cargo test --test simulated crash::`

mod background;
mod backups;
mod compaction_races;
mod compaction_space;
mod counting;
mod crash;
mod damage;
mod defects;
mod failing_calls;
mod failing_opens;
mod failing_syncs;
mod growth;
mod handle_counters;
mod hooked;
mod kill_steps;
mod killed_compactions;
mod lent_files;
mod lost_control;
mod own_slots;
mod pins;
mod pops;
mod publishing;
mod refreshing;
mod removed_files;
mod replaced_segments;
mod reserves;
mod surroundings;
#[cfg(feature = "tracing")]
mod traced;
mod verifying;
mod write_behind;

use partd_testkit::sim;
