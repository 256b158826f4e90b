//! Read-ahead for a reader that moves through one value and may jump.
//!
//! [`Ahead`](crate::log::segment::ahead::Ahead) borrows the spans that it will read, so a reader
//! that owns its snapshot cannot keep one. This read-ahead remembers positions in the value
//! instead. Its window begins small after a jump and grows with every byte that is read in order,
//! so that jumps read little besides the bytes asked for.

use std::collections::VecDeque;

use crate::log::fs::DiskFile;
use crate::log::read::snapshot::Snapshot;
use crate::log::segment::ahead::{
    AHEAD_BYTES, RELEASE_BEHIND_BYTES, STEP_BYTES, Span, UNCHECKED_AFTER_MISS, fetch, is_missing,
    release,
};
use crate::log::segment::extent::Extent;

/// The most extents in one step: the list of a step is memory beside the value.
const STEP_PARTS_MAX: usize = 4096;

/// A position in a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the start of the value.
    pub(super) at: u64,
    /// The extent that holds the byte, and the bytes from its start.
    pub(super) extent: usize,
    pub(super) within: u64,
}

impl Place {
    /// Moves on by `len` bytes, which the extent has.
    pub(super) fn advance(&mut self, len: u64) {
        self.at += len;
        self.within += len;
    }

    /// Moves from the end of an extent to the start of the next that is not empty. Returns that
    /// extent; `None` at the end of the value.
    pub(super) fn settle<'e>(&mut self, extents: &'e [Extent]) -> Option<&'e Extent> {
        loop {
            let extent = extents.get(self.extent)?;
            if self.within < extent.len() {
                return Some(extent);
            }
            (self.extent, self.within) = (self.extent + 1, 0);
        }
    }
}

/// A range of one extent.
#[derive(Clone, Copy, Debug)]
struct Part {
    extent: usize,
    within: u64,
    len: u64,
}

/// How far a reader has requested bytes ahead of itself, and what it may release behind itself.
#[derive(Debug)]
pub(super) struct Sequential {
    /// Everything before this place was requested.
    requested: Place,
    /// The number of bytes read in order since the last jump.
    run: u64,
    unchecked_steps: u32,
    /// Requested parts that were not in memory, with the position after them. Empty if nothing is
    /// released.
    behind: VecDeque<(u64, Vec<Part>)>,
}

impl Sequential {
    /// Begins at the start of a value, with the expectation that it is read in order.
    pub(super) fn new() -> Sequential {
        let requested = Place::default();
        Sequential { requested, run: STEP_BYTES, unchecked_steps: 0, behind: VecDeque::new() }
    }

    /// Records a jump. A jump forward inside the window keeps it.
    pub(super) fn jump<F: DiskFile>(&mut self, snapshot: &Snapshot<F>, from: Place, to: Place) {
        if (from.at..=self.requested.at).contains(&to.at) {
            return;
        }
        self.release_before(snapshot, u64::MAX);
        (self.requested, self.run, self.unchecked_steps) = (to, 0, 0);
    }

    /// Records that the `len` bytes at `place` are about to be read, and requests those of them,
    /// and of the window after them, that are not in memory.
    pub(super) fn begin<F: DiskFile>(&mut self, snapshot: &Snapshot<F>, place: Place, len: u64) {
        if self.requested.at < place.at {
            self.requested = place;
        }
        let window = len + self.run.min(AHEAD_BYTES);
        // Requests are made once half of the window is used up, so that each covers many bytes.
        if self.requested.at < place.at + len.max(window / 2) {
            let end = place.at + window;
            while self.requested.at < end && self.request_step(snapshot, end - self.requested.at) {}
        }
        self.run = self.run.saturating_add(len);
        self.release_before(snapshot, place.at.saturating_sub(RELEASE_BEHIND_BYTES));
    }

    /// Requests up to `len` bytes. Returns false at the end of the value.
    fn request_step<F: DiskFile>(&mut self, snapshot: &Snapshot<F>, len: u64) -> bool {
        let (extents, mut rest) = (snapshot.extents_of_first(), len.min(STEP_BYTES));
        let mut parts = Vec::new();
        while rest > 0
            && parts.len() < STEP_PARTS_MAX
            && let Some(extent) = self.requested.settle(extents)
        {
            let Place { extent: number, within, .. } = self.requested;
            let len = rest.min(extent.len() - within);
            parts.push(Part { extent: number, within, len });
            self.requested.advance(len);
            rest -= len;
        }
        if parts.is_empty() {
            return false;
        }
        let span = |part: &Part| span(snapshot, part);
        let bytes = parts.iter().map(|part| part.len).sum();
        if self.unchecked_steps > 0 || is_missing(parts.len(), bytes, |i| span(&parts[i])) {
            self.unchecked_steps = match self.unchecked_steps {
                0 => UNCHECKED_AFTER_MISS,
                steps => steps - 1,
            };
            let mut spans: Vec<_> = parts.iter().map(span).collect();
            fetch(&mut spans);
            if snapshot.release {
                self.behind.push_back((self.requested.at, parts));
            }
        }
        true
    }

    /// Releases the pages that were fetched for bytes before `at`.
    pub(super) fn release_before<F: DiskFile>(&mut self, snapshot: &Snapshot<F>, at: u64) {
        while let Some((end, parts)) = self.behind.front()
            && *end <= at
        {
            let spans: Vec<_> = parts.iter().map(|part| span(snapshot, part)).collect();
            release(&spans);
            self.behind.pop_front();
        }
    }
}

fn span<'s, F: DiskFile>(snapshot: &'s Snapshot<F>, part: &Part) -> Span<'s, F> {
    snapshot.span(&snapshot.extents_of_first()[part.extent]).piece(part.within, part.len)
}
