//! Errors that cross the wire: a kind to match on and a sentence, and how they become
//! [`partd::Error`] at the client.
//!
//! Every method of this crate returns [`partd::Error`], so that a client composes with the layers.
//! [`RemoteError::of`] finds the kind in one.

use std::io;
use std::path::PathBuf;

use partd::{Error, Key};

/// What kind of error a server answered with, or a client met on the way.
///
/// The numbers are those of the wire; see `WIRE.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum ErrorKind {
    /// The store met an error of its operating system.
    Io = 1,
    /// The store found damage in its files.
    Damage = 2,
    /// The store refused.
    Refused = 3,
    /// An argument is outside what the store can take.
    Invalid = 4,
    /// The store was opened read-only.
    ReadOnly = 5,
    /// An earlier sync of the store failed; durable writes end.
    SyncFailed = 6,
    /// The disk, or the share of it that the store was given, is full.
    Full = 7,
    /// A layer over the store could not encode or decode a value.
    Layer = 8,
    /// The client's role does not include the operation.
    Forbidden = 9,
    /// The request or a part of it is above a limit of the server.
    TooLarge = 10,
    /// The server is at a limit that it shares among clients; try again.
    Busy = 11,
    /// The server does not know the command.
    UnknownCommand = 12,
    /// The request is not what the protocol says.
    Malformed = 13,
    /// The server is stopping.
    Stopping = 14,
    /// The operation needs the extension `partd/2`, and the server speaks only the old protocol.
    Unsupported = 15,
    /// Nothing answered in time.
    TimedOut = 16,
    /// The connection ended, and could not be made again in time.
    Disconnected = 17,
    /// Something that this version does not know.
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

    /// The kind of a number of the wire.
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

/// An error that a client got from its server, or instead of an answer of it.
///
/// It is the source of the [`partd::Error::Io`] that the client returns.
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
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// A sentence for a person.
    pub text: String,
    /// Whether the operation may have happened although it failed. `false`: it has not.
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

    /// The remote error in an error of a client; none where the error arose elsewhere.
    pub fn of(error: &Error) -> Option<&RemoteError> {
        let Error::Io { source, .. } = error else { return None };
        source.get_ref()?.downcast_ref()
    }

    /// What a client returns: `doing` stands behind "cannot".
    pub(crate) fn into_error(self, doing: &'static str, address: &str) -> Error {
        let source = io::Error::new(self.kind.io_kind(), self);
        Error::Io { doing, path: PathBuf::from(address), source }
    }

    /// What a server answers when its store fails. A key is named only if the request named it: a
    /// layer such as `Buffer` moves the keys of all clients when one of them appends.
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

/// An argument is wrong.
pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// An address, a file of keys or a directory of sockets is refused.
pub(crate) fn refused(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
    Error::Refused { path: path.into(), kind: partd::ErrorKind::Invalid, why: why.into() }
}

/// A call of the operating system failed; `doing` stands behind "cannot".
pub(crate) fn io_error(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
    Error::Io { doing, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_number_and_a_number_without_kind_is_other() {
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
    fn a_client_finds_the_remote_error_again() {
        let remote = RemoteError::new(ErrorKind::Busy, "the server is busy").maybe(true);
        let error = remote.clone().into_error("append through", "ipc:///x");
        assert_eq!(RemoteError::of(&error), Some(&remote));
        let text = error.to_string();
        assert!(text.starts_with("cannot append through ipc:///x: the server is busy;"), "{text}");
    }
}
