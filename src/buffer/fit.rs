//! The result of an attempt to buffer a batch.

/// The result of an attempt to buffer a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// The batch is in the buffer.
    Buffered,
    /// The batch fits only after a flush.
    NoRoom,
    /// The batch needs the exclusive lock, since it has a set to defer.
    NotShared,
    /// The batch must go to the slow store.
    Never,
}
