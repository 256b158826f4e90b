//! The picture a handle has of the history: its segments, how far each was walked, and the index.
//!
//! The log is the truth and the picture trails it. A refresh loads the commit word, walks the
//! batches that were added since, checks that no sequence number is missing, and applies them in
//! order. It costs nothing while the commit word stands still, and otherwise as much as was added:
//! a segment that was walked to its seal is not looked at again.

mod at_rest;
mod compacted;

use std::collections::BTreeSet;
use std::sync::Arc;

use partd_format::segment::Keep;
use partd_format::{Entry, Kind, Link, State};

pub(crate) use self::at_rest::AtRest;
use self::compacted::Compacted;
use super::Core;
use super::disk::Disk;
use super::finder::Finder;
use super::index::{Extents, Index};
use super::segment::{Extent, SEGMENT_NUMBERS, Segment};
use super::store::segment_name;
use crate::Key;
use crate::error::{Error, Result};

/// The segments that the extents of a picture name by number.
pub(crate) type Segments<F> = Arc<Vec<Arc<Segment<F>>>>;

/// The state of the store at one moment, as one handle knows it.
#[derive(Debug)]
pub(crate) struct Picture<D: Disk> {
    /// The last sequence number that was applied.
    pub(crate) sequence: u64,
    /// None before the first look.
    generation: Option<u64>,
    finder: Finder,
    pub(crate) segments: Segments<D::File>,
    /// The segments in which more may come.
    pub(crate) open: Vec<Cursor>,
    /// Segments whose contents an output of a compaction holds.
    pub(crate) replaced: BTreeSet<u64>,
    /// Numbers up to this one may be missing: a compaction has dropped them.
    upto: u64,
    pub(crate) index: Index,
    /// What was applied.
    pub(crate) applied: Applied,
    /// The bytes of all values in each segment, live or dead.
    pub(crate) value_bytes: Vec<u64>,
    /// The bytes of all batches in each segment.
    batch_bytes: Vec<u64>,
    /// How often the picture was begun anew; extents of an older one mean nothing.
    pub(crate) rebuilds: u64,
}

/// Counts of what lies in the segments of a picture.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) batches: u64,
    pub(crate) entries: u64,
    /// Deletes and clears.
    pub(crate) removals: u64,
}

impl Applied {
    fn count(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        self.removals += u64::from(!entry.kind.has_value());
    }
}

/// How far a segment was walked.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    next: u64,
    /// Batches behind which the walk went on, and whose state was not final.
    pending: Vec<(u64, u64)>,
    /// Whether no more batches come.
    sealed: bool,
    /// Where the chain was seen to be broken.
    broken: Option<partd_format::Error>,
}

/// A committed batch that is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    sequence: u64,
    segment: u32,
    offset: u64,
    len: u64,
}

/// What the keys of a pop held when its delete came.
#[derive(Debug)]
pub(crate) struct Capture<'k> {
    /// The sequence number of the delete.
    pub(crate) at: u64,
    pub(crate) keys: &'k [Key],
    pub(crate) extents: Vec<Option<Extents>>,
}

impl<D: Disk> Default for Picture<D> {
    fn default() -> Picture<D> {
        Picture {
            sequence: 0,
            generation: None,
            finder: Finder::default(),
            segments: Segments::default(),
            open: Vec::new(),
            replaced: BTreeSet::new(),
            upto: 0,
            index: Index::default(),
            applied: Applied::default(),
            value_bytes: Vec::new(),
            batch_bytes: Vec::new(),
            rebuilds: 0,
        }
    }
}

impl<D: Disk> Picture<D> {
    /// Whether the picture shows the history as it is now.
    #[inline]
    pub(crate) fn is_current(&self, core: &Core<D>) -> bool {
        self.sequence >= core.visible() && self.generation == Some(core.generation())
    }

    /// Whether the picture was ever looked at, and so costs memory.
    pub(crate) fn is_built(&self) -> bool {
        self.generation.is_some()
    }

