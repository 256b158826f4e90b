//! Recorded histories of several threads and processes, checked against the contract: a
//! linearizable history of batches for all observers. The checker and the clients are in the
//! testkit.
//!
//! | file | contents |
//! |---|---|
//! | `brute` | the plain enumeration that the checker is compared with |
//! | `by_hand` | hand-written histories, good and bad, one for each kind of error |
//! | `runs` | recorded runs of threads, of processes, and of killed processes |
//!
//! An ordinary run records for a few seconds; the long run is
//! `PARTD_SECONDS=60 cargo test --test processes history`. A run prints its seed, which repeats the
//! choices but not the timing.

mod brute;
mod by_hand;
pub(crate) mod runs;
