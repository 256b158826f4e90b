//! Errors that cross the wire: a kind to match on and a text. The client turns them into
//! [`partd::Error`].
//!
//! Every fallible method of this crate returns [`partd::Error`], so that layers compose on a
//! client. [`RemoteError::of`] extracts the remote error, with its kind.

use std::io;
use std::path::PathBuf;

use partd::{Error, Key};

/// The kind of an error that a server answered with, or that occurred on the way to it.
///
/// The numbers are those of the wire protocol; see `WIRE.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum ErrorKind {
    /// A call of the operating system failed in the store.
    Io = 1,
    /// The files of the store are damaged.
    Damage = 2,
    /// The store refused the operation.
    Refused = 3,
    /// An argument is outside of what the store accepts.
    Invalid = 4,
    /// The store was opened read-only.
    ReadOnly = 5,
    /// An earlier sync of the store failed; the store makes no more durable writes.
    SyncFailed = 6,
    /// The disk, or the space that the store is limited to, is full.
    Full = 7,
    /// A layer over the store could not encode or decode a value.
    Layer = 8,
    /// The client's role does not include the operation, or the key is reserved for the server.
    Forbidden = 9,
    /// The request or a part of it exceeds a limit of the server.
    TooLarge = 10,
    /// The server has reached a limit that its clients share; try again.
    Busy = 11,
    /// The server does not support the request.
    UnknownCommand = 12,
    /// The request or the answer violates the protocol.
    Malformed = 13,
    /// The server is stopping.
    Stopping = 14,
    /// The operation needs the extension `partd/2`, and the server speaks only the old protocol.
    Unsupported = 15,
    /// The server did not answer in time.
    TimedOut = 16,
    /// The connection ended, and the client could not reconnect in time.
    Disconnected = 17,
    /// A kind that this version does not know.
    Other = 0xFFFF,
}

impl ErrorKind {
    const ALL: [ErrorKind; 17] = [
        ErrorKind::Io,
        ErrorKind::Damage,
        ErrorKind::Refused,
        ErrorKind::Invalid,
        ErrorKind::ReadOnly,
        ErrorKind::SyncFailed,
        ErrorKind::Full,
        ErrorKind::Layer,
        ErrorKind::Forbidden,
        ErrorKind::TooLarge,
        ErrorKind::Busy,
        ErrorKind::UnknownCommand,
        ErrorKind::Malformed,
        ErrorKind::Stopping,
        ErrorKind::Unsupported,
        ErrorKind::TimedOut,
        ErrorKind::Disconnected,
    ];

    /// Returns the kind with this number.
    pub(crate) fn from_wire(number: u16) -> ErrorKind {
        let known = ErrorKind::ALL.into_iter().find(|kind| *kind as u16 == number);
        known.unwrap_or(ErrorKind::Other)
    }

    fn io_kind(self) -> io::ErrorKind {
        match self {
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Disconnected => io::ErrorKind::ConnectionAborted,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        }
    }
}

/// An error that a server answered with, or that the client met instead of an answer.
///
/// It is the source of the [`partd::Error::Io`] that the client returns. An error of the kind
/// [`ErrorKind::Invalid`] becomes [`partd::Error::Invalid`] instead, if the operation has not
/// happened.
///
/// ```
/// use partd_server::{ErrorKind, RemoteError};
/// fn is_overloaded(error: &partd::Error) -> bool {
///     RemoteError::of(error).is_some_and(|remote| remote.kind == ErrorKind::Busy)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}{}", if *.may_have_happened { "; the operation may or may not have happened" } else { "" })]
#[non_exhaustive]
pub struct RemoteError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// A description for people.
    pub text: String,
    /// Whether the operation may have happened although it failed. If `false`, it has not happened.
    pub may_have_happened: bool,
}

impl RemoteError {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> RemoteError {
        RemoteError { kind, text: text.into(), may_have_happened: false }
    }

    pub(crate) fn maybe(mut self, may_have_happened: bool) -> RemoteError {
        self.may_have_happened = may_have_happened;
        self
    }

    /// Returns the remote error inside an error of a client, or `None` if there is none.
    pub fn of(error: &Error) -> Option<&RemoteError> {
        let Error::Io { source, .. } = error else { return None };
        source.get_ref()?.downcast_ref()
    }

    /// Makes the error that a client returns; its text is "cannot `doing` `address`: …".
    pub(crate) fn into_error(self, doing: &'static str, address: &str) -> Error {
        let source = io::Error::new(self.kind.io_kind(), self);
        Error::Io { doing, path: PathBuf::from(address), source }
    }

    /// Makes the answer to a request that failed in the store.
    ///
    /// It names a key only if the request did: an append to a layer such as `Buffer` may fail while
    /// it moves keys of other clients.
    pub(crate) fn of_store(error: &Error, is_of_request: impl Fn(&Key) -> bool) -> RemoteError {
        use partd::ErrorKind as Store;
        let kind = match error.kind() {
            Store::DiskFull | Store::StoreFull => ErrorKind::Full,
            Store::Io => ErrorKind::Io,
            Store::Corrupt | Store::Removed => ErrorKind::Damage,
            Store::Invalid => ErrorKind::Invalid,
            Store::ReadOnly => ErrorKind::ReadOnly,
            Store::SyncFailed => ErrorKind::SyncFailed,
            Store::Decode | Store::Encode | Store::Join | Store::Mismatch => ErrorKind::Layer,
            Store::NotAStore
            | Store::NewerVersion
            | Store::Busy
            | Store::TooManyWriters
            | Store::UnsupportedFileSystem
            | Store::Forked
            | Store::LimitReached => ErrorKind::Refused,
            _ => ErrorKind::Other,
        };
        let text = match error {
            Error::Decode { layer, key, .. }
            | Error::Join { layer, key, .. }
            | Error::Mismatch { layer, key, .. }
            | Error::Encode { layer, key, .. }
                if !is_of_request(key) =>
            {
                format!("{layer}: a value of another request cannot be encoded or decoded")
            }
            _ => error.to_string(),
        };
        RemoteError::new(kind, text)
    }
}

/// Makes the error for an invalid argument.
pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// Makes the error for an address, a file of keys or a directory of sockets that is refused.
pub(crate) fn refused(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
    Error::Refused { path: path.into(), kind: partd::ErrorKind::Invalid, why: why.into() }
}

/// Makes the error for a failed system call; its text is "cannot `doing` `path`: …".
pub(crate) fn io_error(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
    Error::Io { doing, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_and_an_unknown_number_is_other() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_wire(kind as u16), kind);
        }
        assert_eq!(ErrorKind::from_wire(999), ErrorKind::Other);
    }

    #[test]
    fn a_key_of_another_request_is_not_named() {
        let error = Error::Encode { layer: "zlib", key: "secret".into(), reason: "full".into() };
        let text = |is_of_request| RemoteError::of_store(&error, |_| is_of_request).text;
        assert!(text(true).contains("secret"));
        assert!(!text(false).contains("secret"));
    }

    #[test]
    fn a_client_can_extract_the_remote_error() {
        let remote = RemoteError::new(ErrorKind::Busy, "the server is busy").maybe(true);
        let error = remote.clone().into_error("append through", "ipc:///x");
        assert_eq!(RemoteError::of(&error), Some(&remote));
        let text = error.to_string();
        assert!(text.starts_with("cannot append through ipc:///x: the server is busy;"), "{text}");
    }
}