    /// Brings the picture up to now. After an error it is begun anew by the next call.
    ///
    /// With `seals`, also where the history stands still: so it is seen which segments are sealed.
    pub(crate) fn refresh(
        &mut self,
        core: &Core<D>,
        mut capture: Option<&mut Capture<'_>>,
        seals: bool,
    ) -> Result<()> {
        let mut gone = None;
        loop {
            let advanced = match self.advance(core, capture.as_deref_mut(), seals) {
                // An id is never used twice: what is listed once more has not gone.
                Ok(Advance::Vanished(id)) if gone == Some(id) => {
                    let why = "this name is listed and leads to no regular file";
                    Err(Error::refused(core.store.path_of(&segment_name(id)), why))
                }
                advanced => advanced,
            };
            match advanced {
                Ok(Advance::Done) => return Ok(()),
                Ok(Advance::Rebuild) => self.reset(),
                Ok(Advance::Vanished(id)) => {
                    gone = Some(id);
                    self.reset();
                }
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            }
        }
    }

    /// Forgets everything; the next look begins anew.
    pub(crate) fn reset(&mut self) {
        let rebuilds = self.rebuilds + 1;
        *self = Picture { rebuilds, ..Picture::default() };
    }

    fn advance(
        &mut self,
        core: &Core<D>,
        capture: Option<&mut Capture<'_>>,
        seals: bool,
    ) -> Result<Advance> {
        // The commit word before everything else: what it counts can then be found.
        let visible = core.visible();
        let generation = Some(core.generation());
        let is_first = self.generation.is_none();
        let stands_still = visible <= self.sequence && generation == self.generation;
        if !is_first && !seals && stands_still {
            return Ok(Advance::Done);
        }
        let mut compacted = Compacted::default();
        let mut keeps = Vec::new();
        if generation != self.generation {
            let (outputs, vanished) = self.discover(core)?;
            if let Some(id) = vanished {
                return Ok(Advance::Vanished(id));
            }
            if !outputs.is_empty() && !is_first {
                return Ok(Advance::Rebuild);
            }
            keeps = self.take_outputs(core, &outputs, &mut compacted)?;
            self.generation = generation;
        }
        let units = self.walk(visible);
        if !core.ignores_damage()
            && let Err(error) = self.check_keeps(core, &keeps)
        {
            return self.unless_compacted(core, error);
        }
        self.finish(core, visible, units, compacted, capture)
    }

    /// The error, unless a compaction has published and unlinked since: its output, not seen yet,
    /// holds what is missing.
    fn unless_compacted(&self, core: &Core<D>, error: Error) -> Result<Advance> {
        if self.generation == Some(core.generation()) { Err(error) } else { Ok(Advance::Rebuild) }
    }

    /// Checks that no number is missing among the batches found, and applies them.
    fn finish(
        &mut self,
        core: &Core<D>,
        visible: u64,
        mut units: Vec<Unit>,
        compacted: Compacted,
        capture: Option<&mut Capture<'_>>,
    ) -> Result<Advance> {
        units.sort_unstable();
        let mut expected = self.sequence.max(self.upto) + 1;
        for pair in units.windows(2) {
            if pair[0].sequence == pair[1].sequence {
                return Err(self.number_used_twice(pair[0], pair[1]));
            }
        }
        let first_new = units.partition_point(|unit| unit.sequence < expected);
        for unit in &units[first_new..] {
            if unit.sequence != expected {
                break;
            }
            expected += 1;
        }
        if expected <= visible {
            let last = units.iter().map(|unit| unit.sequence).find(|s| *s >= expected);
            let last = last.map_or(visible, |sequence| sequence - 1);
            let hint = self.open.iter().find_map(|cursor| {
                let path = self.segments[cursor.segment as usize].path();
                cursor.broken.map(|error| format!("{}: {error}", path.display()))
            });
            let path = core.store.path().to_path_buf();
            let missing = Error::Missing { path, first: expected, last, hint };
            return self.unless_compacted(core, missing);
        }
        self.apply(core, &units, compacted, capture)?;
        self.sequence = visible.max(self.sequence);
        Ok(Advance::Done)
    }

    fn number_used_twice(&self, one: Unit, other: Unit) -> Error {
        let segment = &self.segments[other.segment as usize];
        let first = self.segments[one.segment as usize].path();
        Error::refused(
            segment.path(),
            format!(
                "the batch at offset {} has sequence number {}, which a batch in {} has too",
                other.offset,
                one.sequence,
                first.display()
            ),
        )
    }

