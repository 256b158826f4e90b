//! The picture a handle has of the history: its segments, how far each was walked, and the index.
//!
//! The log is the truth and the picture trails it. A refresh loads the commit word, walks the
//! batches that were added since, checks that no sequence number is missing, and applies them in
//! order. It costs nothing while the commit word stands still, and otherwise as much as was added:
//! a segment that was walked to its seal is not looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partd_format::segment::Retained;
use partd_format::{Entry, Kind, Link};

use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Core;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Disk, DiskFile};
pub(crate) use crate::log::read::at_rest::AtRest;
use crate::log::read::compacted::Compacted;
pub(crate) use crate::log::read::cursor::Cursor;
use crate::log::read::cursor::Unit;
use crate::log::read::discovery::SegmentDiscovery;
use crate::log::read::index::{Extents, Index};
use crate::log::read::take_in::Discovered;
use crate::log::segment::ahead::{ChainAhead, HeadsAhead, Span};
use crate::log::segment::outputs::kept_is_missing;
use crate::log::segment::{Extent, Segment};

/// How often a refresh looks for segments that have what is missing, while others come.
const DISCOVERIES_MAX: u32 = 16;
/// How often a refresh begins the picture anew because a compaction replaced segments.
const REBUILDS_MAX: u32 = 32;

/// The segments that the extents of a picture name by number.
pub(crate) type Segments<F> = Arc<Vec<Arc<Segment<F>>>>;

/// The state of the store at one moment, as one handle knows it.
#[derive(Debug)]
pub(crate) struct Version<D: Disk> {
    /// The last sequence number that was applied.
    pub(crate) sequence: u64,
    /// None before the first look.
    pub(super) directory_epoch: Option<u64>,
    pub(super) discovery: SegmentDiscovery,
    pub(crate) segments: Segments<D::File>,
    /// Mappings of an earlier picture that this one may still need, by id.
    pub(super) known: BTreeMap<u64, Arc<Segment<D::File>>>,
    /// The segments in which more may come.
    pub(crate) open: Vec<Cursor>,
    /// Segments whose contents an output of a compaction holds; they are not among `segments`.
    pub(super) replaced: BTreeSet<u64>,
    /// Numbers up to this one may be missing: a compaction has dropped them.
    pub(super) max_seq: u64,
    pub(crate) index: Index,
    /// What was applied.
    pub(crate) applied: Applied,
    /// The bytes of all values in each segment, live or dead.
    pub(crate) value_bytes: Vec<u64>,
    /// The bytes of all batches in each segment.
    pub(crate) batch_bytes: Vec<u64>,
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
    pub(super) fn count(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        self.removals += u64::from(!entry.kind.has_value());
    }
}

impl<D: Disk> Default for Version<D> {
    fn default() -> Version<D> {
        Version {
            sequence: 0,
            directory_epoch: None,
            discovery: SegmentDiscovery::default(),
            segments: Segments::default(),
            known: BTreeMap::new(),
            open: Vec::new(),
            replaced: BTreeSet::new(),
            max_seq: 0,
            index: Index::default(),
            applied: Applied::default(),
            value_bytes: Vec::new(),
            batch_bytes: Vec::new(),
            rebuilds: 0,
        }
    }
}

impl<D: Disk> Version<D> {
    /// Whether the picture shows the history as it is now.
    #[inline]
    pub(crate) fn is_current(&self, core: &Core<D>) -> bool {
        self.sequence >= core.visible() && self.directory_epoch == Some(core.directory_epoch())
    }

    /// Whether the picture was ever looked at, and so costs memory.
    pub(crate) fn is_built(&self) -> bool {
        self.directory_epoch.is_some()
    }

    /// Whether the picture has every segment that was published up to a generation.
    pub(crate) fn knows_all_segments(&self, directory_epoch: u64) -> bool {
        self.directory_epoch == Some(directory_epoch)
    }

    /// Brings the picture up to now. After an error it is begun anew by the next call.
    ///
    /// With `seals`, also where the history stands still: so it is seen which segments are sealed.
    pub(crate) fn refresh(&mut self, core: &Core<D>, seals: bool) -> Result<()> {
        let refreshed = self.try_refresh(core, seals);
        match refreshed {
            Ok(()) => self.known.clear(),
            Err(_) => self.reset(),
        }
        refreshed
    }

