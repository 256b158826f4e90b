//! Recorded histories of the clients of one store, and the checker that tests them against the
//! contract.
//!
//! | file | contents |
//! |---|---|
//! | `checker` | decides whether a history is linearizable |
//! | `record` | a client that performs random operations and records what it saw, and when |

pub mod checker;
pub mod record;
