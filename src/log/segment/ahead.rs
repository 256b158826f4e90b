//! Read-ahead: a read asks the disk for exactly the ranges that it is about to touch.
//!
//! Mappings are advised as random, so a page fault loads one page and waits for it: a queue depth
//! of one. A read therefore samples some of its pages. If one is missing, it requests the exact
//! ranges ahead (`MADV_WILLNEED`), in log order and in a bounded window. If all are in memory,
//! sampling is the only cost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::segment::Segment;
use crate::log::segment::extent::Extent;

/// How far ahead of its position a read requests bytes.
pub(crate) const AHEAD_BYTES: u64 = 8 << 20;
/// The maximum number of spans that one check samples.
const SAMPLES_MAX: usize = 8;
/// A check samples one span per this many spans, or per this many bytes, whichever gives more
/// samples.
const SPANS_PER_SAMPLE: usize = 16;
const BYTES_PER_SAMPLE: u64 = 256 << 10;
/// Bytes requested in one step, sorted by position.
pub(crate) const STEP_BYTES: u64 = 1 << 20;
/// After a step that was not in memory, this many steps are requested without a check.
pub(crate) const UNCHECKED_AFTER_MISS: u32 = 8;
/// How far behind the read position pages are released: another thread may still read them.
pub(crate) const RELEASE_BEHIND_BYTES: u64 = 4 << 20;
/// A long value is read in pieces of this many bytes.
const LONG_PIECE_BYTES: usize = 1 << 20;
/// In a span of at least this length, a sample is a stretch of pages instead of single ones.
const STRETCH_MIN_BYTES: u64 = 32 << 10;
/// The maximum number of pages in a stretch, which one call checks.
const PAGES_PER_CALL: usize = (BYTES_PER_SAMPLE / PAGE) as usize;
const PAGE: u64 = 4096;

/// A range of a segment that is about to be read.
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
    /// The offset of the first page after the span.
    fn end(&self) -> u64 {
        (self.offset + self.len).next_multiple_of(PAGE)
    }

    /// The part of at most `len` bytes that begins at `at` in the span.
    pub(crate) fn piece(self, at: u64, len: u64) -> Self {
        Span { offset: self.offset + at, len: len.min(self.len.saturating_sub(at)), ..self }
    }

    /// Whether the span is within one page: a fault loads it just as fast.
    fn is_one_page(&self) -> bool {
        self.len == 0 || self.offset / PAGE == (self.offset + self.len - 1) / PAGE
    }
}

impl<F: DiskFile> Segment<F> {
    /// Returns the bytes of an extent after comparing their checksum.
    pub(crate) fn checked_value(&self, extent: &Extent) -> Result<&[u8]> {
        let bytes = self.value(extent);
        let mut hasher = self.value_hasher();
        if extent.len() <= 2 * LONG_PIECE_BYTES as u64 {
            hasher.update(bytes);
        } else {
            let ahead = Ahead::new([self.span(extent)], false);
            for piece in bytes.chunks(LONG_PIECE_BYTES) {
                ahead.begin(piece.len() as u64);
                hasher.update(piece);
            }
        }
        self.compare(extent, hasher.finalize())?;
        Ok(bytes)
    }

    /// The span of an extent.
    #[inline]
    pub(crate) fn span(&self, extent: &Extent) -> Span<'_, F> {
        Span { segment: self, offset: extent.offset(), len: extent.len() }
    }
}

/// Whether some span is not in memory, judged by a few samples; `span` returns the `i`th of `count`
/// spans.
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
        let mapping = span.segment.file().mapping();
        let is_resident = |at| mapping.is_resident(span.offset + at);
        if span.len >= STRETCH_MIN_BYTES {
            // Only a part of a long value may be in memory, so each sample checks a stretch that
            // begins elsewhere.
            let at = span.len / samples as u64 * i as u64;
            let (len, mut pages) = (span.len - at, [1; PAGES_PER_CALL]);
            return !mapping.are_resident(span.offset + at, len, &mut pages);
        }
        // Sample both ends, since a neighbour may have loaded the page that it shares with this
        // value.
        span.len > 0 && !(is_resident(0) && (span.is_one_page() || is_resident(span.len - 1)))
    })
}

/// Requests spans, sorted by position, with one call for neighbours. Does not wait.
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

