//! Converts errors of the engine to Python exceptions with the engine's message.

use std::io;
use std::path::Path;

use pyo3::exceptions::{PyOSError, PyPermissionError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, create_exception};

create_exception!(
    partd,
    StoreError,
    PyOSError,
    "A store cannot be used as asked: the path is not a store, or the store does not allow it."
);
create_exception!(
    partd,
    DamageError,
    PyValueError,
    "Stored bytes are damaged: a checksum differs, or a value cannot be decoded."
);

/// Converts an error of the engine to a Python exception.
///
/// An error of the operating system becomes the subclass of `OSError` for its number, such as
/// `FileNotFoundError`.
pub(crate) fn to_python(error: &partd::Error) -> PyErr {
    use partd::{Error, ErrorKind};
    let sentence = error.to_string();
    match error {
        Error::Io { source, path, .. } => os_error(source, sentence, path),
        Error::StoreFull { path, .. } => {
            let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
            os_error(&full, sentence, path)
        }
        Error::SyncFailed { path } => {
            let failed = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
            os_error(&failed, sentence, path)
        }
        Error::ReadOnly { .. } => PyPermissionError::new_err(sentence),
        Error::Refused { kind: ErrorKind::ReadOnly, .. } => PyPermissionError::new_err(sentence),
        Error::Refused { .. } => StoreError::new_err(sentence),
        Error::Forked { .. } => PyRuntimeError::new_err(sentence),
        Error::Damage { .. } | Error::Missing { .. } | Error::Decode { .. } => {
            DamageError::new_err(sentence)
        }
        _ => PyValueError::new_err(sentence),
    }
}

/// Makes the `OSError` subclass for an I/O error, with its number, the message and the path.
pub(crate) fn os_error(source: &io::Error, sentence: String, path: &Path) -> PyErr {
    match source.raw_os_error() {
        Some(code) => PyOSError::new_err((code, sentence, path.to_owned())),
        None => PyOSError::new_err(sentence),
    }
}

/// Makes the `FileNotFoundError` for a missing directory.
pub(crate) fn missing(path: &Path) -> PyErr {
    let gone = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
    os_error(&gone, "the directory of the store does not exist".to_owned(), path)
}
