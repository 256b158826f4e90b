//! The directories of backups, and what a finished backup promises (I10).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Violation;

/// The directory of the backup with a number.
pub(super) fn dir(number: u8) -> PathBuf {
    PathBuf::from(format!("/backup {number}"))
}

pub(super) fn violation(text: impl Into<String>) -> Violation {
    Violation::new("I10", text)
}

/// Fails if one of the finished backups is not among those that are complete.
pub(super) fn check_finished(
    complete: &BTreeSet<PathBuf>,
    finished: &BTreeMap<PathBuf, u64>,
) -> Result<(), Violation> {
    match finished.keys().find(|path| !complete.contains(*path)) {
        Some(path) => {
            Err(violation(format!("{} was finished, and is not complete", path.display())))
        }
        None => Ok(()),
    }
}