/// Releases the pages of spans that were read.
pub(crate) fn release<F: DiskFile>(spans: &[Span<'_, F>]) {
    for span in spans {
        span.segment.file().mapping().release(span.offset, span.len);
    }
}

/// A read of many spans that requests later spans while earlier ones are read.
#[derive(Debug)]
pub(crate) struct Ahead<'s, F: DiskFile, I> {
    /// Bytes whose read has begun, and a copy of `requests.requested` that is read without the
    /// lock.
    begun: AtomicU64,
    requested: AtomicU64,
    requests: Mutex<Requests<'s, F, I>>,
}

#[derive(Debug)]
struct Requests<'s, F, I> {
    spans: I,
    /// The rest of a span that was requested in part.
    rest: Option<Span<'s, F>>,
    /// Bytes covered by the steps so far.
    requested: u64,
    /// Requested spans that were not in memory, with the value of `requested` after them. Empty if
    /// they are not to be released.
    behind: VecDeque<(u64, Vec<Span<'s, F>>)>,
    release: bool,
    /// How many more steps are requested without a check: after one missing span, others are
    /// likely.
    unchecked_steps: u32,
}

impl<'s, F: DiskFile, I: Iterator<Item = Span<'s, F>>> Ahead<'s, F, I> {
    /// Takes the spans in the order in which they will be read. With `release`, spans that were not
    /// in memory are released some steps after they were read.
    pub(crate) fn new(spans: impl IntoIterator<IntoIter = I>, release: bool) -> Self {
        let spans = spans.into_iter();
        let behind = VecDeque::new();
        let requests =
            Requests { spans, rest: None, requested: 0, behind, release, unchecked_steps: 0 };
        Ahead {
            begun: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            requests: Mutex::new(requests),
        }
    }

    /// Does the same as [`new`](Self::new) after a check found a span missing. Every step is then
    /// requested: neighbours may have loaded shared pages, and a check that samples only those
    /// would conclude that all are in memory.
    pub(crate) fn of_missing(spans: impl IntoIterator<IntoIter = I>, release: bool) -> Self {
        let mut ahead = Ahead::new(spans, release);
        ahead.requests.get_mut().unwrap_or_else(PoisonError::into_inner).unchecked_steps = u32::MAX;
        ahead
    }

    /// Records that the next `len` bytes are about to be read, and requests the steps ahead of
    /// them.
    pub(crate) fn begin(&self, len: u64) {
        let before = self.begun.fetch_add(len, Ordering::Relaxed);
        let mut requests = match self.requests.try_lock() {
            Ok(requests) => requests,
            // Another thread holds the lock and has already requested these bytes.
            Err(_) if self.requested.load(Ordering::Relaxed) >= before + len => return,
            Err(_) => self.requests.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let mut begun = before + len.min(AHEAD_BYTES);
        while requests.requested < begun + AHEAD_BYTES && requests.request_step(before) {
            self.requested.store(requests.requested, Ordering::Relaxed);
            begun = begun.max(self.begun.load(Ordering::Relaxed).min(begun + AHEAD_BYTES));
        }
        while let Some((end, _)) = requests.behind.front()
            && end + RELEASE_BEHIND_BYTES <= before
        {
            let (_, spans) = requests.behind.pop_front().unwrap_or_default();
            release(&spans);
        }
    }
}

impl<F: DiskFile, I> Drop for Ahead<'_, F, I> {
    fn drop(&mut self) {
        let requests = self.requests.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, spans) in requests.behind.drain(..) {
            release(&spans);
        }
    }
}

impl<'s, F: DiskFile, I: Iterator<Item = Span<'s, F>>> Requests<'s, F, I> {
    /// Requests the next step, unless it ends before `begun` and is therefore already read. Returns
    /// false if there is no step left.
    fn request_step(&mut self, begun: u64) -> bool {
        let (mut spans, mut bytes) = (Vec::new(), 0);
        while bytes < STEP_BYTES {
            let Some(span) = self.rest.take().or_else(|| self.spans.next()) else { break };
            let now = span.piece(0, STEP_BYTES);
            self.rest = (now.len < span.len).then(|| span.piece(now.len, u64::MAX));
            bytes += now.len;
            if now.len > 0 {
                spans.push(now);
            }
        }
        if spans.is_empty() {
            return false;
        }
        self.requested += bytes;
        let is_missing = || is_missing(spans.len(), bytes, |i| spans[i]);
        if self.requested > begun && (self.unchecked_steps > 0 || is_missing()) {
            self.unchecked_steps = match self.unchecked_steps {
                0 => UNCHECKED_AFTER_MISS,
                u32::MAX => u32::MAX,
                unchecked_steps => unchecked_steps - 1,
            };
            fetch(&mut spans);
            if self.release {
                self.behind.push_back((self.requested, spans));
            }
        }
        true
    }
}

