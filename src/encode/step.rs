//! One operation of a batch, before its value is encoded.

use crate::Key;

/// An [`Op`](crate::partd::Op) whose value has the codec's input type.
pub(crate) enum Step<'a, In: ?Sized> {
    Append(&'a Key, &'a In),
    Set(&'a Key, &'a In),
    Delete(&'a Key),
    Clear,
    DeletePrefix(&'a Key),
}

impl<'a, In: ?Sized> Step<'a, In> {
    /// Returns the key and the value, or `None` for a removal.
    pub(crate) fn key_and_value(&self) -> Option<(&'a Key, &'a In)> {
        match *self {
            Step::Append(key, value) | Step::Set(key, value) => Some((key, value)),
            Step::Delete(_) | Step::Clear | Step::DeletePrefix(_) => None,
        }
    }
}
