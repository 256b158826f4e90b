//! Reports to the crate `tracing`: spans of long operations, and events that an operator should
//! see.
//!
//! Without the feature `tracing`, every function here is empty, so its callers need no `cfg`. All
//! spans and events have the target `partd` and the path of the store or file.

use std::fmt::Display;
use std::path::Path;

use crate::error::Error;

/// A span that ends when it is dropped.
#[cfg(feature = "tracing")]
pub(crate) type Span = tracing::span::EnteredSpan;

/// A span that ends when it is dropped.
#[cfg(not(feature = "tracing"))]
#[derive(Debug)]
pub(crate) struct Span;

/// Enters a span. Its fields are numbers and flags, then a semicolon, then what is shown as text.
#[cfg(feature = "tracing")]
macro_rules! span {
    ($name:literal, $($field:ident = $value:expr),*; $($shown:ident = $text:expr),*) => {
        tracing::debug_span!(
            target: "partd", $name, $($field = $value,)* $($shown = tracing::field::display($text)),*
        )
        .entered()
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! span {
    ($name:literal, $($field:ident = $value:expr),*; $($shown:ident = $text:expr),*) => {{
        let _ = ($($value,)* $($text),*);
        Span
    }};
}

/// Reports an event; the fields are those of `span`.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $what:literal, $($field:ident = $value:expr),*; $($shown:ident = $text:expr),*) => {
        tracing::event!(
            target: "partd",
            tracing::Level::$level,
            $($field = $value,)*
            $($shown = tracing::field::display($text),)*
            $what
        )
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, $what:literal, $($field:ident = $value:expr),*; $($shown:ident = $text:expr),*) => {{
        let _ = ($($value,)* $($text),*);
    }};
}

/// The span of an open, which contains that of a recovery.
#[inline]
pub(crate) fn open(path: &Path, read_only: bool) -> Span {
    span!("open", read_only = read_only; path = path.display())
}

/// The span of a recovery: the scan of all segments, and the repair.
#[inline]
pub(crate) fn recovery(path: &Path) -> Span {
    span!("recovery", ; path = path.display())
}

/// Reports a finished recovery.
#[inline]
pub(crate) fn recovered(path: &Path, sequence: u64) {
    event!(INFO, "recovered the store", sequence = sequence; path = path.display());
}

/// The span of a sync up to a sequence number, including the wait for another leader.
#[inline]
pub(crate) fn sync(path: &Path, sequence: u64) -> Span {
    span!("sync", sequence = sequence; path = path.display())
}

/// Reports that a sync was tried and failed: the store acknowledges nothing as durable any more.
#[inline]
pub(crate) fn sync_failed(path: &Path, error: &std::io::Error) {
    event!(ERROR, "a sync failed", ; path = path.display(), error = error);
}

/// The span of a compaction with all its runs.
#[inline]
pub(crate) fn compaction(path: &Path) -> Span {
    span!("compaction", ; path = path.display())
}

/// Reports a finished run of a compaction.
#[inline]
pub(crate) fn compacted(path: &Path, segments_replaced: u64, bytes_freed: u64) {
    event!(
        DEBUG, "compacted segments", segments_replaced = segments_replaced, bytes_freed = bytes_freed;
        path = path.display()
    );
}

/// Reports the error of an operation if the disk, a quota or the store's size limit is exhausted.
#[inline]
pub(crate) fn out_of_space(path: &Path, operation: &'static str, error: &Error) {
    if error.is_out_of_space() {
        event!(WARN, "no space", operation = operation; path = path.display(), error = error);
    }
}

/// Reports an error of work that no caller waits for.
#[inline]
pub(crate) fn background_error(path: &Path, task: &'static str, error: &dyn Display) {
    event!(WARN, "background work failed", task = task; path = path.display(), error = error);
}

/// Reports that the segment of a dead writer was sealed.
#[inline]
pub(crate) fn orphan_sealed(path: &Path, slot: u16, segment: u64) {
    event!(
        WARN, "sealed the segment of a dead writer", slot = u64::from(slot), segment = segment;
        path = path.display()
    );
}
