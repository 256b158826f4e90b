//! Compressions chosen by name at run time.
//!
//! Every compression of the crate has its name here, built in or not, so that an error can say
//! which names there are and which cargo feature a missing one needs.

use crate::{Error, Partd, Result};

/// What opens a layer: over which store, at which level if one was given.
type Open = fn(Box<dyn Partd>, Option<i32>) -> Result<Box<dyn Partd>>;

macro_rules! leveled {
    ($feature:literal, $layer:ident) => {{
        #[cfg(feature = $feature)]
        let open: Option<Open> = Some(|inner, level| {
            Ok(match level {
                Some(level) => Box::new(crate::$layer::with_level(inner, level)?),
                None => Box::new(crate::$layer::new(inner)),
            })
        });
        #[cfg(not(feature = $feature))]
        let open: Option<Open> = None;
        open
    }};
}

macro_rules! plain {
    ($feature:literal, $layer:ident) => {{
        #[cfg(feature = $feature)]
        let open: Option<Open> = Some(|inner, level| match level {
            Some(level) => Err(Error::Invalid(format!(
                "{}: there are no levels to choose from, so {level} cannot be one; leave it out",
                stringify!($layer)
            ))),
            None => Ok(Box::new(crate::$layer::new(inner))),
        });
        #[cfg(not(feature = $feature))]
        let open: Option<Open> = None;
        open
    }};
}

/// The names of all compressions, each with its way to open it where its feature is on. The names
/// are those of the features.
const COMPRESSIONS: [(&str, Option<Open>); 6] = [
    ("zlib", leveled!("zlib", Zlib)),
    ("snappy", plain!("snappy", Snappy)),
    ("lz4", plain!("lz4", Lz4)),
    ("bz2", leveled!("bz2", Bz2)),
    ("blosc", leveled!("blosc", Blosc)),
    ("zstd", leveled!("zstd", Zstd)),
];

/// The names that [`compression`] takes in this build.
pub fn compressions() -> impl Iterator<Item = &'static str> {
    COMPRESSIONS.into_iter().filter(|(_, open)| open.is_some()).map(|(name, _)| name)
}

/// A compressing layer chosen at run time: by name, in any case, and at a level if it is given
/// behind a colon.
///
/// The names are `zlib`, `snappy`, `lz4`, `bz2`, `blosc` and `zstd`, as far as the cargo features
/// of the same names are on; [`compressions`] lists them.
///
/// ```
/// # #[cfg(feature = "zlib")] {
/// use partd::{Dict, Partd, compression};
/// let p = compression("zlib:9", Box::new(Dict::new()))?;
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// assert_eq!(p.get("x")?, b"Hello world!");
/// # }
/// let unknown = compression("zip", Box::new(partd::Dict::new())).err().unwrap();
/// assert!(unknown.to_string().starts_with("there is no compression \"zip\"; "));
/// # Ok::<(), partd::Error>(())
/// ```
pub fn compression(name: &str, inner: Box<dyn Partd>) -> Result<Box<dyn Partd>> {
    let (bare, level) = match name.split_once(':') {
        Some((bare, level)) => {
            let number = level.parse().map_err(|_| {
                Error::Invalid(format!(
                    "compression {name:?}: the level {level:?} is not a number; write for \
                     example \"zlib:9\""
                ))
            })?;
            (bare, Some(number))
        }
        None => (name, None),
    };
    let found = COMPRESSIONS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(bare));
    match found {
        Some((_, Some(open))) => open(inner, level),
        Some((known, None)) => Err(Error::Invalid(format!(
            "the compression {known:?} is not in this build: turn on the cargo feature \
             `{known}`; {}",
            possible()
        ))),
        None => Err(Error::Invalid(format!("there is no compression {bare:?}; {}", possible()))),
    }
}

/// Which names are possible, and which would be with more features.
fn possible() -> String {
    let names = |built_in: bool| -> Vec<&str> {
        let some = COMPRESSIONS.into_iter().filter(|(_, open)| open.is_some() == built_in);
        some.map(|(name, _)| name).collect()
    };
    let here = match names(true) {
        here if here.is_empty() => "none is built in".to_owned(),
        here => format!("possible here are {}", here.join(", ")),
    };
    match names(false) {
        missing if missing.is_empty() => here,
        missing => {
            format!("{here}; with the cargo features of the same names also {}", missing.join(", "))
        }
    }
}
