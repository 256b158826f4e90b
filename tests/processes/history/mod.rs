//! Recorded histories of several threads and processes, held against the contract: one linear
//! history of batches, whoever looks. The checker and the clients are in the testkit.
//!
//! | file | what it owns |
//! |---|---|
//! | `brute` | the plain enumeration that the checker is held against |
//! | `by_hand` | histories made by hand, good and bad, one for each way to be wrong |
//! | `runs` | recorded runs of threads, of processes, and of processes that are killed |
//!
//! The ordinary run records for some seconds; `PARTD_SECONDS=60 cargo test --test processes history` does so
//! for longer. A run prints its seed, which repeats the choices and not the timing.

mod brute;
mod by_hand;
pub(crate) mod runs;
