//! Syncs with group commit: one sync serves all waiting threads and processes.
//!
//! A sync makes the history up to now durable, whichever handles wrote it. One leader at a time
//! syncs each segment that has batches above the durable sequence number, then the directory if
//! files were added, and then raises the durable sequence number. That also serves everyone who
//! waits for a smaller number. The lock between processes only saves work: if its holder makes no
//! progress for a while, a waiter syncs without it.

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
use crate::log::trace;

/// How long to wait for a leader in another process that makes no progress.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest pause between two checks of another leader's progress.
const PAUSE_MAX: Duration = Duration::from_millis(1);

/// The segments that, as far as this handle knows, are not wholly on stable storage.
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

/// How much of a segment's chain is known to be on stable storage.
#[derive(Debug)]
struct Progress<F> {
    /// The segment as mapped for reading. While it is mapped, the kernel remembers writeback
    /// errors.
    segment: Arc<Segment<F>>,
    /// The same segment opened for syncing; kept for the few segments that are synced repeatedly.
    writable: Option<Segment<F>>,
    /// Every batch before this offset is synced or void.
    end: u64,
}

/// How many segments a leader keeps open for syncing between two syncs.
const OPEN_MAX: usize = 8;

/// The result of a walk along a segment's chain.
struct Scan {
    /// Whether the chain holds a committed batch above the durable sequence number.
    is_dirty: bool,
    /// Where the first batch begins that may still need a sync after the coming one.
    end: u64,
    /// Whether no batch will follow `end`.
    is_finished: bool,
}

impl<D: Disk> Syncer<D> {
    pub(crate) fn new() -> Syncer<D> {
        let lead =
            Lead { discovery: SegmentDiscovery::default(), directory_epoch: 0, open: Vec::new() };
        Syncer { leading: Mutex::new(lead) }
    }

    /// Drops the references to segments that a compaction has replaced.
    pub(crate) fn forget(&self, ids: &[u64]) {
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        lead.open.retain(|progress| !ids.contains(&progress.segment.id()));
    }

    /// Returns once the history up to `sequence` is on stable storage.
    pub(crate) fn sync_to(&self, store: &Store<D>, sequence: u64) -> Result<()> {
        self.sync_beside(store, sequence, &[])
    }

    /// Like [`sync_to`](Self::sync_to), but leaves out the batches of `replaced`, the inputs that a
    /// compaction output is about to replace. If `replaced` is not empty, the caller raises the
    /// durable sequence number once they are replaced.
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
            // A temporary store is never reopened, so there is nothing to make durable.
            control.raise_durable_seq(control.visible());
            return Ok(());
        }
        let _span = trace::sync(store.directory.path(), sequence);
        let mut lead = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last_seen = control.durable_seq();
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
            if control.durable_seq() > last_seen {
                (last_seen, since) = (control.durable_seq(), Instant::now());
            } else if since.elapsed() > PATIENCE {
                // A second sync is harmless; waiting for a stopped process is not.
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
                // Segments that are synced and get no more batches are not kept: there may be many.
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
                // A compaction has replaced the segment meanwhile, after raising the durable
                // sequence number.
                if is_in_place.is_err() && !progress.scan(control.durable_seq(), target).is_dirty {
                    scan.is_dirty = false;
                    scans.push(Some(scan));
                    continue;
                }
                is_in_place?;
                let new = match progress.writable {
                    Some(_) => None,
                    None => match progress.open(store) {
                        // A compaction has replaced the segment meanwhile, after raising the
                        // durable sequence number.
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
            // Space reserved before a sync may have to be reserved again after it.
            control.reserve()?;
            control.set_durable_directory_epoch(directory_epoch);
        }
        // Writeback errors are reported once per open file; a superseded leader may have consumed
        // ours.
        store.check_sync(control)?;
        if replaced.is_empty() {
            control.reserve()?;
            control.raise_durable_seq(target);
        }
        store.tally.synced();
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
    /// Fails if the segment's name leads to another file or to none: syncing it would prove
    /// nothing.
    fn check_in_place<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<()> {
        store.directory.check_in_place(self.segment.id(), self.segment.file().id())
    }

    /// Opens the segment for syncing.
    fn open<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<Segment<F>> {
        let opened =
            Segment::open(&store.directory, self.segment.id(), Some(&store.uuid), Access::Write)?;
        match opened.file().id() == self.segment.file().id() {
            true => Ok(opened),
            false => Err(store.directory.moved(self.segment.id())),
        }
    }

    /// Stores the durable watermark in the segment's header. It is only a hint for later checks of
    /// the store, so errors are ignored.
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
        let mut all_decided = true;
        let mut chain = segment.chain(self.end);
        for batch in &mut chain {
            match segment.state(batch.offset) {
                Ok(State::Committed(sequence)) if sequence <= target => {
                    scan.is_dirty |= sequence > durable_seq;
                }
                Ok(State::Void) => {}
                _ => all_decided = false,
            }
            if all_decided {
                scan.end = batch.end();
            }
        }
        // Readers report a broken chain; the sync ignores it, because no batch beyond the break is
        // reachable.
        scan.is_finished = all_decided && chain.ending() != Ok(Link::End);
        scan
    }
}
