//! Stable storage: one sync for everybody who waits (group commit across threads and processes).
//!
//! A sync makes the whole history up to now durable, whoever wrote it. One leader at a time syncs
//! each segment that has batches above the synced mark, then the directory if files came, then
//! moves the mark; whoever waits for a smaller number is served too. The lock between processes
//! only saves work: a leader that is stopped is passed by after a while.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use partd_format::{Link, State};

use super::Core;
use super::control::Control;
use super::disk::{Disk, DiskFile};
use super::finder::Finder;
use super::segment::Segment;
use crate::error::{Error, Result};

/// How long to wait for a leader in another process that does not get on.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest pause between two looks at what another leader has done.
const PAUSE_MAX: Duration = Duration::from_millis(1);

/// What one handle knows of the segments that are not on stable storage.
#[derive(Debug)]
pub(crate) struct Syncer<D: Disk> {
    leading: Mutex<Lead<D>>,
}

#[derive(Debug)]
struct Lead<D: Disk> {
    finder: Finder,
    generation: u64,
    open: Vec<Progress<D::File>>,
}

/// How far the chain of a segment is known to be on stable storage.
#[derive(Debug)]
struct Progress<F> {
    segment: Arc<Segment<F>>,
    /// Every batch before it is synced, or void.
    end: u64,
}

/// What a look along a chain has found.
struct Look {
    /// Whether something is committed and not synced.
    is_dirty: bool,
    /// Where the first batch begins that may still need a sync after the one to come.
    end: u64,
    /// Whether nothing will follow `end`.
    is_finished: bool,
}

impl<D: Disk> Syncer<D> {
    pub(crate) fn new() -> Syncer<D> {
        let lead = Lead { finder: Finder::default(), generation: 0, open: Vec::new() };
        Syncer { leading: Mutex::new(lead) }
    }

    /// Lets go of segments that a compaction has replaced.
    pub(crate) fn forget(&self, ids: &[u64]) {
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        lead.open.retain(|progress| !ids.contains(&progress.segment.id()));
    }

    /// Returns when the history up to `sequence` is on stable storage.
    pub(crate) fn sync_to(&self, core: &Core<D>, sequence: u64) -> Result<()> {
        self.sync_beside(core, sequence, &[])
    }

    /// The same but for the batches of some segments, which an output is about to replace. Unless
    /// there are none of these, the mark is for the caller to raise, when they are replaced.
    pub(crate) fn sync_beside(
        &self,
        core: &Core<D>,
        sequence: u64,
        replaced: &[u64],
    ) -> Result<()> {
        let control = core.control()?;
        let is_synced = || control.synced() >= sequence;
        core.check_sync(control)?;
        if is_synced() {
            return Ok(());
        }
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mark = control.synced();
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(20);
        let path = core.names.sync_lock();
        let _lock = loop {
            let lock = core.disk.try_lock(&path, true).map_err(|e| Error::io("lock", &path, e))?;
            core.check_sync(control)?;
            if is_synced() {
                return Ok(());
            }
            if lock.is_some() {
                break lock;
            }
            if control.synced() > mark {
                (mark, since) = (control.synced(), Instant::now());
            } else if since.elapsed() > PATIENCE {
                // Syncing twice does no harm, and waiting for a stopped process does.
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        };
        lead.sync(core, replaced)
    }
}

impl<D: Disk> Core<D> {
    /// Whether a sync can still prove anything.
    pub(crate) fn check_sync(&self, control: &Control<D>) -> Result<()> {
        if control.has_sync_failed() {
            return Err(Error::SyncFailed { path: self.names.dir().to_owned() });
        }
        Ok(())
    }

    /// Brings the names in a directory to stable storage.
    pub(crate) fn sync_dir(&self, control: &Control<D>, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir).map_err(|error| control.sync_error(dir, error))
    }
}

impl<D: Disk> Lead<D> {
    fn sync(&mut self, core: &Core<D>, replaced: &[u64]) -> Result<()> {
        let control = core.control()?;
        let target = control.visible();
        let generation = control.generation();
        let synced = control.synced();
        if generation != self.generation {
            let open = &mut self.open;
            self.finder.find(core, true, &mut |_| None, &mut |segment| {
                let end = segment.note().max(segment.header().data_start);
                let progress = Progress { segment, end };
                let look = progress.look(synced, target);
                // What was synced before and gets no more is not kept open: there may be many.
                if look.is_dirty || !look.is_finished {
                    open.push(progress);
                }
            })?;
            self.generation = generation;
        }
        let mut looks = Vec::with_capacity(self.open.len());
        for progress in &self.open {
            if replaced.contains(&progress.segment.id()) {
                looks.push(None);
                continue;
            }
            let look = progress.look(synced, target);
            if look.is_dirty {
                let segment = &progress.segment;
                let synced = segment.file().sync();
                synced.map_err(|error| control.sync_error(segment.path(), error))?;
            }
            looks.push(Some(look));
        }
        if control.directory_synced() < generation {
            let dir = core.names.dir();
            if control.directory_synced() == 0 {
                let synced = core.disk.sync_name_of_dir(dir);
                synced.map_err(|error| control.sync_error(dir, error))?;
            }
            core.sync_dir(control, dir)?;
            control.set_directory_synced(generation);
        }
        // A leader that was passed by may have been told of a failure, and nobody is told twice.
        core.check_sync(control)?;
        if replaced.is_empty() {
            control.raise_synced(target);
        }
        let mut looks = looks.into_iter();
        self.open.retain_mut(|progress| {
            let Some(look) = looks.next().flatten() else { return true };
            if look.is_dirty {
                progress.segment.set_note(look.end);
            }
            progress.end = look.end;
            !look.is_finished
        });
        Ok(())
    }
}

impl<F: DiskFile> Progress<F> {
    fn look(&self, synced: u64, target: u64) -> Look {
        let segment = &self.segment;
        let mut look = Look { is_dirty: false, end: self.end, is_finished: false };
        let mut at = self.end;
        let mut settled = true;
        loop {
            match segment.link(at) {
                Ok(Link::Batch(len)) => {
                    match segment.state(at) {
                        Ok(State::Committed(sequence)) if sequence <= target => {
                            look.is_dirty |= sequence > synced;
                        }
                        Ok(State::Void) => {}
                        _ => settled = false,
                    }
                    at += len;
                    if settled {
                        look.end = at;
                    }
                }
                // A broken chain is for those who read to report: nothing behind it is reached.
                Ok(Link::Sealed) | Err(_) => {
                    look.is_finished = settled;
                    return look;
                }
                Ok(Link::End) => return look,
            }
        }
    }
}
