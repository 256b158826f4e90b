//! Recovery: what the segments say the history is, when the control file cannot say.
//!
//! `kill -9` needs none of it; it is for a power cut, a lost control file, and a store whose last
//! handle did not close it. Everything up to the synced mark must be there. Above it, the history
//! ends before the first number that is missing or not whole, and what lies beyond is made void,
//! durably, before anyone appends. It may be cut at any point, or end in an error, and the next one
//! does the same again: it stores each void word once more, also one that it finds, for it may be
//! the work of a recovery that died, or whose sync failed, and a sync writes only what is dirty.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use partd_format::control::{self as layout};
use partd_format::{Link, State};

use super::control::{Control, Start};
use super::disk::{Disk, DiskFile, was_not_tried};
use super::finder::segment_ids;
use super::segment::Segment;
use super::{Names, damage};
use crate::error::{Error, Result};

/// How much is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The machine has not been booted since, so all that was stored is there.
    Memory,
    /// Nothing but what the checksums say.
    Disk,
}

/// What the segments hold.
#[derive(Debug)]
pub(crate) struct Survey<F> {
    segments: Vec<Surveyed<F>>,
    /// Files that have the name of a segment and no readable header, and may have been more.
    unreadable: Vec<(u64, Error)>,
    /// The others like them, which outputs of compactions replace: what was dead before anyone asked
    /// for a sync may never have come to the disk.
    unreadable_replaced: Vec<u64>,
    trust: Trust,
    pub(crate) store: Option<[u8; 16]>,
    /// The last number of the history.
    pub(crate) sequence: u64,
    /// The newest synced mark that was found.
    pub(crate) synced: u64,
    /// Above every id that was seen.
    pub(crate) next_segment: u64,
}

#[derive(Debug)]
struct Surveyed<F> {
    segment: Segment<F>,
    batches: Vec<Found>,
    /// Where the chain ends.
    end: u64,
    ending: Result<Link, partd_format::Error>,
    is_replaced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    offset: u64,
    len: u64,
    state: Result<State, partd_format::Error>,
}

impl<F: DiskFile> Survey<F> {
    /// Looks at every segment; `synced` is the mark that the control file knows of.
    ///
    /// With `ignore_damage`, the history ends before what is missing or damaged, wherever it is.
    pub(crate) fn new<D: Disk<File = F>>(
        disk: &D,
        names: &Names,
        store: Option<[u8; 16]>,
        synced: u64,
        trust: Trust,
        writable: bool,
        ignore_damage: bool,
    ) -> Result<Survey<F>> {
        let mut survey = Survey {
            segments: Vec::new(),
            unreadable: Vec::new(),
            unreadable_replaced: Vec::new(),
            trust,
            store,
            sequence: 0,
            synced,
            next_segment: 1,
        };
        for id in segment_ids(disk, names)? {
            survey.next_segment = survey.next_segment.max(id.saturating_add(1));
            survey.add(disk, names, id, writable)?;
        }
        let upto = survey.take_outputs(names, ignore_damage)?;
        survey.find_end(names, upto, ignore_damage)?;
        Ok(survey)
    }

