//! The part of a segment that a writer owns. Claims come only from the one [`ActiveSegment`] of a
//! segment, and only a [`Claim`] can be stored to.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use partd_format::Link;
use partd_format::batch::{Layout, WORDS_LEN};
use partd_format::word::STATE_AT;

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::segment::through::Through;
use crate::log::segment::{SEAL_LEN, Segment};

/// Below this length, faulting each page is as fast as one call for all.
const POPULATE_MIN_BYTES: u64 = 16 << 10;

/// The end of a segment's chain, and the right to append to it. Each segment has at most one.
#[derive(Debug)]
pub(crate) struct ActiveSegment<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    /// Whether the space after `offset` holds bytes of a recycled segment instead of zeros.
    is_recycled: bool,
    /// Whether those bytes are in memory.
    has_pages: bool,
    /// Whether the kernel was advised to load no pages around one that is stored to: the next
    /// batches will be written to the file, and pages that are loaded first only cost time.
    expects_random: bool,
}

impl<F: DiskFile> ActiveSegment<F> {
    /// Takes the space after the header of a new segment, which the caller owns alone.
    pub(super) fn of_new(segment: Segment<F>, is_recycled: bool) -> ActiveSegment<F> {
        let (offset, has_pages) = (segment.header.data_start, is_recycled && segment.is_cached());
        let segment = Arc::new(segment);
        ActiveSegment { segment, offset, is_recycled, has_pages, expects_random: false }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment<F>> {
        &self.segment
    }

    /// The end of the last batch, from the start of the segment.
    pub(crate) fn end(&self) -> u64 {
        self.offset
    }

    /// The maximum length of the next batch, with space left for the seal.
    pub(crate) fn room(&self) -> u64 {
        (self.segment.header.len & !7).saturating_sub(self.offset + SEAL_LEN)
    }

    /// Claims space for a batch, and links it into the chain. `None` if that would leave less than
    /// `reserve` of [`room`](Self::room).
    pub(crate) fn claim(&mut self, layout: &Layout, reserve: u64) -> Result<Option<Claim<F>>> {
        let len = layout.batch_len(self.offset);
        if len + reserve > self.room() {
            return Ok(None);
        }
        let through = match self.has_pages {
            // The pages need neither zeroing nor the disk.
            true => Through::Mapping,
            false => Through::fresh_pages(layout),
        };
        if self.expects_random != (through != Through::Mapping) {
            self.expects_random = !self.expects_random;
            self.segment.file.mapping().expect_random_reads(self.expects_random);
        }
        let (offset, next) = (self.offset, self.offset + len);
        self.segment.reserve(offset, WORDS_LEN)?;
        if self.is_recycled {
            self.segment.reserve(next, 8)?;
        }
        if self.is_recycled {
            // Before the batch is linked, its state must be pending and the link after it must end
            // the chain.
            for word in [offset + STATE_AT, next] {
                self.segment.file.mapping().store(word, 0, Release);
                self.segment.file.stored(word, 8);
            }
        }
        let word = Link::Batch(len).encode(self.segment.salt(), offset);
        self.segment.file.mapping().store(offset, word, Release);
        self.segment.file.stored(offset, 8);
        self.offset = next;
        let segment = Arc::clone(&self.segment);
        Ok(Some(Claim { segment, offset, len, through }))
    }

    /// Seals the segment and frees the space after its batches.
    pub(crate) fn close(self) {
        self.segment.file().mapping().expect_random_reads(true);
        // Without disk space for the seal, the end stays open; the next owner of the slot seals it.
        if self.segment.reserve(self.offset & !7, SEAL_LEN).is_ok() {
            self.segment.seal(self.offset);
            self.segment.punch_behind(self.offset);
        }
    }
}

/// Space for one batch, exclusive to the claim until the batch is committed.
#[derive(Debug)]
pub(crate) struct Claim<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    len: u64,
    through: Through,
}

impl<F: DiskFile> Claim<F> {
    pub(crate) fn segment(&self) -> &Arc<Segment<F>> {
        &self.segment
    }

    /// The offset of the batch.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the batch.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether `len` bytes at `at`, relative to the link word, are inside the claim and after its
    /// words.
    fn covers(&self, at: u64, len: u64) -> bool {
        at >= WORDS_LEN && at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// The best way to write the batch.
    pub(crate) fn through(&self) -> Through {
        self.through
    }

    /// Prepares the pages of a large claim for stores, and reserves disk space if stores may need
    /// it.
    pub(crate) fn populate(&self) -> io::Result<()> {
        if self.len >= POPULATE_MIN_BYTES {
            self.segment.file.mapping().populate(self.offset, self.len);
        }
        self.segment.file.reserve(self.offset, self.len)
    }

    /// Reserves disk space for stores to the words of the batch.
    #[inline]
    pub(crate) fn reserve_words(&self) -> Result<()> {
        self.segment.reserve(self.offset, WORDS_LEN)
    }

    /// Copies bytes to `at`, relative to the link word, through the mapping.
    #[inline]
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.covers(at, bytes.len() as u64), "outside of the claim");
        self.segment.put(self.offset + at, bytes);
    }

    /// Writes buffers to `at`, relative to the link word, through the file: cheaper for fresh
    /// pages, which the kernel would zero first for a mapping.
    pub(crate) fn write(&mut self, at: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        assert!(self.covers(at, len), "outside of the claim");
        self.segment.file.write_at(buffers, self.offset + at)
    }

    /// Makes the batch void, so that readers skip it.
    pub(crate) fn void(&self) {
        // Without disk space for the word, the batch stays pending, and readers skip it too.
        if self.reserve_words().is_ok() {
            self.segment.void(self.offset);
        }
    }
}
