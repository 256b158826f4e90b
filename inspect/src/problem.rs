//! Problems found in a store: where, what was expected, what was found, and how severe it is.
//!
//! A problem is a finding, not an error of the program: reading continues after it.

use std::fmt;
use std::path::{Path, PathBuf};

use partd_format::Evidence;

use crate::path::shown;

/// How severe a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The trace of a power cut or a crash; nothing acknowledged is lost.
    Scar,
    /// Acknowledged bytes are missing or wrong.
    Damage,
}

impl Severity {
    /// The word for it in tables and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Scar => "scar",
            Severity::Damage => "damage",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How severe it is.
    pub severity: Severity,
    /// The file, or the directory in which a file is missing.
    pub path: PathBuf,
    /// The offset in the file, if there is a single one.
    pub offset: Option<u64>,
    /// The name of the part that is wrong, as in SPEC.md.
    pub what: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// The loss, if it is known: a key, or a range of sequence numbers.
    pub consequence: Option<String>,
}

impl Problem {
    /// Creates a problem from an error of the format.
    #[must_use]
    pub fn format(severity: Severity, path: &Path, error: &partd_format::Error) -> Problem {
        let text = |evidence: &Evidence| evidence.to_string();
        Problem {
            severity,
            path: path.to_owned(),
            offset: Some(error.offset),
            what: error.what.to_owned(),
            expected: text(&error.expected),
            found: text(&error.found),
            consequence: None,
        }
    }

    /// Creates a problem of a whole file, without an offset.
    pub fn file(
        severity: Severity,
        path: &Path,
        what: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Problem {
        Problem {
            severity,
            path: path.to_owned(),
            offset: None,
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
            consequence: None,
        }
    }

    /// Adds what is lost.
    pub fn with_consequence(mut self, consequence: impl Into<String>) -> Problem {
        self.consequence = Some(consequence.into());
        self
    }
}

impl Problem {
    /// The file, the part that is wrong, and its offset.
    #[must_use]
    pub fn location(&self) -> String {
        let (path, what) = (shown(&self.path), &self.what);
        match self.offset {
            Some(offset) => format!("{path}: {what} at offset {offset}"),
            None => format!("{path}: {what}"),
        }
    }

    /// The expected and the found value, and the loss.
    #[must_use]
    pub fn evidence(&self) -> String {
        let Problem { expected, found, .. } = self;
        match &self.consequence {
            Some(consequence) => format!("expected {expected}, found {found}; {consequence}"),
            None => format!("expected {expected}, found {found}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location(), self.evidence())
    }
}
