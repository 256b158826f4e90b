//! Stable storage: one sync for everybody who waits (group commit across threads and processes).
//!
//! A sync makes the whole history up to now durable, whoever wrote it. One leader at a time syncs
//! each segment that has batches above the synced mark, then the directory if files came, then
//! moves the mark; whoever waits for a smaller number is served too. The lock between processes
//! only saves work: a leader that is stopped is passed by after a while.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use partd_format::control::SYNC_LOCK_AT;
use partd_format::segment::HEADER_LEN;
use partd_format::{Link, State};

use crate::error::{Error, Result};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::read::discovery::SegmentDiscovery;
use crate::log::segment::Segment;
use crate::log::store::Store;

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
    discovery: SegmentDiscovery,
    directory_epoch: u64,
    open: Vec<Progress<D::File>>,
}

/// How far the chain of a segment is known to be on stable storage.
#[derive(Debug)]
struct Progress<F> {
    /// The segment as it is read. While it is mapped, the system keeps the failures to write it.
    segment: Arc<Segment<F>>,
    /// The same, opened to be synced: kept for the few that are synced again and again.
    writable: Option<Segment<F>>,
    /// Every batch before it is synced, or void.
    end: u64,
}

/// How many segments a leader keeps open between two syncs.
const OPEN_MAX: usize = 8;

/// What a look along a chain has found.
struct Scan {
    /// Whether something is committed and not synced.
    is_dirty: bool,
    /// Where the first batch begins that may still need a sync after the one to come.
    end: u64,
    /// Whether nothing will follow `end`.
    is_finished: bool,
}

impl<D: Disk> Syncer<D> {
    pub(crate) fn new() -> Syncer<D> {
        let lead =
            Lead { discovery: SegmentDiscovery::default(), directory_epoch: 0, open: Vec::new() };
        Syncer { leading: Mutex::new(lead) }
    }

    /// Lets go of segments that a compaction has replaced.
    pub(crate) fn forget(&self, ids: &[u64]) {
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        lead.open.retain(|progress| !ids.contains(&progress.segment.id()));
    }

    /// Returns when the history up to `sequence` is on stable storage.
    pub(crate) fn sync_to(&self, store: &Store<D>, sequence: u64) -> Result<()> {
        self.sync_beside(store, sequence, &[])
    }

