//! Reading ahead: what a read is about to touch is asked of the disk first, all of it and nothing else.
//!
//! Mappings are advised as random, so a fault brings in one page and waits for it: a queue of depth one. A read
//! therefore looks at a few of its pages, and where one is missing it asks for the exact ranges ahead
//! (`MADV_WILLNEED`), in the order of the log and in a bounded window. Where all is in memory, the look is all it
//! costs.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Segment;
use crate::log::disk::DiskFile;

/// Bytes that a read asks for before it touches them.
pub(crate) const AHEAD_BYTES: u64 = 8 << 20;
/// The pages that one look samples, at most.
const SAMPLES_MAX: usize = 16;
/// A page is sampled for so many spans, and for so many bytes.
const SPANS_PER_SAMPLE: usize = 64;
const BYTES_PER_SAMPLE: u64 = 256 << 10;
/// Pieces of a read that are asked for ahead of the one that is begun, of 1 MiB each.
const AHEAD_PIECES: usize = (AHEAD_BYTES >> 20) as usize;
const PAGE: u64 = 4096;

/// A part of a segment that is about to be read.
#[derive(Debug)]
pub(crate) struct Span<'s, F> {
    pub(crate) segment: &'s Segment<F>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl<F> Clone for Span<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Span<'_, F> {}

impl<F: DiskFile> Span<'_, F> {
    /// The page behind its last one.
    fn end(&self) -> u64 {
        (self.offset + self.len).next_multiple_of(PAGE)
    }

    /// A part of it.
    pub(crate) fn piece(self, at: u64, len: u64) -> Self {
        Span { offset: self.offset + at, len: len.min(self.len.saturating_sub(at)), ..self }
    }

    /// Whether it lies in one page, which a fault brings in as well.
    fn is_one_page(&self) -> bool {
        self.len == 0 || self.offset / PAGE == (self.offset + self.len - 1) / PAGE
    }
}

/// Whether a page of some spans is not in memory, by a few samples; `span` gives the `i`th of `count`.
pub(crate) fn is_missing<'s, F: DiskFile>(
    count: usize,
    bytes: u64,
    span: impl Fn(usize) -> Span<'s, F>,
) -> bool {
    if count == 0 || count == 1 && span(0).is_one_page() {
        return false;
    }
    let wanted = (count / SPANS_PER_SAMPLE).max((bytes / BYTES_PER_SAMPLE) as usize);
    let samples = wanted.clamp(1, SAMPLES_MAX);
    (0..samples).any(|i| {
        let span = span(i * count / samples);
        // Not always the same part of a span; the last sample is its last byte.
        let inside = span.len.saturating_sub(1) * i as u64 / (samples as u64 - 1).max(1);
        span.len > 0 && !span.segment.file().mapping().is_resident(span.offset + inside)
    })
}

/// Asks for spans: sorted by place, neighbours in one call. Does not wait for them.
pub(crate) fn fetch<F: DiskFile>(spans: &mut [Span<'_, F>]) {
    spans.sort_unstable_by_key(|span| (span.segment.id(), span.offset));
    let mut rest = &spans[..];
    while let [first, behind @ ..] = rest {
        let mut end = first.end();
        let is_near = |span: &&Span<'_, F>| {
            let near = span.segment.id() == first.segment.id() && span.offset <= end;
            end = if near { end.max(span.end()) } else { end };
            near
        };
        let joined = behind.iter().take_while(is_near).count();
        first.segment.file().mapping().fetch(first.offset, end - first.offset);
        rest = &behind[joined..];
    }
}

/// Lets the pages of spans that were read leave memory.
pub(crate) fn release<F: DiskFile>(spans: &[Span<'_, F>]) {
    for span in spans {
        span.segment.file().mapping().release(span.offset, span.len);
    }
}

/// The pieces of a read, in the order in which they are begun; each is asked for some pieces before its turn.
pub(crate) struct Ahead<Fetch> {
    count: usize,
    asked: AtomicUsize,
    fetch: Fetch,
}

impl<Fetch: Fn(usize)> Ahead<Fetch> {
    /// `fetch` asks for one of `count` pieces of about 1 MiB.
    pub(crate) fn new(count: usize, fetch: Fetch) -> Self {
        Ahead { count, asked: AtomicUsize::new(0), fetch }
    }

    /// Says that piece `i` is begun.
    pub(crate) fn begin(&self, i: usize) {
        let end = (i + 1 + AHEAD_PIECES).min(self.count);
        let next = |asked| (asked < end).then_some(asked + 1);
        while let Ok(piece) = self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            (self.fetch)(piece);
        }
    }
}
