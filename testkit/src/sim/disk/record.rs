//! The log of a simulated disk: every operation, in one order.

use std::path::PathBuf;

use partd_format::control::Commit;

/// One operation on the disk, and the process that made it.
#[derive(Clone, Debug)]
pub struct Record {
    pub process: u32,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    Store {
        inode: u32,
        offset: u64,
        bytes: Box<[u8]>,
    },
    Sync {
        inode: u32,
        /// Only the pages up to here, if set.
        len: Option<u64>,
    },
    /// Disk space was freed; the bytes read as zeros.
    Punch {
        inode: u32,
        offset: u64,
        len: u64,
    },
    /// Data that is not durable yet may never become so: its pages count as clean.
    SyncFailed {
        inode: u32,
    },
    Create {
        path: PathBuf,
        inode: u32,
        /// The inode number that `stat` reports.
        identity: u64,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: u32,
    },
    Unlink {
        path: PathBuf,
        inode: u32,
    },
    /// A file has another name: a hard link.
    Link {
        path: PathBuf,
        inode: u32,
    },
    MakeDir {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    /// Later syncs of the directory prove nothing.
    SyncDirFailed {
        path: PathBuf,
    },
    /// The commit word changed; a sequence number taken now belongs to `batch` of the workload.
    Commit {
        word: Commit,
        batch: Option<usize>,
    },
    /// A new control file is in place, for a history of this many batches.
    Recovered {
        sequence: u64,
    },
    /// A call of the store's public API begins; it writes `batch`, if any.
    Begin {
        batch: Option<usize>,
    },
    /// A backup into a directory is complete, as of a sequence number.
    BackedUp {
        path: PathBuf,
        sequence: u64,
    },
    /// The call has returned without an error.
    End {
        durable: bool,
    },
}
