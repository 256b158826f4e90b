//! Compaction: live entries of sealed segments move into one new segment, the old ones go.
//!
//! One run writes one output: each key's values side by side, sequence numbers kept. The order is
//! what makes it safe: the history up to `U` is synced, but for the sources; the output is written
//! and synced, renamed, the directory synced; only then is all up to `U` on stable storage, and the
//! sources are unlinked: what was deleted before anyone asked for a sync need never be written to
//! the disk. Only when the unlinks are durable may a later run forget a delete. Whoever sees both an
//! output and a segment that it replaces ignores the latter. It runs beside appends, gets, deletes and
//! pops of every process; there is one compaction at a time. Its memory grows with keys and extents,
//! not with bytes.

mod base;
mod output;
mod plan;
mod run;
mod stop;

pub(crate) use self::base::Aim;
pub(crate) use self::run::compact;
pub use self::run::{Compaction, Skipped};
pub(crate) use self::stop::Stop;
