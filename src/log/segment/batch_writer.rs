//! Writes the bytes of batches: first the values, then the head before them. The caller computes the
//! checksums. The claim stores the link, and the commit the state.

use std::io::{self, IoSlice};

use partd_format::batch::{
    ALIGNED_VALUE_MIN, Layout, NewEntry, VALUE_ALIGN, WORDS_LEN, value_offset,
};

use smallvec::SmallVec;

use crate::log::fs::DiskFile;
use crate::log::segment::claim::Claim;
use crate::log::segment::through::Through;

/// Bytes that are checksummed and then written in one call, while they are in the CPU cache.
pub(crate) const GROUP_BYTES: usize = 256 << 10;
/// The maximum number of buffers in one call.
const GROUP_BUFFERS: usize = 256;

/// The padding between values that aligns the next one.
static ZEROS: [u8; VALUE_ALIGN as usize] = [0; VALUE_ALIGN as usize];

/// Memory that is reused from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    head: Vec<u8>,
    gathered: Vec<u8>,
}

impl Scratch {
    /// Frees the memory of a rare huge batch.
    pub(crate) fn shrink(&mut self) {
        self.head.shrink_to(1 << 20);
        self.gathered.shrink_to(2 * GROUP_BYTES);
    }
}

/// A batch that is being written.
#[derive(Debug)]
pub(crate) struct BatchWriter<'c, 'v, F> {
    claim: &'c mut Claim<F>,
    through: Through,
    /// The position of the next bytes, relative to the link word.
    at: u64,
    /// The values that were pushed and not yet written, unless they are gathered in the scratch
    /// memory.
    group: Vec<IoSlice<'v>>,
    scratch: &'c mut Scratch,
    group_len: usize,
}

impl<'c, 'v, F: DiskFile> BatchWriter<'c, 'v, F> {
    pub(crate) fn new(
        claim: &'c mut Claim<F>,
        layout: &Layout,
        through: Through,
        scratch: &'c mut Scratch,
    ) -> BatchWriter<'c, 'v, F> {
        let group = match through {
            Through::File => Vec::with_capacity(GROUP_BUFFERS),
            Through::Mapping | Through::Gathered => Vec::new(),
        };
        scratch.gathered.clear();
        BatchWriter { claim, through, at: layout.values_start(), group, scratch, group_len: 0 }
    }

    /// Begins a value of `len` bytes, at an aligned offset if it is long.
    #[inline]
    pub(crate) fn begin_value(&mut self, len: u64) {
        if len < ALIGNED_VALUE_MIN {
            return;
        }
        let end = self.claim.offset() + self.at + self.group_len as u64;
        let gap = value_offset(end, len) - end;
        if gap == 0 {
            return;
        }
        match self.through {
            Through::Mapping => self.at += gap,
            Through::File => {
                self.group.push(IoSlice::new(&ZEROS[..gap as usize]));
                self.group_len += gap as usize;
            }
            Through::Gathered => {
                self.scratch.gathered.extend_from_slice(&ZEROS[..gap as usize]);
                self.group_len += gap as usize;
            }
        }
    }

    /// Adds the next bytes of a value, [`GROUP_BYTES`] at most. Returns whether the caller must
    /// [`flush`](Self::flush) now.
    #[inline]
    pub(crate) fn push(&mut self, piece: &'v [u8]) -> bool {
        match self.through {
            Through::Mapping => {
                self.claim.put(self.at, piece);
                self.at += piece.len() as u64;
                false
            }
            Through::File => {
                self.group.push(IoSlice::new(piece));
                self.group_len += piece.len();
                self.group_len >= GROUP_BYTES || self.group.len() >= GROUP_BUFFERS
            }
            Through::Gathered => {
                self.scratch.gathered.extend_from_slice(piece);
                self.group_len += piece.len();
                self.group_len >= GROUP_BYTES
            }
        }
    }

    /// Writes the pushed bytes and returns their number.
    pub(crate) fn flush(&mut self) -> io::Result<u64> {
        let len = std::mem::take(&mut self.group_len) as u64;
        if len > 0 {
            match self.through {
                Through::Gathered => {
                    self.claim.write(self.at, &mut [IoSlice::new(&self.scratch.gathered)])?;
                }
                Through::File | Through::Mapping => self.claim.write(self.at, &mut self.group)?,
            }
            self.at += len;
        }
        self.group.clear();
        self.scratch.gathered.clear();
        Ok(len)
    }

    /// The end of the values that are written, from the start of the segment.
    pub(crate) fn end(&self) -> u64 {
        self.claim.offset() + self.at
    }

    /// Writes the rest of the values, and the head before them.
    pub(crate) fn finish<'e>(
        mut self,
        layout: &Layout,
        durable_seq: u64,
        entries: impl Iterator<Item = NewEntry<'e>>,
    ) -> io::Result<()> {
        // Values of one group are written in one call with the head.
        let is_one_group = self.at == layout.values_start();
        if !is_one_group {
            self.flush()?;
        }
        let Scratch { head, gathered } = self.scratch;
        head.resize((layout.values_start() - WORDS_LEN) as usize, 0);
        let salt = self.claim.segment().salt();
        layout
            .encode(salt, self.claim.offset(), durable_seq, entries, head)
            .map_err(io::Error::other)?;
        if self.through == Through::Mapping {
            self.claim.put(WORDS_LEN, head);
            return Ok(());
        }
        // Not through the mapping: the first store to a page would load it. At most one of `group`
        // and `gathered` has bytes left, and none after a flush.
        let mut buffers = SmallVec::<[IoSlice<'_>; 2]>::from_slice(&[IoSlice::new(head)]);
        buffers.extend(self.group.drain(..));
        buffers.push(IoSlice::new(gathered));
        self.claim.write(WORDS_LEN, &mut buffers)
    }
}
