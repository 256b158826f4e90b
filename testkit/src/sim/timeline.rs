//! The log of a disk up to a moment: what is durable by then, what may be lost, and what the store
//! has promised. It walks the log once, one record at a time.
//!
//! Changes that may be lost are kept in units: pages, sectors or words of files, each with its
//! versions since it was last durable; and the lengths of files. Changes of names are kept
//! separately, in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use partd_format::{Batch, Link, SegmentHeader, State};

use super::disk::{Defect, Event, Record, SimDisk};
use super::files::File;
use super::image::{FileImage, Image};
use super::names::{Change, Names};
use super::{Violation, is_control};

/// A change that a power cut may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub inode: u32,
    /// The index of the unit in the file; `None` for the file's length.
    place: Option<usize>,
    /// The number of versions since the unit was durable.
    pub versions: usize,
    /// The position in the log of the first store to the unit.
    stamp: usize,
}

/// The outcome of a power cut: for each unit the version that is kept (0 for the durable one), and
/// for each change of names whether it happened.
#[derive(Clone, Debug)]
pub struct Choice {
    pub versions: Arc<[usize]>,
    pub names: Arc<[bool]>,
}

/// The log up to a moment.
#[derive(Debug)]
pub struct Timeline<'a> {
    log: &'a [Record],
    next: usize,
    boot: u64,
    defect: Option<Defect>,
    unit_len: u64,
    durable: Names,
    pending: Vec<Change>,
    files: BTreeMap<u32, File>,
    control: Option<u32>,
    /// Directories of which a sync has failed.
    failed_dirs: BTreeSet<PathBuf>,
    /// The batches of the history after the first `before`, in order.
    pub taken: Vec<Option<usize>>,
    before: u64,
    visible: u64,
    /// The number of batches that must survive a power cut.
    pub floor: u64,
    /// The complete backups, each with its sequence number.
    pub backups: BTreeMap<PathBuf, u64>,
    begun: HashMap<u32, Begun>,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: usize,
    batch: Option<usize>,
    visible: u64,
}