    /// Opens the segments that are new; returns the numbers of the outputs among them, and the id of
    /// a listed one that has gone.
    fn discover(&mut self, core: &Core<D>) -> Result<(Vec<u32>, Option<u64>)> {
        let mut found = Vec::new();
        let vanished =
            self.finder.find(core, &mut |segment| found.push(Arc::new(segment)))?;
        let segments = Arc::make_mut(&mut self.segments);
        let mut outputs = Vec::new();
        for segment in found {
            if segments.len() >= SEGMENT_NUMBERS {
                let why = format!("the store has more than {SEGMENT_NUMBERS} segments; compact it");
                return Err(Error::refused(&**core.store.path(), why));
            }
            let number = segments.len() as u32;
            if segment.header().output.is_some() {
                outputs.push(number);
            }
            self.open.push(Cursor {
                segment: number,
                next: segment.header().data_start,
                pending: Vec::new(),
                sealed: false,
                broken: None,
            });
            segments.push(segment);
            self.value_bytes.push(0);
            self.batch_bytes.push(0);
        }
        Ok((outputs, vanished))
    }

    /// Takes in the outputs of compactions: what they replace is not looked at, and their entries
    /// are laid out for each key. Returns what the newest of them found beside it.
    fn take_outputs(
        &mut self,
        core: &Core<D>,
        outputs: &[u32],
        compacted: &mut Compacted,
    ) -> Result<Vec<Keep>> {
        let mut newest = ((0, 0), Vec::new());
        for &number in outputs {
            let segment = &self.segments[number as usize];
            let (replaces, keeps) = segment.lists()?;
            self.replaced.extend(replaces);
            let upto = segment.header().output.map_or(0, |output| output.upto);
            if (upto, segment.id()) > newest.0 {
                newest = ((upto, segment.id()), keeps);
            }
            self.upto = self.upto.max(upto);
        }
        let (segments, replaced) = (Arc::clone(&self.segments), &self.replaced);
        self.open.retain(|cursor| !replaced.contains(&segments[cursor.segment as usize].id()));
        for &number in outputs {
            let segment = &segments[number as usize];
            if self.replaced.contains(&segment.id()) {
                continue;
            }
            for (offset, len) in chain(segment, core.ignores_damage())? {
                let batch = match segment.batch(offset, len) {
                    Err(_) if core.ignores_damage() => continue,
                    batch => batch?,
                };
                self.applied.batches += 1;
                self.batch_bytes[number as usize] += len;
                for entry in batch.entries() {
                    self.applied.count(&entry);
                    self.value_bytes[number as usize] += entry.value_len;
                    compacted.add(&entry, number);
                }
            }
        }
        self.open.retain(|cursor| !outputs.contains(&cursor.segment));
        compacted.sort();
        Ok(newest.1)
    }

    /// Checks that what a compaction found beside its output is still there.
    fn check_keeps(&self, core: &Core<D>, keeps: &[Keep]) -> Result<()> {
        for keep in keeps {
            if self.replaced.contains(&keep.id) {
                continue;
            }
            let number = self.segments.iter().position(|segment| segment.id() == keep.id);
            let Some(number) = number else {
                let why = "this segment is gone, and no compaction has replaced it";
                return Err(Error::refused(core.store.path_of(&segment_name(keep.id)), why));
            };
            let cursor = self.open.iter().find(|cursor| cursor.segment as usize == number);
            let Some(cursor) = cursor else { continue };
            let segment = &self.segments[number];
            let before = cursor.pending.iter().filter(|(offset, _)| *offset < keep.end);
            // No number would be missed: below `upto` any may be gone.
            if let Some(error) = before.filter_map(|&(at, _)| segment.state(at).err()).next() {
                return Err(segment.damage(error));
            }
            if cursor.next < keep.end {
                return Err(segment.damage(partd_format::Error {
                    offset: cursor.next,
                    what: "chain of batches",
                    expected: partd_format::Evidence::AtLeast(keep.end),
                    found: partd_format::Evidence::Text("its end"),
                }));
            }
        }
        Ok(())
    }

