//! The encoding layers: compatibility with Python, limits, and typed values.
//!
//! One test binary, since each binary links the same libraries again; one file per behaviour.

#[cfg(feature = "full")]
mod arrow_alignment;
#[cfg(feature = "full")]
mod arrow_gather;
#[cfg(feature = "full")]
mod arrow_joins;
#[cfg(feature = "full")]
mod arrow_sizes;
mod compression;
#[cfg(feature = "full")]
mod golden;
#[cfg(feature = "full")]
mod limits;
#[cfg(feature = "full")]
mod mutations;
#[cfg(feature = "full")]
mod nesting;
#[cfg(feature = "full")]
mod python_interop;
#[cfg(feature = "full")]
mod typed;

use partd_testkit::counted;
#[cfg(feature = "full")]
use partd_testkit::values;