    fn try_refresh(&mut self, core: &Core<D>, seals: bool) -> Result<()> {
        let mut gone = None;
        for _ in 0..REBUILDS_MAX {
            match self.advance(core, seals)? {
                Advance::Done => return Ok(()),
                Advance::Rebuild => {}
                // An id is never used twice: what is listed once more has not gone.
                Advance::Vanished(id) if gone == Some(id) => {
                    let why = "this name is listed and leads to no regular file";
                    return Err(Error::refused(
                        ErrorKind::Corrupt,
                        core.store.path_of(&segment_name(id)),
                        why,
                    ));
                }
                Advance::Vanished(id) => gone = Some(id),
            }
            self.begin_anew();
        }
        let why = format!(
            "compactions replaced segments {REBUILDS_MAX} times while this handle read which there \
             are; compact less often, or try again"
        );
        Err(Error::refused(ErrorKind::Busy, &**core.store.path(), why))
    }

    /// Forgets everything; the next look begins anew.
    pub(crate) fn reset(&mut self) {
        let rebuilds = self.rebuilds + 1;
        *self = Version { rebuilds, ..Version::default() };
    }

    /// Forgets everything but the mappings, which are used again.
    fn begin_anew(&mut self) {
        let mut known = std::mem::take(&mut self.known);
        known.extend(self.segments.iter().map(|segment| (segment.id(), Arc::clone(segment))));
        self.reset();
        self.known = known;
    }

    fn advance(&mut self, core: &Core<D>, seals: bool) -> Result<Advance> {
        // The commit word before everything else: what it counts can then be found.
        let visible = core.visible();
        let mut directory_epoch = core.directory_epoch();
        let is_first = self.directory_epoch.is_none();
        let stands_still = visible <= self.sequence && self.knows_all_segments(directory_epoch);
        if !is_first && !seals && stands_still {
            return Ok(Advance::Done);
        }
        let (mut compacted, mut retained, mut units) =
            (Compacted::default(), Vec::new(), Vec::new());
        let mut tries = DISCOVERIES_MAX;
        loop {
            if !self.knows_all_segments(directory_epoch) {
                let is_first = self.directory_epoch.is_none();
                match self.discover(core, is_first, &mut compacted)? {
                    Discovered::Segments(found) => retained.extend(found),
                    Discovered::Changed(advance) => return Ok(advance),
                }
                self.directory_epoch = Some(directory_epoch);
            }
            units.extend(self.walk(visible));
            let checked = self.check(core, visible, &retained, &mut units);
            directory_epoch = core.directory_epoch();
            tries -= 1;
            match checked {
                Ok(()) => break,
                Err(error) if tries == 0 || self.knows_all_segments(directory_epoch) => {
                    return Err(error);
                }
                // Segments have come since. If one of them is the output of a compaction, it has
                // what is missing, and the picture is begun anew; the others are few.
                Err(_) => {}
            }
        }
        self.apply(core, &units, compacted)?;
        self.sequence = visible.max(self.sequence);
        Ok(Advance::Done)
    }

    /// Applies what was committed up to number `at`, a delete that this handle has just committed,
    /// and returns what its keys held before. Nothing is opened for it: the caller knows that it all
    /// lies in segments that are known. After an error the picture is begun anew.
    pub(crate) fn catch_up(
        &mut self,
        core: &Core<D>,
        at: u64,
        keys: &[Key],
    ) -> Result<Vec<Option<Extents>>> {
        let caught_up = self.try_catch_up(core, at, keys);
        if caught_up.is_err() {
            self.reset();
        }
        caught_up
    }

    fn try_catch_up(
        &mut self,
        core: &Core<D>,
        at: u64,
        keys: &[Key],
    ) -> Result<Vec<Option<Extents>>> {
        let mut units = self.walk(at);
        self.check(core, at, &[], &mut units)?;
        let (before, delete) = units.split_at(units.len().saturating_sub(1));
        self.apply(core, before, Compacted::default())?;
        let extents = |key: &Key| self.index.get(key.as_bytes()).map(|slot| slot.extents.clone());
        let extents = keys.iter().map(extents).collect();
        self.apply(core, delete, Compacted::default())?;
        self.sequence = at;
        Ok(extents)
    }

