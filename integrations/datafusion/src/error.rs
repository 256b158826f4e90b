//! Errors of partd as errors of DataFusion, and those as `io::Error`s that lose nothing.
//!
//! A spill writer is an [`io::Write`], so its errors pass through `io::Error` and `ArrowError`
//! before an operator returns them. Invariant: `DataFusionError::find_root` leads back to the error
//! that the writer had.

use std::error::Error;
use std::{fmt, io};

use datafusion_common::DataFusionError;
use partd::ErrorKind;

/// Converts an error of the store.
pub(crate) fn of_store(error: partd::Error) -> DataFusionError {
    match error.kind() {
        // A limit that the program has set, such as a quota.
        ErrorKind::StoreFull => DataFusionError::ResourcesExhausted(error.to_string()),
        ErrorKind::DiskFull | ErrorKind::Io => DataFusionError::IoError(error.into()),
        _ => DataFusionError::External(Box::new(error)),
    }
}

/// Wraps an error for a caller of [`io::Write`].
pub(crate) fn into_io(error: DataFusionError) -> io::Error {
    let kind = match &error {
        DataFusionError::IoError(error) => error.kind(),
        DataFusionError::ResourcesExhausted(_) => io::ErrorKind::QuotaExceeded,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, Carried(error))
}

/// An error that is its own source. `io::Error::source` returns the source of the error inside it
/// and skips that error itself, so without this wrapper `find_root` would not see it.
struct Carried(DataFusionError);

impl Error for Carried {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use datafusion_common::arrow::error::ArrowError;

    use super::*;

    /// Sends an error the way that one of a spill writer takes.
    fn through_arrow(error: DataFusionError) -> DataFusionError {
        DataFusionError::from(ArrowError::from(into_io(error)))
    }

    #[test]
    fn the_root_of_a_writers_error_is_the_error_that_it_had() {
        let quota = through_arrow(DataFusionError::ResourcesExhausted("the quota".into()));
        assert!(matches!(quota.find_root(), DataFusionError::ResourcesExhausted(_)), "{quota:?}");
        assert!(quota.to_string().contains("the quota"), "{quota}");

        let full = partd::Error::Io {
            doing: "append to",
            path: "/store".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        let full = through_arrow(of_store(full));
        let DataFusionError::IoError(root) = full.find_root() else { panic!("{full:?}") };
        assert_eq!(root.kind(), io::ErrorKind::StorageFull);
        let of_partd = root.get_ref().and_then(|error| error.downcast_ref::<partd::Error>());
        assert!(matches!(of_partd, Some(partd::Error::Io { .. })), "{root:?}");
    }
}