/// How many links are requested ahead if batches have equal lengths.
const LINKS_AHEAD: u64 = 16;
/// The first steps along a chain are taken without a check: a reader that keeps up takes no more
/// than these.
const UNCHECKED_STEPS: u32 = 4;
/// The maximum number of links that are read without a check after others were in memory. A walk
/// that then reaches links on disk waits for that many of them one by one before it checks again.
const UNCHECKED_MAX: u32 = 31;
/// The length of the link, the state and the lengths after them.
const WORDS_BYTES: u64 = 64;

/// Reads ahead along a chain of batches. Only a link tells where the next batch begins, but most
/// writers write batches of one length, so the next links can be guessed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChainAhead {
    steps: u32,
    at: u64,
    len: u64,
    /// Links before this offset were requested.
    requested: u64,
    /// How many more links are read without a check: a check is a system call.
    unchecked: u32,
    /// The number of links left unchecked after the last check. It grows with each link found in
    /// memory, and starts over after one that was not.
    unchecked_after_hit: u32,
}

impl ChainAhead {
    /// Records that the link at `next` is about to be read. Returns whether it was missing and has
    /// now been requested.
    pub(crate) fn step<F: DiskFile>(&mut self, segment: &Segment<F>, next: u64) -> bool {
        if next == self.at {
            return false;
        }
        let len = next.saturating_sub(self.at);
        let (is_same_len, is_same_page) = (len == self.len, next / PAGE == self.at / PAGE);
        (self.at, self.len) = (next, len);
        self.steps = self.steps.saturating_add(1);
        let is_requested =
            next + LINKS_AHEAD / 2 * len < self.requested || next < self.requested && !is_same_len;
        let end = segment.header().len;
        if self.steps <= UNCHECKED_STEPS || is_same_page || is_requested || next >= end {
            return false;
        }
        let mapping = segment.file().mapping();
        let (from, is_missing) = match next < self.requested {
            true => (self.requested, false),
            false if self.unchecked > 0 => {
                self.unchecked -= 1;
                return false;
            }
            false if mapping.is_resident(next) => {
                self.unchecked_after_hit = (2 * self.unchecked_after_hit + 1).min(UNCHECKED_MAX);
                self.unchecked = self.unchecked_after_hit;
                return false;
            }
            false => (next, true),
        };
        self.unchecked_after_hit = 0;
        let count = if is_same_len { LINKS_AHEAD } else { 1 };
        let mut guessed = (0..count).map(|i| next + i * len).filter(|at| (from..end).contains(at));
        guessed.by_ref().for_each(|at| {
            mapping.fetch(at, WORDS_BYTES);
            self.requested = at + 1;
        });
        is_missing
    }
}

/// Requests the heads of batches in the order in which they will be read. Only a head itself
/// records its length; each is assumed to be as long as the last one read.
#[derive(Debug, Default)]
pub(crate) struct HeadsAhead {
    requested: usize,
    head_len: u64,
}

/// The maximum number of heads requested at a time, and of their bytes.
const HEADS_AHEAD: usize = 64;
const HEADS_BYTES: u64 = AHEAD_BYTES / 2;

impl HeadsAhead {
    /// Records that batch `i` is about to be read; `batch` returns the span of a batch.
    pub(crate) fn begin<'s, F: DiskFile>(
        &mut self,
        i: usize,
        count: usize,
        batch: impl Fn(usize) -> Span<'s, F>,
    ) {
        // The first head is read without read-ahead: it gives the assumed length of the others.
        if i == 0 || i + HEADS_AHEAD / 2 < self.requested || self.requested >= count {
            return;
        }
        let mut spans = Vec::with_capacity(HEADS_AHEAD);
        let (from, mut bytes) = (self.requested.max(i), 0);
        for at in from..count.min(i + HEADS_AHEAD) {
            let span = batch(at).piece(0, self.head_len);
            bytes += span.len;
            spans.push(span);
            if bytes >= HEADS_BYTES {
                break;
            }
        }
        self.requested = from + spans.len();
        // The first page of a head was already loaded for its link.
        let is_resident = |span: &Span<'_, F>| {
            span.segment.file().mapping().is_resident(span.offset + span.len.saturating_sub(1))
        };
        let sampled = [spans.first(), spans.last()];
        if !sampled.into_iter().flatten().all(is_resident) {
            fetch(&mut spans);
        }
    }

    /// Records the length of a head.
    pub(crate) fn record(&mut self, head_len: u64) {
        self.head_len = head_len;
    }
}
