//! What is wrong with a store: where, what was expected, what was found, and how bad it is.
//!
//! A problem is evidence, not an error of the program: reading goes on after it.

use std::fmt;
use std::path::{Path, PathBuf};

use partd_format::Evidence;

use crate::path::shown;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost by it: the trace of a power cut or of a crash, which the history survives.
    Scar,
    /// Bytes that were acknowledged are gone or wrong.
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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// In which file, or in which directory where a file is missing.
    pub path: PathBuf,
    /// Where in the file, if it is at one place.
    pub offset: Option<u64>,
    /// What stands there, by its name in SPEC.md.
    pub what: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// What is lost by it, where that is known: a key, a range of numbers.
    pub consequence: Option<String>,
}

impl Problem {
    /// Wraps an error of the format.
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

    /// Says something about a file as a whole.
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

    /// Adds what is lost by it.
    pub fn costs(mut self, consequence: impl Into<String>) -> Problem {
        self.consequence = Some(consequence.into());
        self
    }
}

impl Problem {
    /// Where it is and what stands there.
    #[must_use]
    pub fn place(&self) -> String {
        let (path, what) = (shown(&self.path), &self.what);
        match self.offset {
            Some(offset) => format!("{path}: {what} at offset {offset}"),
            None => format!("{path}: {what}"),
        }
    }

    /// What was expected, what was found, what is lost by it.
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
        write!(f, "{}: {}", self.place(), self.evidence())
    }
}
