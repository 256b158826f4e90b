//! The format's error: an offset, the name of the field, what was expected and what was found.

use core::fmt;

/// Bytes that violate the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The offset of the wrong bytes in the file.
    pub offset: u64,
    /// The name in SPEC.md of the field at that offset.
    pub what: &'static str,
    /// What was expected.
    pub expected: Evidence,
    /// What was found.
    pub found: Evidence,
}

/// One side of a comparison that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// Exactly this number.
    Number(u64),
    /// Exactly these bits.
    Bits(u64),
    /// This number or less.
    AtMost(u64),
    /// This number or more.
    AtLeast(u64),
    /// A number from the first to the second, both included.
    Between(u64, u64),
    /// A description in words.
    Text(&'static str),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Evidence::Number(n) => write!(f, "{n}"),
            Evidence::Bits(n) => write!(f, "{n:#x}"),
            Evidence::AtMost(n) => write!(f, "at most {n}"),
            Evidence::AtLeast(n) => write!(f, "at least {n}"),
            Evidence::Between(first, last) => write!(f, "{first} to {last}"),
            Evidence::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { offset, what, expected, found } = self;
        write!(f, "{what} at offset {offset}: expected {expected}, found {found}")
    }
}

impl core::error::Error for Error {}

impl Error {
    /// Reports a number that should have been exactly `expected`.
    pub(crate) fn number(offset: u64, what: &'static str, expected: u64, found: u64) -> Error {
        Error { offset, what, expected: Evidence::Number(expected), found: Evidence::Number(found) }
    }

    /// Reports bits (a checksum, a magic) that differ from `expected`.
    pub(crate) fn bits(offset: u64, what: &'static str, expected: u64, found: u64) -> Error {
        Error { offset, what, expected: Evidence::Bits(expected), found: Evidence::Bits(found) }
    }

    /// Reports a number above `limit`.
    pub(crate) fn at_most(offset: u64, what: &'static str, limit: u64, found: u64) -> Error {
        Error { offset, what, expected: Evidence::AtMost(limit), found: Evidence::Number(found) }
    }

    /// Reports a number outside a range.
    pub(crate) fn between(
        offset: u64,
        what: &'static str,
        (first, last): (u64, u64),
        found: u64,
    ) -> Error {
        let expected = Evidence::Between(first, last);
        Error { offset, what, expected, found: Evidence::Number(found) }
    }

    /// Reports a number below `limit`.
    pub(crate) fn at_least(offset: u64, what: &'static str, limit: u64, found: u64) -> Error {
        Error { offset, what, expected: Evidence::AtLeast(limit), found: Evidence::Number(found) }
    }
}
