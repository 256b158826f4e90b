//! The error type: each case carries its evidence and says what to do.
//!
//! [`partd_format::Error`] has the offset and the expected and found bytes; [`Error`] adds the path
//! and the operation. `Display` is a sentence for a person.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::Key;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`], to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no store at the path: nothing, a file, or a directory with other files.
    NotAStore,
    /// A file has a newer format version than this build can read.
    NewerVersion,
    /// Bytes on disk are damaged, inconsistent or missing.
    Corrupt,
    /// The directory of an open store, or a file in it, was removed or replaced.
    Removed,
    /// Another process or handle is using the store; a retry may succeed.
    Busy,
    /// The store already has the largest number of writing handles.
    TooManyWriters,
    /// The file system cannot give the store's guarantees.
    UnsupportedFileSystem,
    /// The handle was opened read-only, or this process may not write to the store.
    ReadOnly,
    /// A handle opened before `fork` was used in the child.
    Forked,
    /// The segments would exceed `max_store_bytes`.
    StoreFull,
    /// The disk or a quota is full.
    DiskFull,
    /// A read would return more than `max_read_bytes`.
    ReadTooLarge,
    /// The store has exhausted a limit of its format, such as the number of segment ids.
    LimitReached,
    /// A sync failed, so no later write can be guaranteed to be durable.
    SyncFailed,
    /// The layer that reads a stored value cannot decode it.
    Decode,
    /// The layer that writes a value cannot encode it.
    Encode,
    /// The values of a key cannot be joined into one.
    Join,
    /// A stored value has another type than the layer.
    Mismatch,
    /// An argument is outside the range that the store or its format allows.
    Invalid,
    /// A system call failed.
    Io,
}

/// The error of every operation on a store. Match on its [`kind`](Error::kind).
///
/// A store or layer outside this crate may construct most variants. Those that only a segment log
/// returns may get more fields.
///
/// An operation that returns an error has not changed what is stored, unless its documentation says
/// otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {doing} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// The operation that failed; it follows "cannot" in the message.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error from the system.
        source: io::Error,
    },

    /// A file holds bytes that the store cannot have written.
    #[error("{}: {damage}", path.display())]
    #[non_exhaustive]
    Damage {
        /// The damaged file.
        path: PathBuf,
        /// The offset, and what was expected and found there.
        damage: partd_format::Error,
    },

    /// Committed batches are missing from all segments.
    #[error(
        "{}: batches {first} to {last} are missing from all segments{}; `partd-inspect verify` \
         shows what is left, and `open_read_only` reads it",
        path.display(), hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
    )]
    #[non_exhaustive]
    Missing {
        /// The directory of the store.
        path: PathBuf,
        /// The first missing sequence number.
        first: u64,
        /// The last sequence number of the gap.
        last: u64,
        /// Where a chain of batches breaks off, if one does.
        hint: Option<String>,
    },

    /// The store refuses to be opened or used in this way.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The store or file.
        path: PathBuf,
        /// The kind that [`Error::kind`] returns.
        kind: ErrorKind,
        /// The reason, and what to do instead.
        why: String,
    },

    /// An argument is outside the range that the store or its format allows.
    #[error("{0}")]
    Invalid(String),

    /// A handle opened before `fork` was used in the child.
    #[error(
        "{}: this handle was opened before fork() and belongs to the parent process; \
         open the store again in the child",
        path.display()
    )]
    Forked {
        /// The directory of the store.
        path: PathBuf,
    },

    /// The handle was opened read-only.
    #[error(
        "{}: the store was opened read-only; open it with `SegmentLog::open` to write",
        path.display()
    )]
    ReadOnly {
        /// The directory of the store.
        path: PathBuf,
    },

    /// A sync of the store failed, so no later write can be guaranteed to be on stable storage.
    #[error(
        "{}: an earlier sync of this store failed, and the disk may have lost data; appends and \
         reads still work, but durable appends and syncs do not. Copy what you need into a new \
         store",
        path.display()
    )]
    SyncFailed {
        /// The directory of the store.
        path: PathBuf,
    },

    /// A write needs more disk space than `max_store_bytes` allows.
    #[error(
        "{}: the segments take {used} bytes and the write needs {needed} more, but the limit is \
         {max}; delete and compact, or raise `max_store_bytes`",
        path.display()
    )]
    #[non_exhaustive]
    StoreFull {
        /// The directory of the store.
        path: PathBuf,
        /// The disk space of the segments, in bytes.
        used: u64,
        /// The length of the new segment that the write needs, in bytes.
        needed: u64,
        /// The limit, in bytes.
        max: u64,
    },

    /// A read would return more bytes than `max_read_bytes` allows.
    #[error(
        "{}: the read would return {bytes} bytes, but the limit is {max}; read fewer keys at a \
         time, take a `view`, or raise `max_read_bytes`",
        path.display()
    )]
    #[non_exhaustive]
    ReadTooLarge {
        /// The directory of the store.
        path: PathBuf,
        /// The total length of the values, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        max: u64,
    },

    /// The layer that reads a stored value cannot decode it.
    #[error("{layer}: key {key}, frame {frame} at byte {offset} of its value: {reason}")]
    Decode {
        /// The name of the layer.
        layer: &'static str,
        /// The key.
        key: Key,
        /// The number of the frame in the key's value, from 0.
        frame: usize,
        /// The offset of the frame in the key's value, in bytes.
        offset: u64,
        /// What was expected, what was found, and what to do.
        reason: String,
    },

    /// The values appended to a key can be decoded, but not joined into one.
    #[error("{layer}: the {values} values of key {key} cannot be joined: {reason}")]
    Join {
        /// The name of the layer.
        layer: &'static str,
        /// The key.
        key: Key,
        /// The number of values.
        values: usize,
        /// Why they cannot be joined.
        reason: String,
    },

    /// A stored value has another type than the layer that reads it or appends to it.
    #[error("{layer}: key {key} holds {stored}, but this layer expects {wanted}; {advice}")]
    Mismatch {
        /// The name of the layer.
        layer: &'static str,
        /// The key.
        key: Key,
        /// The stored type.
        stored: String,
        /// The type that the layer expects.
        wanted: String,
        /// What to do, as a clause without a full stop.
        advice: String,
    },

    /// The layer that writes a value cannot encode it.
    #[error("{layer}: key {key}: {reason}")]
    Encode {
        /// The name of the layer.
        layer: &'static str,
        /// The key.
        key: Key,
        /// Why it cannot be encoded.
        reason: String,
    },
}

