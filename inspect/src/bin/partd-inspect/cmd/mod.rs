//! The subcommands, one file each: what it reads and how it prints text and JSON.

pub(crate) mod backup;
pub(crate) mod batches;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod keys;
pub(crate) mod map;
pub(crate) mod meta;
pub(crate) mod salvage;
pub(crate) mod segments;
pub(crate) mod summary;
pub(crate) mod sweep;
pub(crate) mod target;
pub(crate) mod verify;
pub(crate) mod watch;