    fn add<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        names: &Names,
        id: u64,
        writable: bool,
    ) -> Result<()> {
        let segment = match Segment::open(disk, names, id, self.store.as_ref(), writable) {
            Ok(segment) => segment,
            Err(error @ Error::Damage { .. }) => {
                self.unreadable.push((id, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.store.get_or_insert(segment.header().store);
        let mut batches = Vec::new();
        let mut end = segment.header().data_start;
        let ending = loop {
            match segment.link(end) {
                Ok(Link::Batch(len)) => {
                    batches.push(Found { offset: end, len, state: segment.state(end) });
                    end += len;
                }
                ending => break ending,
            }
        };
        self.segments.push(Surveyed { segment, batches, end, ending, is_replaced: false });
        Ok(())
    }

    /// Marks what outputs of compactions replace; returns the number up to which others may miss.
    fn take_outputs(&mut self, names: &Names, ignore_damage: bool) -> Result<u64> {
        let mut newest = None;
        let mut replaced = Vec::new();
        for surveyed in &self.segments {
            let Some(output) = surveyed.segment.header().output else { continue };
            let (replaces, keeps) = surveyed.segment.lists()?;
            replaced.extend(replaces);
            let age = (output.upto, surveyed.segment.id());
            if newest.as_ref().is_none_or(|(newest, _)| *newest < age) {
                newest = Some((age, keeps));
            }
        }
        for surveyed in &mut self.segments {
            surveyed.is_replaced = replaced.contains(&surveyed.segment.id());
        }
        let gone = self.unreadable.extract_if(.., |(id, _)| replaced.contains(id));
        self.unreadable_replaced = gone.map(|(id, _)| id).collect();
        if !ignore_damage {
            self.check_notes()?;
        }
        let Some(((upto, output), keeps)) = newest else { return Ok(0) };
        if ignore_damage {
            return Ok(upto);
        }
        for keep in keeps.iter().filter(|keep| !replaced.contains(&keep.id)) {
            let kept = self.segments.iter().find(|surveyed| surveyed.segment.id() == keep.id);
            match kept {
                Some(kept) => kept.must_reach(keep.end)?,
                None => {
                    let unreadable = self.unreadable.iter().position(|(id, _)| *id == keep.id);
                    if let Some(unreadable) = unreadable {
                        return Err(self.unreadable.swap_remove(unreadable).1);
                    }
                    let why = format!(
                        "this segment is gone, and segment {output:#x} says that it holds a part \
                         of the store"
                    );
                    return Err(Error::refused(names.segment(keep.id), why));
                }
            }
        }
        Ok(upto)
    }

    /// Checks that each chain reaches as far as it is noted to be on stable storage: the mark may
    /// be lost with the batches that repeat it.
    fn check_notes(&self) -> Result<()> {
        let mut present = self.segments.iter().filter(|surveyed| !surveyed.is_replaced);
        present.try_for_each(|surveyed| surveyed.must_reach(surveyed.segment.note()))
    }

    /// Finds the last number of the history.
    fn find_end(&mut self, names: &Names, upto: u64, ignore_damage: bool) -> Result<()> {
        let trust = self.trust;
        let mut numbers: BTreeMap<u64, (usize, Found)> = BTreeMap::new();
        for (i, surveyed) in self.segments.iter().enumerate() {
            if surveyed.is_replaced {
                continue;
            }
            if surveyed.segment.header().output.is_some() {
                if !ignore_damage {
                    surveyed.must_parse()?;
                }
                continue;
            }
            for &found in &surveyed.batches {
                let Ok(State::Committed(sequence)) = found.state else { continue };
                // A header that does not parse says nothing about the mark.
                if let Ok(batch) = surveyed.segment.batch(found.offset, found.len) {
                    self.synced = self.synced.max(batch.synced());
                }
                if let Some((other, _)) = numbers.insert(sequence, (i, found)) {
                    let path = self.segments[other].segment.path();
                    let why = format!(
                        "sequence number {sequence} is used at offset {} and again in {}",
                        found.offset,
                        path.display()
                    );
                    return Err(Error::refused(surveyed.segment.path(), why));
                }
            }
        }
        let must = match trust {
            _ if ignore_damage => 0,
            Trust::Disk => self.synced,
            // A number is only ever given when the one before it is in place.
            Trust::Memory => numbers.last_key_value().map_or(0, |(last, _)| *last).max(self.synced),
        };
        let mut end = upto;
        // What a compaction may have dropped can be missing; what is there must be readable.
        for (_, (i, found)) in numbers.range(..=upto) {
            let parsed = self.segments[*i].segment.batch(found.offset, found.len);
            if let Err(error) = parsed
                && !ignore_damage
            {
                return Err(error);
            }
        }
        loop {
            let next = end + 1;
            let whole = match numbers.get(&next) {
                Some((i, found)) => {
                    let segment = &self.segments[*i].segment;
                    let values = trust == Trust::Disk && next > self.synced;
                    segment.batch(found.offset, found.len).and_then(|batch| {
                        if values {
                            batch.check_values(segment.salt()).map_err(|e| segment.damage(e))?;
                        }
                        Ok(())
                    })
                }
                None if next > must => break,
                None => Err(self.missing(names, next, must, &numbers)),
            };
            match whole {
                Ok(()) => end = next,
                Err(_) if next > must => break,
                Err(error) => return Err(error),
            }
        }
        self.sequence = end;
        Ok(())
    }

    /// The error for a number that must be there and is not.
    fn missing(
        &self,
        names: &Names,
        first: u64,
        must: u64,
        numbers: &BTreeMap<u64, (usize, Found)>,
    ) -> Error {
        let next = numbers.range(first..).next().map(|(sequence, _)| *sequence);
        let last = next.map_or(must, |next| next - 1).min(must);
        let mut present = self.segments.iter().filter(|surveyed| !surveyed.is_replaced);
        let broken = present.find_map(|surveyed| {
            let state = surveyed.batches.iter().find_map(|found| found.state.err());
            let error = state.or(surveyed.ending.err())?;
            Some(damage(surveyed.segment.path(), error))
        });
        let broken = broken.as_ref().or(self.unreadable.first().map(|(_, error)| error));
        let hint = broken.map(ToString::to_string);
        Error::Missing { path: names.dir().to_owned(), first, last, hint }
    }

    /// Makes void what is not in the history, durably; removes what is replaced or was never
    /// published; and writes a control file for the boot that is given.
    pub(crate) fn apply<D: Disk<File = F>>(
        &self,
        disk: &D,
        names: &Names,
        old: Option<&Control<D>>,
        boot: [u8; 16],
        store: [u8; 16],
    ) -> Result<()> {
        let same_boot = old.filter(|old| old.fixed.boot == boot && old.fixed.store == store);
        for surveyed in self.segments.iter().filter(|surveyed| !surveyed.is_replaced) {
            if surveyed.segment.header().output.is_none()
                && surveyed.revoke_beyond(self.sequence, self.trust)
            {
                let segment = &surveyed.segment;
                let synced = segment.file().sync();
                synced.map_err(|error| match same_boot {
                    Some(old) => old.sync_error(segment.path(), error),
                    None => Error::io("sync", segment.path(), error),
                })?;
            }
        }
        let dir = names.dir();
        let mut sync_failed = same_boot.is_some_and(Control::has_sync_failed);
        let replaced: Vec<_> = self.segments.iter().filter(|s| s.is_replaced).collect();
        let any = !replaced.is_empty() || !self.unreadable_replaced.is_empty();
        if any && !sync_failed {
            // What replaces them must have its name for good. If that cannot be had they stay,
            // which costs their space, and nothing can be promised any more.
            match disk.sync_dir(dir) {
                Err(error) if was_not_tried(&error) => {
                    return Err(Error::io("sync", dir, error));
                }
                synced => sync_failed = synced.is_err(),
            }
        }
        for surveyed in replaced.into_iter().filter(|_| !sync_failed) {
            remove(disk, &surveyed.segment.path())?;
        }
        let gone = self.unreadable_replaced.iter().copied();
        for id in gone.clone().filter(|_| !sync_failed) {
            remove(disk, &names.segment(id))?;
        }
        let unreadable = self.unreadable.iter().map(|(id, _)| *id);
        for id in unreadable.chain(gone.filter(|_| sync_failed)) {
            // Nothing of the history is in it, but a person may want to look.
            let path = names.segment(id);
            disk.replace(&path, &path.with_extension("torn"))
                .map_err(|e| Error::io("set aside", path, e))?;
        }
        for name in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
            if Names::is_temporary(&name) {
                remove(disk, &dir.join(name))?;
            }
        }
        let start = Start {
            fixed: layout::Fixed {
                store,
                boot,
                created_unix_ms: old
                    .map_or_else(|| disk.now_unix_ms(), |o| o.fixed.created_unix_ms),
            },
            sequence: self.sequence,
            next_segment: self.next_segment.max(same_boot.map_or(1, |old| {
                // A random word would use up the ids.
                old.next_segment().min(self.next_segment.saturating_add(1 << 20))
            })),
            generation: 1,
            synced: self.synced.min(self.sequence),
            sync_failed,
        };
        Control::<D>::create(disk, names, &start)
    }
}

impl<F: DiskFile> Surveyed<F> {
    /// Makes void every batch that is not in the history up to `end`, and seals the chain; returns
    /// whether anything was made void that must stay so.
    fn revoke_beyond(&self, end: u64, trust: Trust) -> bool {
        let mut changed = false;
        for found in &self.batches {
            match found.state {
                // In memory it was never anything else.
                Ok(State::Void) if trust == Trust::Memory => {}
                Ok(State::Committed(sequence)) if sequence <= end => {}
                _ => {
                    self.segment.revoke(found.offset);
                    changed = true;
                }
            }
        }
        if self.ending != Ok(Link::Sealed) {
            // Its writer is gone; and where the file had an earlier life, the word that ends the
            // chain may be of that. Not worth a sync: an open end says the same.
            self.segment.seal(self.end);
            self.segment.punch_behind(self.end);
        }
        changed
    }

    /// Checks that the head of every batch can be read: of an output, all of them are history.
    fn must_parse(&self) -> Result<()> {
        let mut batches = self.batches.iter();
        batches.try_for_each(|found| self.segment.batch(found.offset, found.len).map(drop))
    }

    /// Checks that the chain reaches `end`, and that what lies before it is in the history or not,
    /// but nothing that cannot be told.
    fn must_reach(&self, end: u64) -> Result<()> {
        if self.end < end {
            return Err(self.broken_at_end());
        }
        let mut before = self.batches.iter().take_while(|found| found.offset < end);
        match before.find_map(|found| found.state.err()) {
            Some(error) => Err(self.segment.damage(error)),
            None => Ok(()),
        }
    }

    fn broken_at_end(&self) -> Error {
        let error = self.ending.err().unwrap_or(partd_format::Error {
            offset: self.end,
            what: "link word",
            expected: partd_format::Evidence::Text("a batch"),
            found: partd_format::Evidence::Text("the end of the chain"),
        });
        self.segment.damage(error)
    }
}

fn remove<D: Disk>(disk: &D, path: &Path) -> Result<()> {
    match disk.unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| Error::io("remove", path, error)),
    }
}