    /// Walks on in every segment that may have more; returns what was committed up to `visible`.
    fn walk(&mut self, visible: u64) -> Vec<Unit> {
        let mut units = Vec::new();
        let segments = &self.segments;
        for cursor in &mut self.open {
            let segment = &segments[cursor.segment as usize];
            let number = cursor.segment;
            let broken = &mut cursor.broken;
            let mut look = |offset, len| match segment.state(offset) {
                Ok(State::Committed(sequence)) if sequence <= visible => {
                    units.push(Unit { sequence, segment: number, offset, len });
                    false
                }
                Ok(State::Committed(_) | State::Pending) => true,
                Ok(State::Void) => false,
                Err(error) => {
                    *broken = Some(error);
                    true
                }
            };
            cursor.pending.retain(|&(offset, len)| look(offset, len));
            loop {
                match segment.link(cursor.next) {
                    Ok(Link::Batch(len)) => {
                        if look(cursor.next, len) {
                            cursor.pending.push((cursor.next, len));
                        }
                        cursor.next += len;
                    }
                    Ok(Link::Sealed) => {
                        cursor.sealed = true;
                        break;
                    }
                    Ok(Link::End) => break,
                    Err(error) => {
                        cursor.broken = Some(error);
                        break;
                    }
                }
            }
        }
        units
    }

    /// Applies batches in order, with the entries of compactions in between where they belong.
    fn apply(
        &mut self,
        core: &Core<D>,
        units: &[Unit],
        mut compacted: Compacted,
        mut capture: Option<&mut Capture<'_>>,
    ) -> Result<()> {
        self.open.retain(|cursor| !(cursor.sealed && cursor.pending.is_empty()));
        for unit in units {
            compacted.catch_up_clears(&mut self.index, unit.sequence);
            if let Some(capture) = &mut capture
                && capture.at == unit.sequence
            {
                capture.extents = (capture.keys.iter())
                    .map(|key| {
                        let key = key.as_bytes();
                        // An output may have come since the pop began, with what it is to return.
                        compacted.catch_up(&mut self.index, key, unit.sequence);
                        self.index.get(key).map(|slot| slot.extents.clone())
                    })
                    .collect();
            }
            let segment = Arc::clone(&self.segments[unit.segment as usize]);
            let batch = match segment.batch(unit.offset, unit.len) {
                // Below what an output reaches; above it, the history ends before such a batch.
                Err(_) if core.ignores_damage() => continue,
                batch => batch?,
            };
            self.applied.batches += 1;
            self.batch_bytes[unit.segment as usize] += unit.len;
            for entry in batch.entries() {
                self.applied.count(&entry);
                self.value_bytes[unit.segment as usize] += entry.value_len;
                if entry.kind == Kind::Clear {
                    compacted.catch_up_all(&mut self.index, unit.sequence);
                } else {
                    compacted.catch_up(&mut self.index, entry.key, unit.sequence);
                }
                let extent = Extent::of(&entry, unit.segment, unit.sequence);
                self.index.apply(entry.kind, entry.key, extent);
            }
        }
        compacted.catch_up_clears(&mut self.index, u64::MAX);
        compacted.catch_up_all(&mut self.index, u64::MAX);
        Ok(())
    }
}

/// What a step of a refresh has led to.
enum Advance {
    Done,
    /// An output of a compaction has come.
    Rebuild,
    /// A segment with this id was listed, and cannot be opened: so one is about to come.
    Vanished(u64),
}

/// The batches of a segment at rest; those before a broken link, if that is ignored.
pub(crate) fn chain<F: super::disk::DiskFile>(
    segment: &Segment<F>,
    ignore_damage: bool,
) -> Result<Vec<(u64, u64)>> {
    let mut batches = Vec::new();
    let mut next = segment.header().data_start;
    loop {
        match segment.link(next) {
            Ok(Link::Batch(len)) => {
                batches.push((next, len));
                next += len;
            }
            Ok(Link::End | Link::Sealed) => return Ok(batches),
            Err(_) if ignore_damage => return Ok(batches),
            Err(error) => return Err(segment.damage(error)),
        }
    }
}
