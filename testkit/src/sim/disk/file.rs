//! An open file of a simulated disk.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use partd::log::fs::{DiskFile, FileId, Mapping};
use partd_format::control::{COMMIT_AT, Commit};

use super::defect::Defect;
use super::inode::{Failures, Inode, poke};
use super::lock;
use super::machine::SimDisk;
use super::record::{Event, Record};
use crate::sim::STORE;
use crate::sim::faults::Call;

/// An open file of the simulated disk.
#[derive(Debug)]
pub struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: Arc<Inode>,
    /// The number of failures that this file has reported.
    pub(super) told: AtomicU64,
}

impl SimDisk {
    pub(super) fn file(&self, inode: Arc<Inode>) -> SimFile {
        let mut state = lock(&self.shared.state);
        state.open.push((inode.number, self.process.number));
        // Its names and this call hold references; any other one is an open file.
        let is_open = Arc::strong_count(&inode) > state.names_of(&inode) + 1;
        drop(state);
        let Failures { count, was_told } = *lock(&inode.failures);
        let told = if is_open && !was_told { count.saturating_sub(1) } else { count };
        SimFile { disk: self.clone(), inode, told: AtomicU64::new(told) }
    }

    /// Opens a file by its path.
    pub fn open_path(&self, path: &Path) -> io::Result<SimFile> {
        let inode = lock(&self.shared.state).names.get(path).cloned();
        Ok(self.file(inode.ok_or(io::ErrorKind::NotFound)?))
    }
}

impl SimFile {
    /// Fails if a failure is injected, or if a writeback has failed that this file has not
    /// reported.
    pub(super) fn report_failure(&self) -> io::Result<()> {
        let mut failures = lock(&self.inode.failures);
        let failed = self.disk.fallible(Call::Sync);
        failures.count += u64::from(failed.is_err());
        if self.told.swap(failures.count, Relaxed) < failures.count {
            failures.was_told = true;
            self.disk.record(Event::SyncFailed { inode: self.inode.number });
            return Err(failed.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EIO)));
        }
        Ok(())
    }

    /// Gives pages disk space at their first store, if the file was created without allocation.
    pub(super) fn back(&self, offset: u64, len: u64) {
        let Some(backed) = &self.inode.backed else { return };
        let mut backed = lock(backed);
        let mut state = lock(&self.disk.shared.state);
        for page in offset / 4096..(offset + len).div_ceil(4096) {
            if backed.insert(page)
                && let Some(free) = state.free_pages
            {
                state.died_of_sigbus |= free == 0;
                state.free_pages = Some(free.saturating_sub(1));
            }
        }
    }
}

impl DiskFile for SimFile {
    fn mapping(&self) -> &Mapping {
        &self.inode.mapping
    }

    fn id(&self) -> FileId {
        FileId { device: 1, inode: self.inode.identity }
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        match self.disk.shared.next_reserve_fails.swap(false, Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    /// True for every second file, so that both ways of writing into an existing file are used.
    fn is_cached(&self, _: u64) -> bool {
        self.inode.number.is_multiple_of(2)
    }

    fn stored(&self, offset: u64, len: u64) {
        let shared = &self.disk.shared;
        shared.counts.stores.fetch_add(1, Relaxed);
        shared.counts.stored_bytes.fetch_add(len, Relaxed);
        self.inode.mapping.stored(offset + len);
        self.back(offset, len);
        let pages = offset / 4096..(offset + len).div_ceil(4096);
        if lock(&self.inode.holes).range(pages).next().is_some() {
            lock(&shared.state).stored_in_hole = true;
        }
        if shared.records && len > 0 {
            let mut bytes = vec![0; len as usize].into_boxed_slice();
            self.inode.mapping.copy_out(offset, &mut bytes);
            let process = self.disk.process.number;
            let inode = self.inode.number;
            let mut state = lock(&shared.state);
            let is_control = || {
                let control = state.names.get(&Path::new(STORE).join("control"));
                control.is_some_and(|control| control.number == inode)
            };
            let is_commit = offset == COMMIT_AT && is_control();
            let word = is_commit.then(|| <[u8; 8]>::try_from(&bytes[..]).ok()).flatten();
            state.log.push(Record { process, event: Event::Store { inode, offset, bytes } });
            if let Some(word) = word {
                let word = Commit::decode(u64::from_le_bytes(word));
                let batch = *lock(&self.disk.process.batch);
                state.log.push(Record { process, event: Event::Commit { word, batch } });
            }
        }
        self.disk.step();
    }

    fn loaded(&self, _offset: u64, len: u64) {
        self.disk.count(|counts| &counts.loads);
        self.disk.shared.counts.loaded_bytes.fetch_add(len, Relaxed);
    }

    fn write_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(buffers.iter().map(|buffer| buffer.len()).sum());
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        if self.disk.shared.defect == Some(Defect::WriteIsShort) {
            bytes.pop();
        }
        if self.inode.mapping.len() < offset + bytes.len() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let failed = self.disk.fallible(Call::WriteAt);
        if failed.is_err() {
            // A part was written.
            bytes.truncate(bytes.len() / 2);
        }
        poke(&self.inode.mapping, offset, &bytes);
        self.stored(offset, bytes.len() as u64);
        failed
    }

    /// Only recorded: a power cut may keep or lose what was not synced, requested or not.
    fn write_back(&self, range: Range<u64>) {
        let stored_end = self.inode.mapping.stored_end();
        lock(&self.disk.shared.counts.write_backs).push((range, stored_end));
    }

    fn sync(&self) -> io::Result<()> {
        let shared = &self.disk.shared;
        self.report_failure()?;
        self.disk.count(|counts| &counts.syncs);
        let mut state = lock(&shared.state);
        state.syncs += 1;
        let (syncs, opening) = (state.syncs, shared.opening.load(Relaxed));
        let is_linked = state.names_of(&self.inode) > 1;
        drop(state);
        let left_out = match shared.defect {
            Some(Defect::SyncLeftOut) => !opening,
            Some(Defect::SyncInRecoveryLeftOut) => opening,
            Some(Defect::SyncOfLinkedFileLeftOut) => is_linked,
            Some(Defect::EverySecondSyncLeftOut) => syncs.is_multiple_of(2),
            _ => false,
        };
        if !left_out {
            self.disk.record(Event::Sync { inode: self.inode.number, len: None });
        }
        self.disk.step();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.fallible(Call::Punch)?;
        let end = offset.checked_add(len).filter(|end| *end <= self.inode.mapping.len());
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let mapping: &Mapping = &self.inode.mapping;
        // Nothing was stored in most of the range, and it is zero.
        let stored_end = end.min(self.inode.mapping.stored_end());
        let mut word = offset;
        while word < stored_end {
            mapping.store(word, 0, Relaxed);
            word += 8;
        }
        let mut holes = lock(&self.inode.holes);
        let before = holes.len();
        holes.extend(offset.div_ceil(4096)..end / 4096);
        let given = (holes.len() - before) as u64;
        drop(holes);
        if let Some(free) = &mut lock(&self.disk.shared.state).free_pages {
            *free += given;
        }
        self.disk.record(Event::Punch { inode: self.inode.number, offset, len });
        self.disk.step();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.shared.state);
        let this = (self.inode.number, self.disk.process.number);
        // The entry is gone if the process was killed.
        if let Some(place) = state.open.iter().position(|open| *open == this) {
            state.open.swap_remove(place);
        }
    }
}
