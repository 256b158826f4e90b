//! What can go wrong, each case with its evidence and with what to do about it.
//!
//! The format's own error ([`partd_format::Error`]) carries offset, expected and found; the one
//! here adds the path and what was being done. `Display` is a sentence for a person.

use std::io;
use std::path::{Path, PathBuf};

use crate::Key;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of error an [`Error`] is, to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The path leads to no store: to nothing, to a file, or to a directory with other files.
    NotAStore,
    /// A file has a format version newer than this build reads.
    NewerVersion,
    /// Bytes on disk are damaged, contradict each other, or are gone.
    Corrupt,
    /// The directory of an open store, or a file of it, was removed or replaced.
    Removed,
    /// Another process or handle is in the way; trying again later may help.
    Busy,
    /// As many handles write to the store as it allows.
    TooManyWriters,
    /// The file system cannot keep the store's promises.
    UnsupportedFileSystem,
    /// The handle was opened read-only, or this process may not write to the store.
    ReadOnly,
    /// A handle made before `fork` was used in the child.
    Forked,
    /// The segments would take more than `max_store_bytes`.
    StoreFull,
    /// The disk or a quota is full.
    DiskFull,
    /// A read would return more than `max_read_bytes`.
    ReadTooLarge,
    /// The store has used up something it can have only so much of, such as segment ids.
    LimitReached,
    /// An earlier sync failed, so nothing can be promised to be durable.
    SyncFailed,
    /// A stored value cannot be decoded by the layer that reads it.
    Decode,
    /// A value cannot be encoded by the layer that writes it.
    Encode,
    /// The values of a key cannot be joined to one.
    Join,
    /// A stored value is of another type than the layer.
    Mismatch,
    /// An argument is outside what the store or its format can take.
    Invalid,
    /// A call to the operating system failed.
    Io,
}

/// Why an operation on a store failed; [`kind`](Error::kind) tells the kinds apart.
///
/// No operation that returns an error has changed what is stored, unless its documentation says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call to the operating system failed.
    #[error("cannot {doing} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was being done, as it stands behind "cannot".
        doing: &'static str,
        /// The file or directory it was done to.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file holds bytes that the store cannot have written there.
    #[error("{}: {damage}", path.display())]
    Damage {
        /// The damaged file.
        path: PathBuf,
        /// Where in it, what was expected there and what was found.
        damage: partd_format::Error,
    },

    /// Batches that were committed can no longer be found in any segment.
    #[error(
        "{}: batches {first} to {last} of the history are gone, all segments searched{}; \
         `partd-inspect verify` shows what is left, `open_read_only` reads it",
        path.display(), hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
    )]
    Missing {
        /// The directory of the store.
        path: PathBuf,
        /// The first sequence number that is missing.
        first: u64,
        /// The last sequence number of that gap.
        last: u64,
        /// Where a chain of batches was seen to break, if one was.
        hint: Option<String>,
    },

    /// The store, or the way it is to be used, is refused.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The store or the file that is refused.
        path: PathBuf,
        /// What [`Error::kind`] returns.
        kind: ErrorKind,
        /// Why it is refused, and what to do instead.
        why: String,
    },

    /// An argument is outside what the store or its format can take.
    #[error("{0}")]
    Invalid(String),

    /// A handle made before `fork` was used in the child.
    #[error(
        "{}: this handle was opened before fork() and belongs to the parent process; \
         open the store again in the child",
        path.display()
    )]
    Forked {
        /// The directory of the store.
        path: PathBuf,
    },

    /// The store was opened for reading.
    #[error("{}: the store was opened read-only; open it with `SegmentLog::open` to write", path.display())]
    ReadOnly {
        /// The directory of the store.
        path: PathBuf,
    },

    /// A sync failed earlier, so nothing can be promised to be on stable storage any more.
    #[error(
        "{}: an earlier sync of this store failed, and what the disk then lost cannot be known; \
         plain appends and reads go on, durable ones end. Copy what you need into a new store",
        path.display()
    )]
    SyncFailed {
        /// The directory of the store.
        path: PathBuf,
    },

    /// A write needs more disk space than the store was given.
    #[error(
        "{}: the segments take {used} bytes and {needed} more are needed, but the store was given \
         {max}; delete and compact, or raise `max_store_bytes`",
        path.display()
    )]
    StoreFull {
        /// The directory of the store.
        path: PathBuf,
        /// The disk space that its segments take, in bytes.
        used: u64,
        /// The length of the segment that would have to be made, in bytes.
        needed: u64,
        /// The limit, in bytes.
        max: u64,
    },

    /// A read would return more bytes than the store's handle may return at once.
    #[error(
        "{}: the read is of {bytes} bytes, and the handle may return {max} at once; read fewer keys \
         at a time, take a `view`, or raise `max_read_bytes`",
        path.display()
    )]
    ReadTooLarge {
        /// The directory of the store.
        path: PathBuf,
        /// What the values have together, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        max: u64,
    },

    /// A stored value cannot be decoded by the layer that reads it.
    #[error("{layer}: key {key}, frame {frame} at byte {offset} of its value: {reason}")]
    Decode {
        /// The layer that reads, by its name.
        layer: &'static str,
        /// The key.
        key: Key,
        /// The frame in the key's value, from 0.
        frame: usize,
        /// The byte in the key's value at which the frame begins.
        offset: u64,
        /// What was expected, what was found, what to do.
        reason: String,
    },

    /// What was appended to a key can be decoded, but not joined to one value.
    #[error("{layer}: the {values} values of key {key} cannot be joined: {reason}")]
    Join {
        /// The layer that reads, by its name.
        layer: &'static str,
        /// The key.
        key: Key,
        /// How many values were to be joined.
        values: usize,
        /// What stands in the way.
        reason: String,
    },

    /// A stored value is of another type than the layer that reads it or appends to it.
    #[error("{layer}: the key {key} holds {stored}, but this layer is of {wanted}; {advice}")]
    Mismatch {
        /// The layer that reads or appends, by its name.
        layer: &'static str,
        /// The key.
        key: Key,
        /// What is stored.
        stored: String,
        /// What the layer is of.
        wanted: String,
        /// What to do, in a sentence without its end.
        advice: String,
    },

    /// A value cannot be encoded by the layer that writes it.
    #[error("{layer}: key {key}: {reason}")]
    Encode {
        /// The layer that writes, by its name.
        layer: &'static str,
        /// The key.
        key: Key,
        /// What stands in the way.
        reason: String,
    },
}

