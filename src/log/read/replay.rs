//! Replay: how a version catches up with the history.
//!
//! A refresh loads the commit word, walks the batches that were added since the last one, checks
//! that no sequence number is missing, and applies the batches in order. Its cost is proportional
//! to what was added, and next to nothing if the commit word has not changed: a segment that was
//! walked to its seal is not read again.

use partd_format::segment::Retained;

use crate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::Disk;
use crate::log::fs::names::segment_name;
use crate::log::read::apply::{Counts, History};
use crate::log::read::compacted::Compacted;
use crate::log::read::cursor::Unit;
use crate::log::read::index::Extents;
use crate::log::read::take_in::{Advance, Discovered};
use crate::log::read::version::Version;
use crate::log::segment::outputs::retained_is_missing;
use crate::log::store::Store;

/// How many times one refresh searches for the segments with the missing batches while more are
/// published.
const DISCOVERIES_MAX: u32 = 16;
/// How many times one refresh rebuilds the version because a compaction has replaced segments.
const REBUILDS_MAX: u32 = 32;

/// The words of the control file from which a refresh starts.
#[derive(Clone, Copy, Debug)]
struct Seen {
    visible: u64,
    directory_epoch: u64,
}

impl Seen {
    /// Loads the commit word first: the batches that it counts can then be found.
    fn now<D: Disk>(store: &Store<D>) -> Seen {
        let visible = store.visible();
        Seen { visible, directory_epoch: store.directory_epoch() }
    }
}

impl<D: Disk> Version<D> {
    /// Brings the version up to date. After an error, the next call rebuilds it.
    ///
    /// If `seals` is true, it walks the segments even if the history has not grown, to see which
    /// were sealed.
    pub(crate) fn refresh(&mut self, store: &Store<D>, seals: bool) -> Result<()> {
        let refreshed = self.try_refresh(store, seals);
        match refreshed {
            Ok(()) => self.known.clear(),
            Err(_) => self.reset(),
        }
        refreshed
    }

    fn try_refresh(&mut self, store: &Store<D>, seals: bool) -> Result<()> {
        let mut gone = None;
        for _ in 0..REBUILDS_MAX {
            match self.advance(store, Seen::now(store), seals)? {
                Advance::Done => return Ok(()),
                Advance::Rebuild => {}
                // An id is never used twice, so an id that is listed again has not been removed.
                Advance::Vanished(id) if gone == Some(id) => {
                    let why = "the directory lists this name, but there is no regular file behind \
                               it";
                    return Err(Error::refused(
                        ErrorKind::Corrupt,
                        store.directory.path_of(&segment_name(id)),
                        why,
                    ));
                }
                Advance::Vanished(id) => gone = Some(id),
            }
            self.start_over();
        }
        let why = format!(
            "compactions replaced segments {REBUILDS_MAX} times while this handle was reading the \
             list of segments; compact less often, or try again"
        );
        Err(Error::refused(ErrorKind::Busy, &**store.directory.path(), why))
    }

    /// Advances to what was `seen`, or further.
    fn advance(&mut self, store: &Store<D>, seen: Seen, seals: bool) -> Result<Advance> {
        let Seen { mut visible, mut directory_epoch } = seen;
        let is_first = self.directory_epoch.is_none();
        let is_current = visible <= self.sequence && self.knows_all_segments(directory_epoch);
        if !is_first && !seals && is_current {
            return Ok(Advance::Done);
        }
        if is_first || !is_current {
            store.tally.indexed(is_first);
        }
        let (mut compacted, mut retained, mut units) =
            (Compacted::default(), Vec::new(), Vec::new());
        let mut tries = DISCOVERIES_MAX;
        loop {
            if !self.knows_all_segments(directory_epoch) {
                let is_first = self.directory_epoch.is_none();
                match self.discover(store, is_first, &mut compacted)? {
                    Discovered::Segments(found) => retained.extend(found),
                    Discovered::Changed(advance) => return Ok(advance),
                }
                self.directory_epoch = Some(directory_epoch);
                if self.max_seq > visible {
                    // An output that was published after the commit word was loaded has entries of
                    // later batches. Replay must reach those, or it would apply them before batches
                    // with lower numbers.
                    visible = store.visible();
                }
            }
            units.extend(self.walk(visible));
            let checked = self.check(store, visible, &retained, &mut units);
            directory_epoch = store.directory_epoch();
            tries -= 1;
            match checked {
                Ok(()) => break,
                Err(error) if tries == 0 || self.knows_all_segments(directory_epoch) => {
                    return Err(error);
                }
                // Segments were published meanwhile. If one of them is a compaction output, it
                // contains the missing batches, and the version is rebuilt. The others are few.
                Err(_) => {}
            }
        }
        self.apply(store, &units, &compacted)?;
        self.sequence = visible.max(self.sequence);
        Ok(Advance::Done)
    }

    /// Applies the batches up to sequence number `at`, the last of which is a delete that this
    /// handle has just committed. Returns the extents of its keys before the delete. It opens no
    /// file: the caller has checked that all these batches are in segments of the version. After an
    /// error, the next refresh rebuilds the version.
    pub(crate) fn catch_up(
        &mut self,
        store: &Store<D>,
        at: u64,
        keys: &[Key],
    ) -> Result<Vec<Option<Extents>>> {
        let caught_up = self.try_catch_up(store, at, keys);
        if caught_up.is_err() {
            self.reset();
        }
        caught_up
    }

