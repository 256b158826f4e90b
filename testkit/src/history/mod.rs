//! Recorded histories of clients of one store, and the checker that holds them against the contract.
//!
//! | file | what it owns |
//! |---|---|
//! | `checker` | decides whether a history is linear |
//! | `record` | a client that does random things and notes what it saw, and when |

pub mod checker;
pub mod record;
