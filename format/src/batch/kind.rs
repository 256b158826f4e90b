//! The kinds of entries.

/// The effect of an entry on its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Adds the value at the end of the key's value.
    Append,
    /// Replaces the key's value, unless the key has been set since it was last removed, by a
    /// delete, a prefix delete or a clear.
    Set,
    /// Removes the key.
    Delete,
    /// Removes every key. The entry itself has no key.
    Clear,
    /// Removes every key that begins with the entry's key, which is a prefix.
    DeletePrefix,
}

impl Kind {
    pub(super) fn decode(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Append,
            2 => Kind::Set,
            3 => Kind::Delete,
            4 => Kind::Clear,
            5 => Kind::DeletePrefix,
            _ => return None,
        })
    }

    pub(super) fn encode(self) -> u8 {
        match self {
            Kind::Append => 1,
            Kind::Set => 2,
            Kind::Delete => 3,
            Kind::Clear => 4,
            Kind::DeletePrefix => 5,
        }
    }

    /// Whether entries of this kind have a value.
    #[must_use]
    pub fn has_value(self) -> bool {
        matches!(self, Kind::Append | Kind::Set)
    }
}
