//! The protocol as it is, and made weaker: one binary, so that the two halves run side by side.

mod protocol;
mod sleeping;
mod weakened;
