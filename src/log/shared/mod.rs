//! The state that all processes on a store share: the words of its control file, and the commit
//! protocol on them.

pub mod commit;
pub(crate) mod control;
pub(crate) mod found;
pub(crate) mod lease;
pub(crate) mod start;