    /// Brings the batches that were found into their order, and checks that none is missing, nor
    /// anything that a compaction found beside its output.
    fn check(
        &self,
        core: &Core<D>,
        visible: u64,
        retained: &[Retained],
        units: &mut [Unit],
    ) -> Result<()> {
        if !core.ignores_damage() {
            self.check_keeps(core, retained)?;
        }
        units.sort_unstable();
        for pair in units.windows(2) {
            if pair[0].sequence == pair[1].sequence {
                let segment = &self.segments[pair[1].segment as usize];
                return Err(segment.number_used_twice(pair[1].offset, pair[1].sequence));
            }
        }
        let mut expected = self.sequence.max(self.max_seq) + 1;
        let first_new = units.partition_point(|unit| unit.sequence < expected);
        for unit in &units[first_new..] {
            if unit.sequence != expected {
                break;
            }
            expected += 1;
        }
        if expected > visible {
            return Ok(());
        }
        let last = units.iter().map(|unit| unit.sequence).find(|s| *s >= expected);
        let last = last.map_or(visible, |sequence| sequence - 1);
        let hint = self.open.iter().find_map(|cursor| {
            let path = self.segments[cursor.segment as usize].path();
            cursor.broken.map(|error| format!("{}: {error}", path.display()))
        });
        let path = core.store.path().to_path_buf();
        Err(Error::Missing { path, first: expected, last, hint })
    }

    /// Checks that what a compaction found beside its output is still there.
    fn check_keeps(&self, core: &Core<D>, retained: &[Retained]) -> Result<()> {
        for keep in retained {
            if self.replaced.contains(&keep.id) {
                continue;
            }
            let number = self.segments.iter().position(|segment| segment.id() == keep.id);
            let Some(number) = number else {
                return Err(kept_is_missing(&core.store, keep));
            };
            let cursor = self.open.iter().find(|cursor| cursor.segment as usize == number);
            let Some(cursor) = cursor else { continue };
            let segment = &self.segments[number];
            let before = cursor.pending.iter().filter(|(offset, _)| *offset < keep.end);
            // No number would be missed: below `max_seq` any may be gone.
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
    ///
    /// A chain only says where its next batch is, so where it is not in memory the disk would be asked for one page
    /// at a time. Therefore all chains are walked side by side, each until it has to wait.
    fn walk(&mut self, visible: u64) -> Vec<Unit> {
        let mut units = Vec::new();
        let segments = &self.segments;
        let segment = |cursor: &Cursor| &*segments[cursor.segment as usize];
        for cursor in &mut self.open {
            let mut pending = std::mem::take(&mut cursor.pending);
            pending.retain(|&batch| cursor.look(segment(cursor), visible, batch, &mut units));
            cursor.pending = pending;
        }
        let begin = |cursor| (cursor, ChainAhead::default());
        let mut walking: Vec<_> = self.open.iter_mut().map(begin).collect();
        while !walking.is_empty() {
            walking.retain_mut(|(cursor, ahead)| {
                let segment = segment(cursor);
                !cursor.walk(segment, visible, ahead, &mut units)
            });
        }
        units
    }

    /// Applies batches in order, with the entries of compactions in between where they belong.
    fn apply(&mut self, core: &Core<D>, units: &[Unit], mut compacted: Compacted) -> Result<()> {
        self.open.retain(|cursor| !(cursor.sealed && cursor.pending.is_empty()));
        let (segments, mut heads) = (Arc::clone(&self.segments), HeadsAhead::default());
        let span = |i: usize| {
            let Unit { segment, offset, len, .. } = units[i];
            Span { segment: &*segments[segment as usize], offset, len }
        };
        for (i, unit) in units.iter().enumerate() {
            compacted.catch_up_clears(&mut self.index, unit.sequence);
            heads.begin(i, units.len(), span);
            let segment = &segments[unit.segment as usize];
            let batch = match segment.batch(unit.offset, unit.len) {
                // Below what an output reaches; above it, the history ends before such a batch.
                Err(_) if core.ignores_damage() => continue,
                batch => batch?,
            };
            heads.record(batch.head_len());
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
pub(crate) enum Advance {
    Done,
    /// An output of a compaction has come: the picture must be begun anew.
    Rebuild,
    /// A segment with this id was listed, and cannot be opened: so one is about to come.
    Vanished(u64),
}

/// The batches of a segment at rest; those before a broken link, if that is ignored.
pub(crate) fn chain<F: DiskFile>(
    segment: &Segment<F>,
    ignore_damage: bool,
) -> Result<Vec<(u64, u64)>> {
    let mut batches = Vec::new();
    let mut next = segment.header().data_start;
    let mut ahead = ChainAhead::default();
    loop {
        ahead.step(segment, next);
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
