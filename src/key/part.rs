//! The parts of a tuple key, decoded and shown.

use std::fmt;

use partd_format::tuple::{Integer, Token, Tokens};

use super::Key;

/// A part of a tuple key, returned by [`Key::parts`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TuplePart {
    /// A string or a byte string: both are bytes.
    Bytes(Vec<u8>),
    /// An integer of any type.
    Integer(Integer),
    /// A tuple inside the tuple.
    Tuple(Vec<TuplePart>),
}

impl From<&str> for TuplePart {
    fn from(text: &str) -> TuplePart {
        TuplePart::Bytes(text.into())
    }
}

/// Shows the part as Rust writes it.
impl fmt::Display for TuplePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuplePart::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            TuplePart::Integer(integer) => write!(f, "{integer}"),
            TuplePart::Tuple(parts) => write_tuple(f, parts),
        }
    }
}

impl Key {
    /// Returns the parts of the tuple that the key encodes; a plain key is one part.
    ///
    /// Returns `None` if the bytes encode no tuple, which happens only if the key was made from
    /// bytes with zeros among them, or if its tuples are nested more than 64 deep.
    ///
    /// ```
    /// use partd::{Key, TuplePart};
    /// let key = Key::from(("stage", -3, ("part", 7_u64)));
    /// assert_eq!(
    ///     key.parts().unwrap(),
    ///     [
    ///         TuplePart::from("stage"),
    ///         TuplePart::Integer((-3).into()),
    ///         TuplePart::Tuple(vec!["part".into(), TuplePart::Integer(7.into())]),
    ///     ]
    /// );
    /// assert_eq!(Key::from("plain").parts().unwrap(), ["plain".into()]);
    /// ```
    #[must_use]
    pub fn parts(&self) -> Option<Vec<TuplePart>> {
        // The tuples that enclose the part to be read next, the outermost first.
        let mut outer: Vec<Vec<TuplePart>> = Vec::new();
        let mut parts = Vec::new();
        for token in Tokens::new(&self.0) {
            match token.ok()? {
                Token::Bytes(bytes) => {
                    parts.push(TuplePart::Bytes(bytes.runs().flatten().copied().collect()));
                }
                Token::Integer(integer) => parts.push(TuplePart::Integer(integer)),
                Token::Open => outer.push(std::mem::take(&mut parts)),
                Token::Close => {
                    let tuple = TuplePart::Tuple(std::mem::replace(&mut parts, outer.pop()?));
                    parts.push(tuple);
                }
            }
        }
        Some(parts)
    }
}

/// Formats the key as Rust writes it: a string literal, or a tuple of literals and integers.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parts) = self.parts()
            && !matches!(parts[..], [TuplePart::Bytes(_)])
        {
            return write_tuple(f, &parts);
        }
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

fn write_tuple(f: &mut fmt::Formatter<'_>, parts: &[TuplePart]) -> fmt::Result {
    f.write_str("(")?;
    for (i, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if i > 0 { ", " } else { "" })?;
    }
    f.write_str(if parts.len() == 1 { ",)" } else { ")" })
}