    /// The same but for the batches of some segments, which an output is about to replace. Unless
    /// there are none of these, the mark is for the caller to raise, when they are replaced.
    pub(crate) fn sync_beside(
        &self,
        store: &Store<D>,
        sequence: u64,
        replaced: &[u64],
    ) -> Result<()> {
        let control = store.control()?;
        let is_synced = || control.durable_seq() >= sequence;
        store.check_sync(control)?;
        if is_synced() {
            return Ok(());
        }
        if store.is_temporary {
            // Nobody opens it again, after a power cut or otherwise.
            control.raise_durable_seq(control.visible());
            return Ok(());
        }
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mark = control.durable_seq();
        let mut since = Instant::now();
        let mut pause = Duration::from_micros(20);
        let _lock = loop {
            let lock = control.try_lock(SYNC_LOCK_AT, true)?;
            store.check_sync(control)?;
            if is_synced() {
                return Ok(());
            }
            if lock.is_some() {
                break lock;
            }
            if control.durable_seq() > mark {
                (mark, since) = (control.durable_seq(), Instant::now());
            } else if since.elapsed() > PATIENCE {
                // Syncing twice does no harm, and waiting for a stopped process does.
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        };
        lead.sync(store, replaced)
    }
}

impl<D: Disk> Lead<D> {
    fn sync(&mut self, store: &Store<D>, replaced: &[u64]) -> Result<()> {
        let control = store.control()?;
        control.reserve()?;
        let target = control.visible();
        let directory_epoch = control.directory_epoch();
        let durable_seq = control.durable_seq();
        if directory_epoch != self.directory_epoch {
            let open = &mut self.open;
            self.discovery.find(store, &mut |_| None, &mut |segment| {
                let end = segment.durable_end().max(segment.header().data_start);
                let progress = Progress { segment, writable: None, end };
                let scan = progress.scan(durable_seq, target);
                // What was synced before and gets no more is not kept: there may be many.
                if scan.is_dirty || !scan.is_finished {
                    open.push(progress);
                }
            })?;
            self.directory_epoch = directory_epoch;
        }
        let mut scans = Vec::with_capacity(self.open.len());
        let mut kept = self.open.iter().filter(|progress| progress.writable.is_some()).count();
        for progress in &mut self.open {
            if replaced.contains(&progress.segment.id()) {
                scans.push(None);
                continue;
            }
            let mut scan = progress.scan(durable_seq, target);
            if scan.is_dirty {
                let is_in_place = progress.check_in_place(store);
                // A compaction has replaced it meanwhile, and has moved the mark before.
                if is_in_place.is_err() && !progress.scan(control.durable_seq(), target).is_dirty {
                    scan.is_dirty = false;
                    scans.push(Some(scan));
                    continue;
                }
                is_in_place?;
                let new = match progress.writable {
                    Some(_) => None,
                    None => match progress.open(store) {
                        // A compaction has replaced it meanwhile, and has moved the mark before.
                        Err(Error::Io { source, .. })
                            if source.kind() == io::ErrorKind::NotFound
                                && !progress.scan(control.durable_seq(), target).is_dirty =>
                        {
                            scan.is_dirty = false;
                            scans.push(Some(scan));
                            continue;
                        }
                        opened => Some(opened?),
                    },
                };
                let segment = new.as_ref().or(progress.writable.as_ref());
                let done = segment.map_or(Ok(()), |segment| segment.file().sync());
                done.map_err(|error| control.sync_error(progress.segment.path(), error))?;
                if kept < OPEN_MAX && new.is_some() && !scan.is_finished {
                    progress.writable = new;
                    kept += 1;
                }
            }
            scans.push(Some(scan));
        }
        if control.durable_directory_epoch() < directory_epoch {
            if control.durable_directory_epoch() == 0 {
                let done = store.directory.dir.sync_name();
                done.map_err(|error| control.sync_error(store.directory.path(), error))?;
            }
            store.sync_dir(control)?;
            // What was reserved before a sync may need space again after it.
            control.reserve()?;
            control.set_durable_directory_epoch(directory_epoch);
        }
        // Writeback errors are reported once per open file; a superseded leader may have consumed ours.
        store.check_sync(control)?;
        if replaced.is_empty() {
            control.reserve()?;
            control.raise_durable_seq(target);
        }
        let mut scans = scans.into_iter();
        self.open.retain_mut(|progress| {
            let Some(scan) = scans.next().flatten() else { return true };
            if scan.is_dirty {
                progress.raise_durable_end(store, scan.end);
            }
            progress.end = scan.end;
            !scan.is_finished
        });
        Ok(())
    }
}

impl<F: DiskFile> Progress<F> {
    /// An error if the segment's name leads to another file, or to none: syncing it would prove nothing.
    fn check_in_place<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<()> {
        store.directory.check_in_place(self.segment.id(), self.segment.file().id())
    }

    /// The segment, opened to be synced.
    fn open<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<Segment<F>> {
        let opened =
            Segment::open(&store.directory, self.segment.id(), Some(&store.uuid), Access::Write)?;
        match opened.file().id() == self.segment.file().id() {
            true => Ok(opened),
            false => Err(store.directory.moved(self.segment.id())),
        }
    }

    /// Notes in the header how far the chain is on stable storage. Only a hint for those who check the store
    /// later, so that an error is passed over.
    fn raise_durable_end<D: Disk<File = F>>(&self, store: &Store<D>, end: u64) {
        let new;
        let segment = match &self.writable {
            Some(segment) => segment,
            None => {
                let Ok(opened) = self.open(store) else { return };
                new = opened;
                &new
            }
        };
        if segment.reserve(0, HEADER_LEN).is_ok() {
            segment.set_durable_end(end);
        }
    }

    fn scan(&self, durable_seq: u64, target: u64) -> Scan {
        let segment = &self.segment;
        let mut scan = Scan { is_dirty: false, end: self.end, is_finished: false };
        let mut settled = true;
        let mut chain = segment.chain(self.end);
        for batch in &mut chain {
            match segment.state(batch.offset) {
                Ok(State::Committed(sequence)) if sequence <= target => {
                    scan.is_dirty |= sequence > durable_seq;
                }
                Ok(State::Void) => {}
                _ => settled = false,
            }
            if settled {
                scan.end = batch.end();
            }
        }
        // A broken chain is for those who read to report: nothing behind it is reached.
        scan.is_finished = settled && chain.ending() != Ok(Link::End);
        scan
    }
}
