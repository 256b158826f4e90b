//! Applies the history to an index: in one thread, or in several if that is faster.
//!
//! With several threads, each walks all entries and applies those of its own share of the index.
//! With many keys, walking an entry takes a third of the time or less; most of the rest is fetching the
//! record of its key from memory. So a few threads gain most of what can be gained.

use std::sync::Arc;

use partd_format::batch::{self, WORDS_LEN};
use partd_format::{Batch, Entry};

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::read::compacted::Compacted;
use crate::log::read::cursor::Unit;
use crate::log::read::index::{Index, Share};
use crate::log::read::version::Applied;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{HeadsAhead, Span};
use crate::log::segment::extent::Extent;
use crate::threads::{self, LentPool};

/// With fewer entries than this, one thread is faster than several.
const PARALLEL_MIN_ENTRIES: usize = 64 << 10;
/// More threads than this would mostly repeat each other's walk.
const THREADS_MAX: usize = 4;
/// The number of batches from which the number of entries is estimated.
const SAMPLES: usize = 16;

/// Batches in the order of their sequence numbers, and entries of compaction outputs, which belong
/// between them.
pub(super) struct History<'h, F> {
    pub(super) segments: &'h [Arc<Segment<F>>],
    pub(super) units: &'h [Unit],
    pub(super) compacted: &'h Compacted,
    /// Whether damaged batches are left out. They occur only at or below `max_seq`; above it,
    /// recovery has already ended the history before such a batch.
    pub(super) ignores_damage: bool,
}

/// Counts of batches that were applied; the bytes are those of each segment, by its number.
pub(super) struct Counts<'v> {
    pub(super) applied: &'v mut Applied,
    pub(super) batch_bytes: &'v mut [u64],
    pub(super) value_bytes: &'v mut [u64],
}

impl<F: DiskFile> History<'_, F> {
    /// Applies everything, and counts it. Uses up to four threads, at most as many as
    /// `pool` has, and none of the pool's.
    pub(super) fn apply_to(
        &self,
        index: &mut Index,
        pool: Option<&LentPool>,
        counts: Counts<'_>,
    ) -> Result<()> {
        if self.estimated_entries() < PARALLEL_MIN_ENTRIES {
            return self.apply(index.share(), Some(counts));
        }
        let (threads, mut counts) = (threads::wanted_of(pool).min(THREADS_MAX), Some(counts));
        // One thread counts for all.
        let shares = index.shares(threads).into_iter().map(|share| (share, counts.take()));
        let applied =
            threads::beside(shares.collect(), |(share, counts)| self.apply(share, counts));
        applied.into_iter().collect()
    }

    /// Estimates the number of entries from a few batches, if it can be large. Their heads are not
    /// verified yet, and only the page is read that the walk has loaded.
    fn estimated_entries(&self) -> usize {
        let bytes: u64 = self.units.iter().map(|unit| unit.len).sum();
        if bytes < batch::ENTRY_LEN * PARALLEL_MIN_ENTRIES as u64 {
            return self.compacted.len();
        }
        let step = self.units.len().div_ceil(SAMPLES).max(1);
        let samples = self.units.iter().step_by(step);
        let entries = samples.map(|unit| {
            let mut head = [0; (batch::HEAD_LEN - WORDS_LEN) as usize];
            if unit.len >= batch::HEAD_LEN {
                let mapping = self.segment(unit).file().mapping();
                mapping.copy_out(unit.offset + WORDS_LEN, &mut head);
            }
            Batch::stated_entries(unit.offset, unit.len, &head).unwrap_or(0) as usize
        });
        entries.sum::<usize>() * step + self.compacted.len()
    }

    fn segment(&self, unit: &Unit) -> &Segment<F> {
        &self.segments[unit.segment as usize]
    }

    /// Applies the entries of a share; counts those of all shares if `counts` is given.
    fn apply(&self, mut share: Share<'_>, mut counts: Option<Counts<'_>>) -> Result<()> {
        let (mut heads, mut compacted) = (HeadsAhead::default(), self.compacted.all());
        let span = |i: usize| {
            let Unit { offset, len, .. } = self.units[i];
            Span { segment: self.segment(&self.units[i]), offset, len }
        };
        for (i, unit) in self.units.iter().enumerate() {
            compacted.catch_up(&mut share, unit.sequence);
            heads.begin(i, self.units.len(), span);
            let batch = match self.segment(unit).batch(unit.offset, unit.len) {
                Err(_) if self.ignores_damage => continue,
                batch => batch?,
            };
            heads.record(batch.head_len());
            let mut values = 0;
            for entry in batch.entries() {
                values += entry.value_len;
                if let Some(counts) = &mut counts {
                    counts.applied.count(&entry);
                }
                let Entry { kind, key, .. } = entry;
                share.apply(kind, key, Extent::of(&entry, unit.segment, unit.sequence));
            }
            if let Some(counts) = &mut counts {
                counts.applied.batches += 1;
                counts.batch_bytes[unit.segment as usize] += unit.len;
                counts.value_bytes[unit.segment as usize] += values;
            }
        }
        compacted.catch_up(&mut share, u64::MAX);
        Ok(())
    }
}