/// What to do about an error of the operating system, where that is known.
fn advice(error: &io::Error) -> &'static str {
    /// `ENFILE` and `EMFILE`, which have no kind.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => {
            "; a handle that writes takes ten to twenty descriptors: raise the limit (`ulimit -n`), or \
             close other files"
        }
        io::ErrorKind::OutOfMemory if error.raw_os_error().is_some() => {
            "; each segment takes a memory map: raise `vm.max_map_count`, compact the store, or make \
             its segments longer"
        }
        io::ErrorKind::PermissionDenied => "; give this user the right to do so",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is mounted read-only, where `SegmentLog::open_read_only` still reads"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or compact the store: what is stored can still be read, deleted and popped"
        }
        _ => "",
    }
}

impl Error {
    /// Wraps an error of the operating system: `doing` stands behind "cannot".
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
        Error::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// Refuses a path for a reason.
    pub(crate) fn refused(
        kind: ErrorKind,
        path: impl AsRef<Path>,
        why: impl Into<String>,
    ) -> Error {
        Error::Refused { path: path.as_ref().to_owned(), kind, why: why.into() }
    }

    /// What went wrong, to match on.
    ///
    /// ```
    /// use partd::{ErrorKind, SegmentLog};
    ///
    /// let missing = std::env::temp_dir().join("there is no such store");
    /// let error = SegmentLog::open_read_only(missing).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotAStore);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
                _ => ErrorKind::Io,
            },
            Error::Damage { .. } | Error::Missing { .. } => ErrorKind::Corrupt,
            Error::Refused { kind, .. } => *kind,
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Forked { .. } => ErrorKind::Forked,
            Error::ReadOnly { .. } => ErrorKind::ReadOnly,
            Error::SyncFailed { .. } => ErrorKind::SyncFailed,
            Error::StoreFull { .. } => ErrorKind::StoreFull,
            Error::ReadTooLarge { .. } => ErrorKind::ReadTooLarge,
            Error::Decode { .. } => ErrorKind::Decode,
            Error::Join { .. } => ErrorKind::Join,
            Error::Mismatch { .. } => ErrorKind::Mismatch,
            Error::Encode { .. } => ErrorKind::Encode,
        }
    }

    /// Whether the write failed because the disk, a quota or `max_store_bytes` is exhausted.
    ///
    /// Deleting keys and compacting makes room, also for the process that got the error.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.kind(), ErrorKind::DiskFull | ErrorKind::StoreFull)
    }

    /// Whether files of the store are damaged or gone.
    pub fn is_corruption(&self) -> bool {
        matches!(self.kind(), ErrorKind::Corrupt | ErrorKind::Removed)
    }
}

/// An error of the format with the file that it is about.
pub(crate) fn damage(path: impl Into<PathBuf>, damage: partd_format::Error) -> Error {
    let path = path.into();
    newer_version(&path, &damage).unwrap_or(Error::Damage { path, damage })
}

/// The error for a file of a newer format, if that is what was found.
pub(crate) fn newer_version(path: impl AsRef<Path>, error: &partd_format::Error) -> Option<Error> {
    let partd_format::Evidence::Number(found) = error.found else { return None };
    let is_newer = error.what == "format version" && found > partd_format::VERSION.into();
    is_newer.then(|| {
        let known = partd_format::VERSION;
        let why = format!(
            "this file has format version {found}, and this build reads version {known}; use a \
             newer release of partd"
        );
        Error::refused(ErrorKind::NewerVersion, path, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_full_store_are_out_of_space_and_no_other_error_of_the_system_is() {
        for (code, kind) in [
            (rustix::io::Errno::NOSPC, ErrorKind::DiskFull),
            (rustix::io::Errno::DQUOT, ErrorKind::DiskFull),
            (rustix::io::Errno::FBIG, ErrorKind::Io),
            (rustix::io::Errno::IO, ErrorKind::Io),
        ] {
            let error = Error::io("write", "/store", code.into());
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.is_out_of_space(), kind == ErrorKind::DiskFull);
        }
        let full = Error::StoreFull { path: "/store".into(), used: 2, needed: 1, max: 2 };
        assert!(full.is_out_of_space() && !full.is_corruption());
    }

    #[test]
    fn a_refusal_has_the_kind_that_it_was_made_with() {
        let error = Error::refused(ErrorKind::Removed, "/store", "this file was removed");
        assert_eq!(error.kind(), ErrorKind::Removed);
        assert!(error.is_corruption() && !error.is_out_of_space());
        assert_eq!(error.to_string(), "/store: this file was removed");
    }
}
