//! The protocol as it is, and weakened: one binary, so that both halves run in parallel.

mod protocol;
mod sleeping;
mod weakened;
