//! The ways to write the bytes of a batch to its segment, and which is the best.

use partd_format::batch::Layout;

/// Values of at least this average length are not copied before they are written to the file.
const UNCOPIED_MIN_BYTES: u64 = 1024;
/// Shorter values are gathered if the batch is at least this long.
const GATHERED_MIN_BYTES: u64 = 16 << 10;

/// How the bytes of a batch are written to its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Stored to the mapping: best for pages in memory and for few bytes.
    Mapping,
    /// Written to the file, many values per call: best for fresh pages, which the kernel would zero
    /// first for a mapping.
    File,
    /// Copied into one buffer, which is written to the file: best for many short values, since
    /// the kernel takes longer for each buffer of a call than for the bytes of a short one.
    Gathered,
}

impl Through {
    /// The best way to write a batch to fresh pages.
    pub(crate) fn fresh_pages(layout: &Layout) -> Through {
        if layout.values_len() >= layout.entries() * UNCOPIED_MIN_BYTES {
            Through::File
        } else if layout.values_start() + layout.values_len() >= GATHERED_MIN_BYTES {
            Through::Gathered
        } else {
            Through::Mapping
        }
    }
}
