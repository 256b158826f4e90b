//! The deliberate defects of a simulated disk, which the crash tests must catch.

/// A deliberate defect of the disk: a call that has no effect, as if the engine had omitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// `sync` and durable appends sync no file.
    SyncLeftOut,
    /// They sync only every second file.
    EverySecondSyncLeftOut,
    /// A sync covers only what was stored before the API call began.
    SyncTooEarly,
    /// Recovery syncs no file.
    SyncInRecoveryLeftOut,
    /// The directory of the store is never synced.
    SyncOfDirectoryLeftOut,
    /// The directory that contains the store is never synced.
    SyncOfParentLeftOut,
    /// A file that has several names is never synced.
    SyncOfLinkedFileLeftOut,
    /// Every file seems to have one name only.
    LinksUncounted,
    /// Files are created without allocating their space.
    AllocationLeftOut,
    /// Locks exclude no one.
    LocksLeftOut,
    /// The boot id stays the same after a power cut.
    BootIdStays,
    /// Every random number is the same, so all segments share one salt.
    RandomStays,
    /// A write through the file omits its last byte.
    WriteIsShort,
}
