//! Recorded histories of several threads and processes, held against the contract: one linear
//! history of batches, whoever looks.
//!
//! | file | what it owns |
//! |---|---|
//! | `checker` | decides whether a history is linear |
//! | `brute` | the plain enumeration that the checker is held against |
//! | `by_hand` | histories made by hand, good and bad, one for each way to be wrong |
//! | `record` | a client that does random things and notes what it saw, and when |
//! | `runs` | recorded runs of threads, of processes, and of processes that are killed |
//!
//! The ordinary run records for some seconds; `PARTD_SECONDS=60 cargo test --test history` does so
//! for longer. A run prints its seed, which repeats the choices and not the timing.

#[path = "../children/mod.rs"]
mod children;

mod brute;
mod by_hand;
mod checker;
mod record;
mod runs;

/// What the children run; see `children`.
#[test]
#[ignore = "the children of the other tests run it"]
fn child() {
    children::roles::play_with("client", runs::play);
}