impl<'a> Timeline<'a> {
    /// The start of a disk's log. The image that it was booted from holds `before` batches, all
    /// durable.
    pub fn new(disk: &SimDisk, log: &'a [Record], unit_len: u64, before: u64) -> Timeline<'a> {
        let base = disk.base();
        let mut names = Names { dirs: base.dirs.clone(), files: BTreeMap::new() };
        let mut files = BTreeMap::new();
        for (path, file, inode) in base.inodes() {
            names.files.insert(path.clone(), inode);
            files.insert(inode, File::durable(file, unit_len));
        }
        Timeline {
            log,
            next: 0,
            boot: base.boot,
            defect: disk.defect(),
            unit_len,
            durable: names,
            pending: Vec::new(),
            files,
            control: None,
            failed_dirs: BTreeSet::new(),
            taken: Vec::new(),
            before,
            visible: before,
            floor: before,
            backups: BTreeMap::new(),
            begun: HashMap::new(),
        }
    }

    /// The number of records passed.
    pub fn at(&self) -> usize {
        self.next
    }

    /// The number of batches in the history.
    pub fn ceiling(&self) -> u64 {
        self.before + self.taken.len() as u64
    }

    /// Passes the next record; returns whether it changed what a power cut may leave behind. `None`
    /// at the end of the log.
    pub fn pass(&mut self) -> Option<Result<bool, Violation>> {
        let record = self.log.get(self.next)?;
        let stamp = self.next;
        self.next += 1;
        match &record.event {
            Event::Store { inode, offset, bytes } => {
                self.change(*inode, |file| file.store(*offset, bytes, stamp));
            }
            Event::Sync { inode, len } => {
                let log_end = match self.defect {
                    Some(Defect::SyncTooEarly) => {
                        self.begun.get(&record.process).map_or(0, |b| b.at)
                    }
                    _ => usize::MAX,
                };
                self.change(*inode, |file| file.sync(len.unwrap_or(u64::MAX), log_end));
            }
            Event::Punch { inode, offset, len } => {
                self.change(*inode, |file| file.punch(*offset, *len, stamp));
            }
            Event::Create { path, inode, identity, len } => {
                let file = File::created(*identity, *len, stamp, self.unit_len);
                self.files.insert(*inode, file);
                self.pending.push(Change::Create(path.clone(), *inode));
            }
            Event::Rename { from, to, inode } => {
                if is_control(to) {
                    self.control = Some(*inode);
                }
                self.pending.push(Change::Rename(from.clone(), to.clone(), *inode));
            }
            Event::Unlink { path, inode } => {
                self.pending.push(Change::Unlink(path.clone(), *inode));
            }
            Event::Link { path, inode } => {
                self.pending.push(Change::Create(path.clone(), *inode));
            }
            Event::MakeDir { path } => self.pending.push(Change::MakeDir(path.clone())),
            Event::SyncFailed { inode } => self.change(*inode, File::pass_over),
            Event::SyncDirFailed { path } => {
                self.failed_dirs.insert(path.clone());
            }
            Event::SyncDir { path } if self.failed_dirs.contains(path) => {}
            Event::SyncDir { path } => {
                let durable = &mut self.durable;
                self.pending.retain(|change| {
                    let is_in_dir = change.dir() == Some(path);
                    if is_in_dir {
                        durable.apply(change);
                    }
                    !is_in_dir
                });
            }
            Event::Commit { word, batch } => {
                if !word.done {
                    if word.sequence != self.ceiling() + 1 {
                        let text = format!(
                            "number {} is taken, after {} batches",
                            word.sequence,
                            self.ceiling()
                        );
                        return Some(Err(Violation::new("I6", text)));
                    }
                    self.taken.push(*batch);
                }
                self.visible = word.visible();
                return Some(Ok(false));
            }
            Event::Recovered { sequence } => {
                // A number that was taken but not given to its batch is free again.
                if !(self.visible..=self.ceiling()).contains(sequence) {
                    let visible = self.visible;
                    let text = format!("{sequence} batches recovered, {visible} were visible");
                    return Some(Err(Violation::new("I1", text)));
                }
                self.taken.truncate((*sequence - self.before) as usize);
                self.visible = *sequence;
                return Some(Ok(false));
            }
            Event::Begin { batch } => {
                let begun = Begun { at: stamp, batch: *batch, visible: self.visible };
                self.begun.insert(record.process, begun);
                return Some(Ok(false));
            }
            Event::BackedUp { path, sequence } => {
                let visible = self.begun.get(&record.process).map_or(0, |begun| begun.visible);
                if !(visible..=self.visible).contains(sequence) {
                    let text = format!(
                        "a backup as of {sequence}, made while {visible} to {} were visible",
                        self.visible
                    );
                    return Some(Err(Violation::new("I10", text)));
                }
                self.backups.insert(path.clone(), *sequence);
            }
            Event::End { durable } => {
                if *durable && let Some(begun) = self.begun.get(&record.process) {
                    let of = |batch| self.taken.iter().position(|taken| *taken == Some(batch));
                    let own = begun.batch.and_then(of).map_or(0, |i| self.before + i as u64 + 1);
                    self.floor = self.floor.max(begun.visible).max(own);
                }
            }
        }
        Some(Ok(true))
    }

    fn change(&mut self, inode: u32, change: impl FnOnce(&mut File)) {
        if let Some(file) = self.files.get_mut(&inode) {
            change(file);
        }
    }

    /// The changes that a power cut now may lose, in the order of their first stores.
    pub fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for (&inode, file) in &self.files {
            if let Some(stamp) = file.len_stamp.filter(|_| file.len > 0) {
                units.push(Unit { inode, place: None, versions: 1, stamp });
            }
            for (place, dirty) in file.dirty.iter().enumerate() {
                let (stamp, versions) = (dirty.versions[0].0, dirty.versions.len());
                units.push(Unit { inode, place: Some(place), versions, stamp });
            }
        }
        units.sort_by_key(|unit| unit.stamp);
        units
    }

