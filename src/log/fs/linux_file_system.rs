//! The file systems of Linux, by the type that `statfs` reports: which of them can hold a store, and
//! what they promise.

const EXT: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
pub(super) const BTRFS: u64 = 0x9123_683E;
pub(super) const TMPFS: u64 = 0x0102_1994;
const F2FS: u64 = 0xF2F5_2010;
const BCACHEFS: u64 = 0xCA45_1A4E;
pub(super) const OVERLAYFS: u64 = 0x794C_7630;
/// File systems on which shared mappings are coherent with writes and locks are local.
const LOCAL: [u64; 7] = [EXT, XFS, BTRFS, TMPFS, F2FS, BCACHEFS, OVERLAYFS];
/// File systems that overwrite allocated space in place, so that a write to it needs no more. On
/// the others, a page that was written back or is shared with a copy may need space again.
const OVERWRITES_IN_PLACE: [u64; 2] = [EXT, TMPFS];

/// Whether a write to allocated space never needs more space.
pub(super) fn overwrites_in_place(kind: u64) -> bool {
    OVERWRITES_IN_PLACE.contains(&kind)
}

/// The reason why a file system cannot hold a store; `None` if it can.
pub(super) fn unfit(kind: u64) -> Option<String> {
    let name = match kind {
        _ if LOCAL.contains(&kind) => return None,
        0x6969 => "NFS",
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x00C3_6400 => "Ceph",
        _ => "an unknown kind",
    };
    Some(format!("the file system is {name} (type {kind:#x})"))
}
