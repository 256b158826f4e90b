//! Applies the history to an index: in one thread, or in several if that is faster.
//!
//! With several threads, each walks all entries and applies those of its own share of the index.
//! Walking an entry takes a fraction of the time of finding its key, whose record is rarely in the
//! CPU cache.

use std::ops::AddAssign;
use std::sync::Arc;

use partd_format::Entry;

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::read::compacted::Compacted;
use crate::log::read::cursor::Unit;
use crate::log::read::index::{Index, PARTS, Share};
use crate::log::read::version::Applied;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{HeadsAhead, Span};
use crate::log::segment::extent::Extent;
use crate::threads;

/// With fewer entries than this, one thread is faster than several.
const PARALLEL_MIN_ENTRIES: usize = 64 << 10;
/// An entry takes at least this many bytes of its batch.
const ENTRY_MIN_BYTES: u64 = 16;
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

/// Counts of batches that were applied.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) applied: Applied,
    /// For each run of batches in one segment, its number and the bytes.
    pub(super) segments: Vec<(u32, Bytes)>,
}

/// The bytes of batches.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) batches: u64,
    /// The bytes of their values.
    pub(super) values: u64,
}

impl<F: DiskFile> History<'_, F> {
    /// Applies everything.
    pub(super) fn apply_to(&self, index: &mut Index) -> Result<Tally> {
        let threads = match self.estimated_entries() >= PARALLEL_MIN_ENTRIES {
            true => threads::wanted().min(PARTS),
            false => 1,
        };
        if threads == 1 {
            let mut tally = Tally::default();
            return self.apply(index.share(), Some(&mut tally)).map(|()| tally);
        }
        let mut tally = Tally::default();
        let mut first = Some(&mut tally);
        let shares = index.shares(threads).into_iter().map(|share| (share, first.take())).collect();
        let applied = threads::beside(shares, |(share, tally)| self.apply(share, tally));
        applied.into_iter().collect::<Result<()>>().map(|()| tally)
    }

    /// Estimates the number of entries from a few batches, if it can be large.
    fn estimated_entries(&self) -> usize {
        let bytes: u64 = self.units.iter().map(|unit| unit.len).sum();
        if bytes < ENTRY_MIN_BYTES * PARALLEL_MIN_ENTRIES as u64 {
            return self.compacted.len();
        }
        let step = self.units.len().div_ceil(SAMPLES).max(1);
        let samples = self.units.iter().step_by(step);
        let entries = samples.map(|unit| {
            let batch = self.segment(unit).batch(unit.offset, unit.len);
            batch.map_or(0, |batch| batch.entries().len())
        });
        entries.sum::<usize>() * step + self.compacted.len()
    }

    fn segment(&self, unit: &Unit) -> &Segment<F> {
        &self.segments[unit.segment as usize]
    }

    /// Applies the entries of a share, and counts those of all shares if there is a tally.
    fn apply(&self, mut share: Share<'_>, mut tally: Option<&mut Tally>) -> Result<()> {
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
                if let Some(tally) = &mut tally {
                    tally.applied.count(&entry);
                }
                let Entry { kind, key, .. } = entry;
                share.apply(kind, key, Extent::of(&entry, unit.segment, unit.sequence));
            }
            if let Some(tally) = &mut tally {
                tally.add(unit, values);
            }
        }
        compacted.catch_up(&mut share, u64::MAX);
        Ok(())
    }
}

impl Tally {
    /// Counts a batch.
    fn add(&mut self, unit: &Unit, values: u64) {
        self.applied.batches += 1;
        if self.segments.last().is_none_or(|(segment, _)| *segment != unit.segment) {
            self.segments.push((unit.segment, Bytes::default()));
        }
        if let Some((_, bytes)) = self.segments.last_mut() {
            bytes.batches += unit.len;
            bytes.values += values;
        }
    }
}

impl AddAssign for Applied {
    fn add_assign(&mut self, other: Applied) {
        self.batches += other.batches;
        self.entries += other.entries;
        self.removals += other.removals;
    }
}
