//! Compressions chosen at run time by a string: a name, a level and other settings.
//!
//! The table lists every compression of the crate, built in or not, so that an error can name the
//! possible ones and the cargo feature that a missing one needs.

use crate::{Error, Partd, Result};

/// The settings after the name in a string that chooses a compression.
#[derive(Default)]
struct Settings<'a> {
    level: Option<i32>,
    max_decoded_bytes: Option<usize>,
    element_bytes: Option<usize>,
    inner: Option<&'a str>,
}

/// A function that opens a layer over a store.
type Open = fn(Box<dyn Partd>, &Settings<'_>) -> Result<Box<dyn Partd>>;

/// Gives the function that opens a layer, or `None` if the feature of the layer is off.
macro_rules! built_in {
    ($feature:literal, $open:ident, $layer:ident) => {{
        #[cfg(feature = $feature)]
        let open: Option<Open> = Some(|inner, settings| {
            let layer = $open!($layer, inner, settings);
            Ok(match settings.max_decoded_bytes {
                Some(bytes) => Box::new(layer.with_max_decoded_bytes(bytes)),
                None => Box::new(layer),
            })
        });
        #[cfg(not(feature = $feature))]
        let open: Option<Open> = None;
        open
    }};
}

/// Opens a layer with levels.
#[allow(unused_macros, reason = "which ones are used depends on the features")]
macro_rules! leveled {
    ($layer:ident, $inner:expr, $settings:expr) => {{
        only_blosc(stringify!($layer), $settings)?;
        match $settings.level {
            Some(level) => crate::$layer::with_level($inner, level)?,
            None => crate::$layer::new($inner),
        }
    }};
}

/// Opens a layer without levels.
#[allow(unused_macros, reason = "which ones are used depends on the features")]
macro_rules! plain {
    ($layer:ident, $inner:expr, $settings:expr) => {{
        only_blosc(stringify!($layer), $settings)?;
        if let Some(level) = $settings.level {
            return Err(Error::Invalid(format!(
                "{}: this compression has no levels; leave out the {level}",
                stringify!($layer)
            )));
        }
        crate::$layer::new($inner)
    }};
}

/// Opens Blosc, which has levels and more settings.
#[allow(unused_macros, reason = "which ones are used depends on the features")]
macro_rules! blosc {
    ($layer:ident, $inner:expr, $settings:expr) => {{
        let mut layer = match $settings.level {
            Some(level) => crate::$layer::with_level($inner, level)?,
            None => crate::$layer::new($inner),
        };
        if let Some(bytes) = $settings.element_bytes {
            layer = layer.with_element_bytes(bytes)?;
        }
        if let Some(name) = $settings.inner {
            layer = layer.with_inner(name)?;
        }
        layer
    }};
}

/// The name of each compression, which is the name of its feature, and the function that opens it
/// if the feature is on.
const COMPRESSIONS: [(&str, Option<Open>); 6] = [
    ("zlib", built_in!("zlib", leveled, Zlib)),
    ("snappy", built_in!("snappy", plain, Snappy)),
    ("lz4", built_in!("lz4", plain, Lz4)),
    ("bz2", built_in!("bz2", leveled, Bz2)),
    ("blosc", built_in!("blosc", blosc, Blosc)),
    ("zstd", built_in!("zstd", leveled, Zstd)),
];

/// Returns the names that [`compression`] accepts in this build.
pub fn compressions() -> impl Iterator<Item = &'static str> {
    COMPRESSIONS.into_iter().filter(|(_, open)| open.is_some()).map(|(name, _)| name)
}

/// Creates a compressing layer chosen at run time by a string: a name in any case, then settings
/// after colons.
///
/// The names are `zlib`, `snappy`, `lz4`, `bz2`, `blosc` and `zstd`, each if the cargo feature of
/// the same name is on; [`compressions`] lists them. The settings are:
///
/// - a number: the level, if the compression has levels;
/// - `max_decoded_bytes=` and a number: see
///   [`with_max_decoded_bytes`](crate::Encode::with_max_decoded_bytes);
/// - for `blosc`, `element_bytes=` and a number, and `inner=` and the name of an inner codec.
///
/// Examples are `zlib:9` and `blosc:5:element_bytes=4:inner=lz4`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the name is unknown or its feature is off,
/// or if a setting is unknown, repeated or out of range.
///
/// ```
/// # #[cfg(feature = "zlib")] {
/// use partd::{Dict, Partd, compression};
/// let p = compression("zlib:9:max_decoded_bytes=1000000", Box::new(Dict::new()))?;
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # }
/// let unknown = partd::compression("zip", Box::new(partd::Dict::new())).err().unwrap();
/// assert!(unknown.to_string().starts_with("there is no compression \"zip\"; "));
/// # Ok::<(), partd::Error>(())
/// ```
pub fn compression(name: &str, inner: Box<dyn Partd>) -> Result<Box<dyn Partd>> {
    let mut parts = name.split(':');
    let bare = parts.next().unwrap_or_default();
    let mut settings = Settings::default();
    for part in parts {
        settings.set(name, part)?;
    }
    find(&COMPRESSIONS, bare)?(inner, &settings)
}

