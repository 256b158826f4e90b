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
use super::image::{FileImage, Image, Pages, put};
use super::names::{Change, Names};
use super::{Violation, is_control};

/// A part of a file whose last version is not durable.
#[derive(Debug)]
struct Dirty {
    unit: u64,
    /// Each version with its position in the log.
    versions: Vec<(usize, Box<[u8]>)>,
}

#[derive(Debug, Default)]
struct File {
    /// The inode number that `stat` reports.
    identity: Option<u64>,
    len: u64,
    /// The position in the log of the last change of length, unless it is durable.
    len_stamp: Option<usize>,
    durable: Pages,
    live: BTreeMap<u32, Box<[u8]>>,
    dirty: Vec<Dirty>,
    by_unit: HashMap<u64, usize>,
    /// Pages that a failed sync has marked clean although they are not durable; later syncs skip
    /// them.
    passed_over: BTreeSet<u32>,
}

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
            let live = file.pages.iter().map(|(&n, page)| (n, page.bytes().into())).collect();
            let durable = file.pages.clone();
            let identity = file.identity;
            files.insert(inode, File { identity, len: file.len, durable, live, ..File::default() });
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
            Event::Store { inode, offset, bytes } => self.store(*inode, *offset, bytes, stamp),
            Event::Sync { inode, len } => {
                let log_end = match self.defect {
                    Some(Defect::SyncTooEarly) => {
                        self.begun.get(&record.process).map_or(0, |b| b.at)
                    }
                    _ => usize::MAX,
                };
                self.sync(*inode, len.unwrap_or(u64::MAX), log_end);
            }
            Event::Punch { inode, offset, len } => self.punch(*inode, *offset, *len, stamp),
            Event::Create { path, inode, identity, len } => {
                let (identity, len) = (Some(*identity), *len);
                let file = File { identity, len, len_stamp: Some(stamp), ..File::default() };
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
            Event::SyncFailed { inode } => {
                if let Some(file) = self.files.get_mut(inode) {
                    let pages = file.dirty.iter().map(|dirty| place(dirty.unit, self.unit_len).0);
                    file.passed_over.extend(pages);
                }
            }
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

    fn store(&mut self, inode: u32, offset: u64, bytes: &[u8], stamp: usize) {
        let unit_len = self.unit_len;
        let Some(file) = self.files.get_mut(&inode) else { return };
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let in_page = (at % 4096) as usize;
            let (part, behind) = rest.split_at(rest.len().min(4096 - in_page));
            let page = file.live.entry((at / 4096) as u32).or_insert_with(|| vec![0; 4096].into());
            page[in_page..in_page + part.len()].copy_from_slice(part);
            file.passed_over.remove(&((at / 4096) as u32));
            at += part.len() as u64;
            rest = behind;
        }
        for unit in offset / unit_len..(offset + bytes.len() as u64).div_ceil(unit_len) {
            let page = (unit * unit_len / 4096) as u32;
            let from = (unit * unit_len % 4096) as usize;
            let content = file.live[&page][from..from + unit_len as usize].into();
            let dirty = &mut file.dirty;
            let place = *file.by_unit.entry(unit).or_insert_with(|| {
                dirty.push(Dirty { unit, versions: Vec::new() });
                dirty.len() - 1
            });
            dirty[place].versions.push((stamp, content));
        }
    }

    /// Frees the space of whole pages; a power cut may leave each as it was.
    fn punch(&mut self, inode: u32, offset: u64, len: u64, stamp: usize) {
        let Some(file) = self.files.get(&inode) else { return };
        let pages = (offset / 4096) as u32..((offset + len) / 4096) as u32;
        // Pages that read as zeros do not change.
        let held = file.live.range(pages).filter(|(_, bytes)| bytes.iter().any(|&b| b != 0));
        let pages: Vec<u32> = held.map(|(page, _)| *page).collect();
        for page in pages {
            self.store(inode, u64::from(page) * 4096, &[0; 4096], stamp);
        }
    }

    /// Makes the stores before position `log_end` of the log durable, in the pages of the first
    /// `len` bytes.
    fn sync(&mut self, inode: u32, len: u64, log_end: usize) {
        let unit_len = self.unit_len;
        let Some(file) = self.files.get_mut(&inode) else { return };
        if len >= file.len && file.len_stamp.is_some_and(|stamp| stamp < log_end) {
            file.len_stamp = None;
        }
        let end = len.checked_next_multiple_of(4096).unwrap_or(len);
        let mut rest = Vec::new();
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for mut dirty in std::mem::take(&mut file.dirty) {
            let (number, from) = place(dirty.unit, unit_len);
            let is_written = dirty.unit * unit_len < end && !file.passed_over.contains(&number);
            let kept = match is_written {
                true => dirty.versions.partition_point(|(stamp, _)| *stamp < log_end),
                false => 0,
            };
            if kept > 0 {
                let page = pages.entry(number).or_insert_with(|| content(&file.durable, number));
                let version = &dirty.versions[kept - 1].1;
                page[from..from + version.len()].copy_from_slice(version);
                dirty.versions.drain(..kept);
            }
            if !dirty.versions.is_empty() {
                rest.push(dirty);
            }
        }
        for (number, page) in pages {
            put(&mut file.durable, number, &page);
        }
        file.by_unit = rest.iter().enumerate().map(|(i, dirty)| (dirty.unit, i)).collect();
        file.dirty = rest;
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
        let file = self.files.get(&self.control?)?;
        let mut control = FileImage { len: file.len, ..FileImage::default() };
        file.live.iter().for_each(|(&number, page)| put(&mut control.pages, number, page));
        Some(control)
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
        let header = SegmentHeader::decode(file.live.get(&0)?, file.len).ok()?;
        let at = offset.checked_sub(8).filter(|at| *at >= header.data_start)?;
        let Ok(State::Committed(_)) = State::decode(header.salt, at, word) else { return None };
        let mut head = [0; 48];
        for (byte, at) in head.iter_mut().zip(at..) {
            *byte = file.live.get(&((at / 4096) as u32)).map_or(0, |p| p[(at % 4096) as usize]);
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
                let left =
                    files.entry(inode).or_insert_with(|| self.file(inode, file, units, choice));
                image.files.insert(path, left.clone());
            }
        }
        image
    }

    /// What a power cut now leaves of a file.
    fn file(&self, inode: u32, file: &File, units: &[Unit], choice: &Choice) -> FileImage {
        let is_whole = |(unit, version): (&Unit, &usize)| {
            unit.inode == inode && unit.place.is_none() && *version > 0
        };
        let is_long =
            file.len_stamp.is_none() || units.iter().zip(choice.versions.iter()).any(is_whole);
        let len = if is_long { file.len } else { 0 };
        let pages = if len > 0 { self.pages(inode, file, units, choice) } else { Pages::new() };
        FileImage { len, pages, identity: file.identity }
    }

    fn pages(&self, inode: u32, file: &File, units: &[Unit], choice: &Choice) -> Pages {
        let mut pages = file.durable.clone();
        let mut changed: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (unit, &version) in units.iter().zip(choice.versions.iter()) {
            let Some(at) = unit.place.filter(|_| unit.inode == inode && version > 0) else {
                continue;
            };
            let dirty = &file.dirty[at];
            let (number, from) = place(dirty.unit, self.unit_len);
            let page = changed.entry(number).or_insert_with(|| content(&file.durable, number));
            let kept = &dirty.versions[version - 1].1;
            page[from..from + kept.len()].copy_from_slice(kept);
        }
        for (number, page) in changed {
            put(&mut pages, number, &page);
        }
        pages
    }
}

/// The page of a unit, and the offset of the unit in it.
fn place(unit: u64, unit_len: u64) -> (u32, usize) {
    ((unit * unit_len / 4096) as u32, (unit * unit_len % 4096) as usize)
}

fn content(pages: &Pages, number: u32) -> Vec<u8> {
    pages.get(&number).map_or_else(|| vec![0; 4096], |page| page.bytes().to_vec())
}
