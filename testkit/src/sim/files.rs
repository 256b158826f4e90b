//! The files of a timeline: which stores to them are durable, and which a power cut may lose.
//!
//! Stores are kept in units (pages, sectors or words), each with its versions since it was last
//! durable. The length of a file is a unit of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::image::{FileImage, Pages, put};

/// A part of a file whose last version is not durable.
#[derive(Debug)]
pub(super) struct Dirty {
    pub(super) unit: u64,
    /// Each version with its position in the log.
    pub(super) versions: Vec<(usize, Box<[u8]>)>,
}

/// A file, with its units of `unit_len` bytes.
#[derive(Debug)]
pub(super) struct File {
    unit_len: u64,
    /// The inode number that `stat` reports.
    identity: Option<u64>,
    pub(super) len: u64,
    /// The position in the log of the last change of length, unless it is durable.
    pub(super) len_stamp: Option<usize>,
    durable: Pages,
    /// The pages in memory that were ever stored to. The others are as in `durable`.
    live: BTreeMap<u32, Box<[u8]>>,
    pub(super) dirty: Vec<Dirty>,
    by_unit: HashMap<u64, usize>,
    /// Pages that a failed sync has marked clean although they are not durable; later syncs skip
    /// them.
    passed_over: BTreeSet<u32>,
}

impl File {
    /// A file whose contents are durable.
    pub(super) fn durable(file: &FileImage, unit_len: u64) -> File {
        let durable = file.pages.clone();
        File { durable, ..File::new(file.identity, file.len, None, unit_len) }
    }

    /// A file of zeros that was created at `stamp`.
    pub(super) fn created(identity: u64, len: u64, stamp: usize, unit_len: u64) -> File {
        File::new(Some(identity), len, Some(stamp), unit_len)
    }

    fn new(identity: Option<u64>, len: u64, len_stamp: Option<usize>, unit_len: u64) -> File {
        File {
            unit_len,
            identity,
            len,
            len_stamp,
            durable: Pages::new(),
            live: BTreeMap::new(),
            dirty: Vec::new(),
            by_unit: HashMap::new(),
            passed_over: BTreeSet::new(),
        }
    }