/// Finds the function that opens a compression.
fn find(table: &[(&str, Option<Open>)], name: &str) -> Result<Open> {
    match table.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, Some(open))) => Ok(*open),
        Some((known, None)) => Err(Error::Invalid(format!(
            "the compression {known:?} is not in this build: turn on the cargo feature `{known}`; \
             {}",
            possible(table)
        ))),
        None => {
            Err(Error::Invalid(format!("there is no compression {name:?}; {}", possible(table))))
        }
    }
}

impl<'a> Settings<'a> {
    /// Applies one part of the string.
    fn set(&mut self, text: &str, part: &'a str) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid(format!("compression {text:?}: {what}")));
        let (setting, value) = part.split_once('=').unwrap_or(("", part));
        let bytes = || value.parse::<usize>().ok();
        let is_set = match setting {
            "" => {
                let Ok(level) = value.parse() else {
                    return invalid(format!(
                        "the level {value:?} is not a number; write for example \"zlib:9\""
                    ));
                };
                self.level.replace(level).is_some()
            }
            "inner" => self.inner.replace(value).is_some(),
            "max_decoded_bytes" | "element_bytes" => {
                let Some(bytes) = bytes() else {
                    return invalid(format!("{setting} is not a number of bytes: {value:?}"));
                };
                let place = match setting {
                    "element_bytes" => &mut self.element_bytes,
                    _ => &mut self.max_decoded_bytes,
                };
                place.replace(bytes).is_some()
            }
            _ => {
                return invalid(format!(
                    "there is no setting {setting:?}; the settings are a level, \
                     max_decoded_bytes, and for blosc element_bytes and inner"
                ));
            }
        };
        match is_set {
            true => invalid(format!("{part:?} repeats a setting; give it once")),
            false => Ok(()),
        }
    }
}

/// Refuses the settings of Blosc for another layer.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "zstd"
))]
fn only_blosc(layer: &str, settings: &Settings<'_>) -> Result<()> {
    match settings.element_bytes.is_some() || settings.inner.is_some() {
        true => Err(Error::Invalid(format!(
            "{layer}: element_bytes and inner are settings of blosc only; leave them out"
        ))),
        false => Ok(()),
    }
}

/// Returns a sentence about the possible names, and the names that more features would add.
fn possible(table: &[(&str, Option<Open>)]) -> String {
    let names = |built_in: bool| -> Vec<&str> {
        let some = table.iter().filter(|(_, open)| open.is_some() == built_in);
        some.map(|(name, _)| *name).collect()
    };
    let here = match names(true) {
        here if here.is_empty() => "none is built in".to_owned(),
        here => format!("this build has {}", here.join(", ")),
    };
    match names(false) {
        missing if missing.is_empty() => here,
        missing => {
            format!("{here}; the cargo features of the same names add {}", missing.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_whose_feature_is_off_is_an_error_that_names_the_feature() {
        let open: Open = |inner, _| Ok(inner);
        let refused = |table: &[(&str, Option<Open>)], name: &str| {
            find(table, name).err().map(|error| error.to_string())
        };
        let some = [("zlib", Some(open)), ("bz2", None), ("zstd", None)];
        assert_eq!(refused(&some, "ZLIB"), None);
        assert_eq!(
            refused(&some, "BZ2").unwrap(),
            "the compression \"bz2\" is not in this build: turn on the cargo feature `bz2`; \
             this build has zlib; the cargo features of the same names add bz2, zstd"
        );
        assert_eq!(
            refused(&[("bz2", None)], "zip").unwrap(),
            "there is no compression \"zip\"; none is built in; the cargo features of the same \
             names add bz2"
        );
    }
}