    fn try_catch_up(
        &mut self,
        store: &Store<D>,
        at: u64,
        keys: &[Key],
    ) -> Result<Vec<Option<Extents>>> {
        let mut units = self.walk(at);
        self.check(store, at, &[], &mut units)?;
        let (before, delete) = units.split_at(units.len().saturating_sub(1));
        self.apply(store, before, &Compacted::default())?;
        let extents = |key: &Key| self.index.get(key.as_bytes()).map(|slot| slot.extents.clone());
        let extents = keys.iter().map(extents).collect();
        self.apply(store, delete, &Compacted::default())?;
        self.sequence = at;
        Ok(extents)
    }

    /// Sorts the batches by sequence number. Checks that none is missing, and that everything that
    /// a compaction listed as retained is still there.
    fn check(
        &self,
        store: &Store<D>,
        visible: u64,
        retained: &[Retained],
        units: &mut [Unit],
    ) -> Result<()> {
        if !store.ignores_damage() {
            self.check_retained(store, retained)?;
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
        let path = store.directory.path().to_path_buf();
        Err(Error::Missing { path, first: expected, last, hint })
    }

    /// Checks that each segment that a compaction retained still exists, and that its chain of
    /// batches still reaches as far.
    fn check_retained(&self, store: &Store<D>, retained: &[Retained]) -> Result<()> {
        for keep in retained {
            if self.replaced.contains(&keep.id) {
                continue;
            }
            let number = self.segments.iter().position(|segment| segment.id() == keep.id);
            let Some(number) = number else {
                return Err(retained_is_missing(&store.directory, keep));
            };
            let cursor = self.open.iter().find(|cursor| cursor.segment as usize == number);
            let Some(cursor) = cursor else { continue };
            let segment = &self.segments[number];
            let before = cursor.pending.iter().filter(|batch| batch.offset < keep.end);
            // The check for missing sequence numbers cannot notice this: any number up to `max_seq`
            // may be missing.
            if let Some(error) = before.filter_map(|batch| segment.state(batch.offset).err()).next()
            {
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

    /// Continues the walk in every segment that may have more batches. Returns those committed up
    /// to `visible`.
    ///
    /// A batch gives only the position of the next one, so walking a chain that is not in memory
    /// would read one page at a time. To overlap these reads, all chains are walked in turn, each
    /// until it has to wait.
    fn walk(&mut self, visible: u64) -> Vec<Unit> {
        let mut units = Vec::new();
        let segments = &self.segments;
        let segment = |number: u32| &*segments[number as usize];
        for cursor in &mut self.open {
            let mut pending = std::mem::take(&mut cursor.pending);
            let segment = segment(cursor.segment);
            pending.retain(|&batch| cursor.examine(segment, visible, batch, &mut units));
            cursor.pending = pending;
        }
        let walking = self.open.iter_mut().map(|cursor| {
            let chain = segment(cursor.segment).chain(cursor.next).ahead();
            (cursor, chain)
        });
        let mut walking: Vec<_> = walking.collect();
        while !walking.is_empty() {
            walking.retain_mut(|(cursor, chain)| {
                let segment = segment(cursor.segment);
                !cursor.walk(segment, visible, chain, &mut units)
            });
        }
        units
    }

    /// Applies batches in order, and between them the entries of compaction outputs.
    fn apply(&mut self, store: &Store<D>, units: &[Unit], compacted: &Compacted) -> Result<()> {
        self.open.retain(|cursor| !(cursor.sealed && cursor.pending.is_empty()));
        let counts = Counts {
            applied: &mut self.applied,
            batch_bytes: &mut self.batch_bytes,
            value_bytes: &mut self.value_bytes,
        };
        let (segments, ignores_damage) = (&self.segments, store.ignores_damage());
        let pool = store.options.thread_pool.as_ref();
        let history = History { segments, units, compacted, ignores_damage };
        history.apply_to(&mut self.index, pool, counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Partd, SegmentLog};

    /// Nothing but other threads can happen between the loads of two words, so this test starts a
    /// refresh from words that were loaded earlier.
    #[test]
    fn a_refresh_applies_no_entry_of_an_output_before_a_batch_with_a_lower_number() {
        const LONG: usize = 40_000;
        let dir = tempfile::tempdir().unwrap();
        let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
        let open = || options.open(dir.path().join("store")).unwrap();
        let (a, b, reader) = (open(), open(), open());
        a.append([("k", "old")]).unwrap();
        b.append([("w", [7; LONG])]).unwrap();
        let store = &reader.engine.store;
        let seen = Seen::now(store);
        // A delete in a segment that stays open, then an append that a compaction moves into an
        // output.
        a.delete(["k"]).unwrap();
        for key in ["k", "w"] {
            b.append([(key, [8; LONG])]).unwrap();
        }
        assert_eq!(b.compact().unwrap().segments_replaced, 2);
        let mut version = Version::default();
        assert!(matches!(version.advance(store, seen, false), Ok(Advance::Done)));
        assert!(version.sequence >= version.max_seq && version.max_seq > seen.visible);
        let value = version.index.get(b"k").expect("it is there");
        assert_eq!((value.len, value.extents.len()), (LONG as u64, 1));
    }
}