/// Returns what to do about a system error, or an empty string.
fn advice(error: &io::Error) -> &'static str {
    /// `ENFILE` and `EMFILE`, which have no `io::ErrorKind`.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => {
            "; a writing handle needs ten to twenty descriptors: raise the limit (`ulimit -n`) or \
             close other files"
        }
        io::ErrorKind::OutOfMemory if error.raw_os_error().is_some() => {
            match getrlimit(Resource::As).current {
                Some(_) => {
                    "; each segment is mapped whole: raise the limit of the address space \
                     (`ulimit -v`) or `vm.max_map_count`, or compact the store"
                }
                None => {
                    "; each segment needs a memory map: raise `vm.max_map_count`, compact the \
                     store, or use longer segments"
                }
            }
        }
        io::ErrorKind::PermissionDenied => "; give this user the right to do so",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is mounted read-only: use `SegmentLog::open_read_only`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or delete keys and compact the store; reads still work, also with \
             `SegmentLog::open_read_only`"
        }
        _ => "",
    }
}

impl Error {
    /// Wraps a system error; `doing` follows "cannot" in the message.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
        Error::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// Creates an error that refuses a path.
    pub(crate) fn refused(
        kind: ErrorKind,
        path: impl AsRef<Path>,
        why: impl Into<String>,
    ) -> Error {
        Error::Refused { path: path.as_ref().to_owned(), kind, why: why.into() }
    }

    /// Returns the kind of the error, to match on.
    ///
    /// ```
    /// use partd::{ErrorKind, SegmentLog};
    ///
    /// let missing = std::env::temp_dir().join("there is no such store");
    /// let error = SegmentLog::open_read_only(missing).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotAStore);
    /// ```
    #[must_use]
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

    /// Returns whether a write failed because the disk, a quota or `max_store_bytes` is exhausted.
    ///
    /// Any process, including the one that got the error, can free space by deleting keys and
    /// compacting.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.kind(), ErrorKind::DiskFull | ErrorKind::StoreFull)
    }

    /// Returns whether files of the store are damaged or missing.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self.kind(), ErrorKind::Corrupt | ErrorKind::Removed)
    }
}

/// Wraps the error, for code that reads through [`std::io`]. [`get_ref`](io::Error::get_ref) leads
/// back to it.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            _ => match error.kind() {
                ErrorKind::Corrupt | ErrorKind::Decode => io::ErrorKind::InvalidData,
                ErrorKind::StoreFull => io::ErrorKind::StorageFull,
                ErrorKind::Invalid => io::ErrorKind::InvalidInput,
                _ => io::ErrorKind::Other,
            },
        };
        io::Error::new(kind, error)
    }
}

/// Adds the path to an error of the format.
pub(crate) fn damage(path: impl Into<PathBuf>, damage: partd_format::Error) -> Error {
    let path = path.into();
    newer_version(&path, &damage).unwrap_or(Error::Damage { path, damage })
}

/// Returns the error for a file of a newer format, if `error` found one.
pub(crate) fn newer_version(path: impl AsRef<Path>, error: &partd_format::Error) -> Option<Error> {
    let partd_format::Evidence::Number(found) = error.found else { return None };
    let is_newer = error.what == "format version" && found > partd_format::VERSION.into();
    is_newer.then(|| {
        let known = partd_format::VERSION;
        let why = format!(
            "this file has format version {found}, but this build reads version {known}; use \
             a newer release of partd"
        );
        Error::refused(ErrorKind::NewerVersion, path, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_a_quota_and_a_full_store_count_as_out_of_space() {
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
    fn a_refusal_keeps_the_kind_given_to_it() {
        let error = Error::refused(ErrorKind::Removed, "/store", "this file was removed");
        assert_eq!(error.kind(), ErrorKind::Removed);
        assert!(error.is_corruption() && !error.is_out_of_space());
        assert_eq!(error.to_string(), "/store: this file was removed");
    }
}