    pub(super) fn store(&mut self, offset: u64, bytes: &[u8], stamp: usize) {
        let unit_len = self.unit_len;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let in_page = (at % 4096) as usize;
            let (part, behind) = rest.split_at(rest.len().min(4096 - in_page));
            let number = (at / 4096) as u32;
            let page =
                self.live.entry(number).or_insert_with(|| content(&self.durable, number).into());
            page[in_page..in_page + part.len()].copy_from_slice(part);
            self.passed_over.remove(&number);
            at += part.len() as u64;
            rest = behind;
        }
        for unit in offset / unit_len..(offset + bytes.len() as u64).div_ceil(unit_len) {
            let page = (unit * unit_len / 4096) as u32;
            let from = (unit * unit_len % 4096) as usize;
            let content = self.live[&page][from..from + unit_len as usize].into();
            let dirty = &mut self.dirty;
            let place = *self.by_unit.entry(unit).or_insert_with(|| {
                dirty.push(Dirty { unit, versions: Vec::new() });
                dirty.len() - 1
            });
            dirty[place].versions.push((stamp, content));
        }
    }

    /// Frees the space of whole pages; a power cut may leave each as it was.
    pub(super) fn punch(&mut self, offset: u64, len: u64, stamp: usize) {
        let pages = (offset / 4096) as u32..((offset + len) / 4096) as u32;
        let held = self.live.range(pages.clone()).map(|(page, _)| *page);
        let held: BTreeSet<u32> = held.chain(self.durable.range(pages).map(|(p, _)| *p)).collect();
        // Pages that read as zeros do not change.
        let is_zero =
            |page: &u32| self.page(*page).is_none_or(|bytes| bytes.iter().all(|&b| b == 0));
        let held: Vec<u32> = held.into_iter().filter(|page| !is_zero(page)).collect();
        for page in held {
            self.store(u64::from(page) * 4096, &[0; 4096], stamp);
        }
    }

    /// Makes the stores before position `log_end` of the log durable, in the pages of the first
    /// `len` bytes.
    pub(super) fn sync(&mut self, len: u64, log_end: usize) {
        let unit_len = self.unit_len;
        if len >= self.len && self.len_stamp.is_some_and(|stamp| stamp < log_end) {
            self.len_stamp = None;
        }
        let end = len.checked_next_multiple_of(4096).unwrap_or(len);
        let mut rest = Vec::new();
        let mut pages: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for mut dirty in std::mem::take(&mut self.dirty) {
            let (number, from) = place(dirty.unit, unit_len);
            let is_written = dirty.unit * unit_len < end && !self.passed_over.contains(&number);
            let kept = match is_written {
                true => dirty.versions.partition_point(|(stamp, _)| *stamp < log_end),
                false => 0,
            };
            if kept > 0 {
                let page = pages.entry(number).or_insert_with(|| content(&self.durable, number));
                let version = &dirty.versions[kept - 1].1;
                page[from..from + version.len()].copy_from_slice(version);
                dirty.versions.drain(..kept);
            }
            if !dirty.versions.is_empty() {
                rest.push(dirty);
            }
        }
        for (number, page) in pages {
            put(&mut self.durable, number, &page);
        }
        self.by_unit = rest.iter().enumerate().map(|(i, dirty)| (dirty.unit, i)).collect();
        self.dirty = rest;
    }

    /// Counts all pages that are not durable as clean: a sync of them has failed.
    pub(super) fn pass_over(&mut self) {
        let pages = self.dirty.iter().map(|dirty| place(dirty.unit, self.unit_len).0);
        self.passed_over.extend(pages);
    }

    /// Returns the file that a power cut leaves. Unless `keeps_len`, a length that is not durable
    /// is lost, and the file is empty. Each item of `kept` is an index in `dirty` and the version
    /// of that unit that is kept, counted from 1; units that are not in `kept` stay as they were
    /// last synced.
    pub(super) fn left(
        &self,
        keeps_len: bool,
        kept: impl Iterator<Item = (usize, usize)>,
    ) -> FileImage {
        let mut left = FileImage { identity: self.identity, ..FileImage::default() };
        if self.len_stamp.is_some() && !keeps_len {
            return left;
        }
        (left.len, left.pages) = (self.len, self.durable.clone());
        let mut changed: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (at, version) in kept {
            let dirty = &self.dirty[at];
            let (number, from) = place(dirty.unit, self.unit_len);
            let page = changed.entry(number).or_insert_with(|| content(&self.durable, number));
            let kept = &dirty.versions[version - 1].1;
            page[from..from + kept.len()].copy_from_slice(kept);
        }
        for (number, page) in changed {
            put(&mut left.pages, number, &page);
        }
        left
    }

    /// A page in memory; `None` if it was never stored to and reads as zeros.
    pub(super) fn page(&self, number: u32) -> Option<&[u8]> {
        let durable = || self.durable.get(&number).map(|page| page.bytes());
        self.live.get(&number).map(|page| &page[..]).or_else(durable)
    }

    /// The contents in memory.
    pub(super) fn in_memory(&self) -> FileImage {
        let pages = self.durable.clone();
        let mut image = FileImage { len: self.len, pages, ..FileImage::default() };
        self.live.iter().for_each(|(&number, page)| put(&mut image.pages, number, page));
        image
    }
}

/// The page of a unit, and the offset of the unit in it.
fn place(unit: u64, unit_len: u64) -> (u32, usize) {
    ((unit * unit_len / 4096) as u32, (unit * unit_len % 4096) as usize)
}

fn content(pages: &Pages, number: u32) -> Vec<u8> {
    pages.get(&number).map_or_else(|| vec![0; 4096], |page| page.bytes().to_vec())
}
