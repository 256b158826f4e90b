//! The side keys of `Numpy`, which hold the dtypes.

use crate::{Error, Key, Result};

/// The name of the layer in errors.
pub(super) const NAME: &str = "Numpy";
/// The suffix that turns a key into its side key, which holds the dtype.
pub(super) const SUFFIX: &[u8] = b".dtype";

/// Returns the side key of a key, which holds its dtype.
pub(super) fn side_key(key: &Key) -> Result<Key> {
    if key.as_bytes().ends_with(SUFFIX) {
        return Err(Error::Invalid(format!(
            "{NAME}: key {key} ends in `.dtype`, where this layer stores dtypes; choose another key"
        )));
    }
    Ok(Key::from([key.as_bytes(), SUFFIX].concat()))
}

pub(super) fn side_keys(keys: &[Key]) -> Result<Vec<Key>> {
    keys.iter().map(side_key).collect()
}

/// Returns the keys, and the keys followed by their side keys.
pub(super) fn with_side_keys<K: Into<Key>>(
    keys: impl IntoIterator<Item = K>,
) -> Result<(Vec<Key>, Vec<Key>)> {
    let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
    let all = [keys.clone(), side_keys(&keys)?].concat();
    Ok((keys, all))
}

/// Returns the side key that begins with the prefix although its key does not, if there can be one.
pub(super) fn beside(prefix: &Key) -> Option<Key> {
    // The suffix has a single dot, its first byte, so it can only begin at the last dot of the
    // prefix.
    let dot = prefix.as_bytes().iter().rposition(|byte| *byte == b'.')?;
    let (key, rest) = prefix.as_bytes().split_at(dot);
    SUFFIX.starts_with(rest).then(|| Key::from([key, SUFFIX].concat()))
}