    /// The number of changes of names that a power cut now may lose.
    pub fn pending_names(&self) -> usize {
        self.pending.len()
    }

    /// The number of batches that a reader sees.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// The control file as it is in memory; `None` if it does not exist yet.
    pub fn live_control(&self) -> Option<FileImage> {
        self.files.get(&self.control?).map(File::in_memory)
    }

    /// If the last store was a state word, the units of that batch's link, state, header, table and
    /// keys, in file order, and for the first batch of a segment also the units of the segment's
    /// header. The results are indexes into `units`.
    pub fn just_settled(&self, units: &[Unit]) -> Vec<usize> {
        self.head_of_last_store().map_or_else(Vec::new, |(inode, start, end)| {
            let file = &self.files[&inode];
            let covers = |(_, unit): &(usize, &Unit)| {
                let place = unit.place.filter(|_| unit.inode == inode);
                let at = place.map(|place| file.dirty[place].unit * self.unit_len);
                at.is_some_and(|at| at < end && start < at + self.unit_len)
            };
            let mut covered: Vec<(usize, &Unit)> =
                units.iter().enumerate().filter(covers).collect();
            covered.sort_by_key(|(_, unit)| unit.place.map(|place| file.dirty[place].unit));
            covered.into_iter().map(|(i, _)| i).collect()
        })
    }

    /// The file of the batch whose state was stored last, and the byte range of its head.
    fn head_of_last_store(&self) -> Option<(u32, u64, u64)> {
        let Event::Store { inode, offset, bytes } = &self.log[self.next.checked_sub(1)?].event
        else {
            return None;
        };
        let word = u64::from_le_bytes(bytes[..].try_into().ok()?);
        let file = self.files.get(inode).filter(|_| self.control != Some(*inode))?;
        let header = SegmentHeader::decode(file.page(0)?, file.len).ok()?;
        let at = offset.checked_sub(8).filter(|at| *at >= header.data_start)?;
        let Ok(State::Committed(_)) = State::decode(header.salt, at, word) else { return None };
        let mut head = [0; 48];
        for (byte, at) in head.iter_mut().zip(at..) {
            *byte = file.page((at / 4096) as u32).map_or(0, |page| page[(at % 4096) as usize]);
        }
        let link = u64::from_le_bytes(head[..8].try_into().ok()?);
        let Ok(Link::Batch(len)) = Link::decode(header.salt, at, link, file.len) else {
            return None;
        };
        let head_len = Batch::values_start(at, len, &head[16..]).ok()?;
        Some((*inode, if at == header.data_start { 0 } else { at }, at + head_len))
    }

    /// Whether a unit belongs to the control file.
    pub fn is_control(&self, unit: &Unit) -> bool {
        self.control == Some(unit.inode)
    }

    /// The image that a power cut now leaves if `choice` decides about `units`.
    pub fn image(&self, units: &[Unit], choice: &Choice) -> Image {
        let mut names = self.durable.clone();
        for (change, _) in self.pending.iter().zip(choice.names.iter()).filter(|(_, kept)| **kept) {
            names.apply(change);
        }
        let mut image = Image { boot: self.boot + 1, dirs: names.dirs, files: BTreeMap::new() };
        let mut files: HashMap<u32, FileImage> = HashMap::new();
        for (path, inode) in names.files {
            if !path.parent().is_some_and(|dir| image.dirs.contains(dir)) {
                continue;
            }
            if let Some(file) = self.files.get(&inode) {
                let left = files.entry(inode).or_insert_with(|| {
                    let of_file = units.iter().zip(choice.versions.iter());
                    let kept = of_file.filter(|(u, version)| u.inode == inode && **version > 0);
                    let keeps_len = kept.clone().any(|(unit, _)| unit.place.is_none());
                    let in_place = kept.filter_map(|(unit, kept)| Some((unit.place?, *kept)));
                    file.left(keeps_len, in_place)
                });
                image.files.insert(path, left.clone());
            }
        }
        image
    }
}
