//! The benchmark of whole queries that spill through partd. This library has the session of the
//! README, which the compiler checks here.

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
