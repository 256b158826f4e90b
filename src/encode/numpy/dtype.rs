//! The dtypes of [`Numpy`]: units of dates and durations, and the comparison with the stored dtype.

use super::element::Element;
use super::side::NAME;
use super::{Numpy, bad};
use crate::{Error, Key, Result};

/// The units of dates and durations.
const UNITS: [&str; 13] = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"];

impl<P> Numpy<i64, P> {
    /// Creates a layer that stores dates: numbers of units since 1970, `datetime64` in numpy.
    ///
    /// Units are `Y`, `M`, `W`, `D`, `h`, `m`, `s`, `ms`, `us`, `ns`, `ps`, `fs` and `as`, or a
    /// multiple such as `25s`. "Not a time" is `i64::MIN`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other unit.
    pub fn datetime64(inner: P, unit: &str) -> Result<Numpy<i64, P>> {
        Ok(Numpy::with_dtype(inner, format!("<M8[{}]", checked_unit(unit)?).into()))
    }

    /// Creates a layer that stores durations: numbers of units, `timedelta64` in numpy. The units
    /// are those of [`datetime64`](Numpy::datetime64).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other unit.
    pub fn timedelta64(inner: P, unit: &str) -> Result<Numpy<i64, P>> {
        Ok(Numpy::with_dtype(inner, format!("<m8[{}]", checked_unit(unit)?).into()))
    }
}

fn checked_unit(unit: &str) -> Result<&str> {
    let bare = unit.trim_start_matches(|c: char| c.is_ascii_digit());
    let count = &unit[..unit.len() - bare.len()];
    let sound =
        count.is_empty() || (count.parse().is_ok_and(|n: i32| n > 1) && !count.starts_with('0'));
    if sound && UNITS.contains(&bare) {
        return Ok(unit);
    }
    Err(Error::Invalid(format!(
        "{NAME}: there is no unit of time {unit:?}; choose from {}, or a multiple such as 25s",
        UNITS.join(", ")
    )))
}

impl<T: Element, P> Numpy<T, P> {
    /// Returns whether the stored elements are big-endian. It is an error if the dtype differs in
    /// more than the byte order.
    pub(super) fn is_swapped(&self, key: &Key, stored: &[u8]) -> Result<bool> {
        if stored == self.dtype.as_bytes() {
            return Ok(false);
        }
        match (stored.split_first(), self.dtype.as_bytes().split_first()) {
            (Some((b'>', stored)), Some((b'<', own))) if stored == own => Ok(true),
            _ => Err(self.mismatch(key, stored)),
        }
    }

    pub(super) fn mismatch(&self, key: &Key, stored: &[u8]) -> Error {
        let own = &self.dtype;
        let shown = stored[..stored.len().min(64)].escape_ascii();
        let stored = match stored {
            b"" => {
                let reason = "the key has bytes but no dtype under its `.dtype` key, so a Numpy \
                              layer did not write them";
                return bad(key, 0, reason.to_owned());
            }
            b"|O" | b"O" => {
                return bad(
                    key,
                    0,
                    "the key holds pickled Python objects (dtype |O), which are not read because a \
                     pickle can run any code. Store them through `Pickle` or `Msgpack`"
                        .to_owned(),
                );
            }
            _ => format!("an array of dtype {shown}"),
        };
        Error::Mismatch {
            layer: NAME,
            key: key.clone(),
            stored,
            wanted: format!("dtype {own}"),
            advice: "use a layer of the stored type, or delete the key first".to_owned(),
        }
    }
}
