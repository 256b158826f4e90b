//! Recovery: rebuilds the history from the segments when the control file cannot be trusted.
//!
//! The death of a process needs no recovery while other handles are open. Recovery follows a power
//! cut, the loss of the control file, or the death of the last handle. If the machine has not
//! rebooted since, every committed batch must be present. Otherwise every batch up to the durable
//! sequence number must be; above it, the history ends before the first batch that is missing or
//! damaged. Later batches are made void, durably, before anyone appends.
//!
//! Recovery may be interrupted at any point or end in an error; the next one repeats it. If the
//! machine may have rebooted, it stores each void word again, even one that it finds in place: that
//! word may come from a recovery that died or whose sync failed, and a sync writes only dirty
//! pages.

use std::collections::BTreeMap;
use std::io;

use partd_format::State;
use partd_format::control::{self as layout};

use crate::error::{Error, Result, damage};
use crate::log::fs::directory::{Content, Directory};
use crate::log::fs::names::{is_unfinished, segment_name, torn_names};
use crate::log::fs::{Access, Dir, Disk, DiskFile, was_not_tried};
use crate::log::open::scanned::{RecoveryMode, ScannedBatch, ScannedSegment};
use crate::log::segment::Segment;
use crate::log::segment::ahead::{Ahead, HeadsAhead, Span};
use crate::log::segment::outputs::{NewestOutput, retained_is_missing};
use crate::log::shared::control::Control;
use crate::log::shared::start::Start;
use crate::log::trace;

/// The contents of a control file, as far as they can be trusted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// The uuid of the store; `None` if the file may be a copy of another store's.
    pub(crate) uuid: Option<[u8; 16]>,
    /// The durable sequence number, and the uuid of the store that it belongs to.
    pub(crate) durable_seq: Option<([u8; 16], u64)>,
    /// The last commit seen by processes of this boot: its sequence number and its segment.
    pub(crate) last: Option<(u64, u64)>,
}

/// The identity that a new control file gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewControl {
    pub(crate) uuid: [u8; 16],
    pub(crate) boot: [u8; 16],
    pub(crate) temporary: bool,
}

/// The contents of the segments, and the history that they add up to.
#[derive(Debug)]
pub(crate) struct RecoveryScan<F> {
    segments: Vec<ScannedSegment<F>>,
    /// Files named like segments but without a readable header. They may have held batches.
    unreadable: Vec<(u64, Error)>,
    /// Files of the same kind that compaction outputs replace. Their data may never have reached
    /// the disk, if it was deleted before anyone asked for a sync.
    unreadable_replaced: Vec<u64>,
    mode: RecoveryMode,
    /// The uuid of the store, if any file names it.
    pub(crate) uuid: Option<[u8; 16]>,
    /// The last sequence number of the history.
    pub(crate) sequence: u64,
    /// The newest durable sequence number that was found.
    pub(crate) durable_seq: u64,
    /// The last commit seen by processes of this boot, if the control file holds it: its sequence
    /// number and its segment.
    last: Option<(u64, u64)>,
    /// An id above all that were seen.
    pub(crate) next_segment: u64,
}

impl<F: DiskFile> RecoveryScan<F> {
    /// Scans every segment, starting from what the control file says.
    ///
    /// With `ignore_damage`, the history ends before the first missing or damaged batch, wherever
    /// that is.
    pub(crate) fn new<D: Disk<File = F>>(
        directory: &Directory<D>,
        known: Known,
        mode: RecoveryMode,
        ignore_damage: bool,
    ) -> Result<RecoveryScan<F>> {
        let mut scan = RecoveryScan {
            segments: Vec::new(),
            unreadable: Vec::new(),
            unreadable_replaced: Vec::new(),
            mode,
            uuid: known.uuid,
            sequence: 0,
            durable_seq: 0,
            last: known.last,
            next_segment: 1,
        };
        for id in directory.segment_ids()? {
            scan.next_segment = scan.next_segment.max(id.saturating_add(1));
            scan.add(directory, id)?;
        }
        if let Some((uuid, durable_seq)) = known.durable_seq
            && durable_seq > 0
            && *scan.uuid.get_or_insert(uuid) == uuid
        {
            scan.durable_seq = durable_seq;
        }
        let max_seq = scan.take_outputs(directory, ignore_damage)?;
        scan.find_end(directory, max_seq, ignore_damage)?;
        Ok(scan)
    }

    fn add<D: Disk<File = F>>(&mut self, directory: &Directory<D>, id: u64) -> Result<()> {
        let segment = match Segment::open(directory, id, self.uuid.as_ref(), Access::Read) {
            Ok(segment) => segment,
            Err(error @ Error::Damage { .. }) => {
                self.unreadable.push((id, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.uuid.get_or_insert(segment.header().store);
        self.segments.push(ScannedSegment::new(segment));
        Ok(())
    }

    /// Marks the segments that compaction outputs replace. Returns the sequence number up to which
    /// batches may be missing.
    fn take_outputs<D: Disk>(
        &mut self,
        directory: &Directory<D>,
        ignore_damage: bool,
    ) -> Result<u64> {
        let mut newest = NewestOutput::default();
        let mut replaced = Vec::new();
        for scanned in &self.segments {
            replaced.extend(newest.see(&scanned.segment)?);
        }
        for scanned in &mut self.segments {
            let segment = &scanned.segment;
            scanned.is_replaced = replaced.contains(&segment.id()) || newest.has_outlived(segment);
        }
        let gone = self.unreadable.extract_if(.., |(id, _)| replaced.contains(id));
        self.unreadable_replaced = gone.map(|(id, _)| id).collect();
        if !ignore_damage {
            self.check_watermarks()?;
        }
        let NewestOutput { max_seq, retained, .. } = newest;
        if ignore_damage {
            return Ok(max_seq);
        }
        for keep in retained.iter().filter(|keep| !replaced.contains(&keep.id)) {
            let kept = self.segments.iter().find(|scanned| scanned.segment.id() == keep.id);
            match kept {
                Some(kept) => kept.must_reach(keep.end)?,
                None => {
                    let unreadable = self.unreadable.iter().position(|(id, _)| *id == keep.id);
                    if let Some(unreadable) = unreadable {
                        return Err(self.unreadable.swap_remove(unreadable).1);
                    }
                    return Err(retained_is_missing(directory, keep));
                }
            }
        }
        Ok(max_seq)
    }

    /// Checks that each chain reaches its durable watermark. The durable sequence number may be
    /// lost together with the batches that repeat it.
    fn check_watermarks(&self) -> Result<()> {
        let mut present = self.segments.iter().filter(|scanned| !scanned.is_replaced);
        present.try_for_each(|scanned| scanned.must_reach(scanned.segment.durable_end()))
    }

    /// Finds the last sequence number of the history.
    fn find_end<D: Disk>(
        &mut self,
        directory: &Directory<D>,
        max_seq: u64,
        ignore_damage: bool,
    ) -> Result<()> {
        let mode = self.mode;
        let mut numbers: BTreeMap<u64, (usize, ScannedBatch)> = BTreeMap::new();
        for (i, scanned) in self.segments.iter().enumerate() {
            if scanned.is_replaced {
                continue;
            }
            if scanned.segment.header().output.is_some() {
                if !ignore_damage {
                    scanned.must_parse()?;
                }
                continue;
            }
            let mut heads = HeadsAhead::default();
            for (at, &found) in scanned.batches.iter().enumerate() {
                heads.begin(at, scanned.batches.len(), |at| scanned.span(at));
                let Ok(State::Committed(sequence)) = found.state else { continue };
                // A header that does not parse gives no durable sequence number.
                if let Ok(batch) = scanned.segment.batch(found.offset, found.len) {
                    heads.record(batch.head_len());
                    self.durable_seq = self.durable_seq.max(batch.durable_seq());
                }
                if numbers.insert(sequence, (i, found)).is_some() {
                    return Err(scanned.segment.number_used_twice(found.offset, sequence));
                }
            }
        }
        let must = match mode {
            _ if ignore_damage => 0,
            RecoveryMode::Disk => self.durable_seq,
            // A sequence number is assigned only once the one before it is in place.
            RecoveryMode::Memory => {
                let last = numbers.last_key_value().map_or(0, |(last, _)| *last);
                last.max(self.durable_seq).max(self.lost())
            }
        };
        let mut end = max_seq;
        // A compaction may have dropped batches up to `max_seq`, but those that are present must be
        // readable.
        for (_, (i, found)) in numbers.range(..=max_seq) {
            let parsed = self.segments[*i].segment.batch(found.offset, found.len);
            if let Err(error) = parsed
                && !ignore_damage
            {
                return Err(error);
            }
        }
        let unsynced =
            numbers.range(self.durable_seq.max(end).saturating_add(1)..).map(|(_, (i, found))| {
                Span { segment: &self.segments[*i].segment, offset: found.offset, len: found.len }
            });
        let ahead = Ahead::new(unsynced, false);
        loop {
            let next = end + 1;
            let whole = match numbers.get(&next) {
                Some((i, found)) => {
                    let segment = &self.segments[*i].segment;
                    let values = mode == RecoveryMode::Disk && next > self.durable_seq;
                    segment.batch(found.offset, found.len).and_then(|batch| {
                        if values {
                            ahead.begin(found.len);
                            batch.check_values(segment.salt()).map_err(|e| segment.damage(e))?;
                        }
                        Ok(())
                    })
                }
                None if next > must => break,
                None => Err(self.missing(directory, next, must, &numbers)),
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

    /// The sequence number of the last commit if its segment is gone, that is, if someone removed
    /// the file; 0 otherwise. A segment that is present shows its own batches, so the control file,
    /// which may be wrong, is not consulted.
    fn lost(&self) -> u64 {
        let Some((sequence, segment)) = self.last else { return 0 };
        let mut ids = self.segments.iter().map(|scanned| scanned.segment.id());
        if ids.any(|id| id == segment) { 0 } else { sequence }
    }

    /// The error for a sequence number that must be present and is missing.
    fn missing<D: Disk>(
        &self,
        directory: &Directory<D>,
        first: u64,
        must: u64,
        numbers: &BTreeMap<u64, (usize, ScannedBatch)>,
    ) -> Error {
        let next = numbers.range(first..).next().map(|(sequence, _)| *sequence);
        let last = next.map_or(must, |next| next - 1).min(must);
        let mut present = self.segments.iter().filter(|scanned| !scanned.is_replaced);
        let broken = present.find_map(|scanned| {
            let state = scanned.batches.iter().find_map(|found| found.state.err());
            let error = state.or(scanned.ending.err())?;
            Some(damage(scanned.segment.path(), error))
        });
        let broken = broken.as_ref().or(self.unreadable.first().map(|(_, error)| error));
        let mut hint = broken.map(ToString::to_string);
        if self.mode == RecoveryMode::Memory {
            let resumed = "if this is a virtual machine that resumed from a snapshot, its disk may be older \
                           than its memory";
            hint = Some(hint.map_or(resumed.to_owned(), |hint| format!("{hint}; {resumed}")));
        }
        Error::Missing { path: directory.path().to_path_buf(), first, last, hint }
    }

    /// Makes all batches outside the history void, durably; removes replaced and unpublished files;
    /// and writes a control file for the boot in `new`.
    pub(crate) fn apply<D: Disk<File = F>>(
        &self,
        directory: &Directory<D>,
        old: Option<&Control<D>>,
        new: &NewControl,
    ) -> Result<()> {
        let same_boot = match old {
            Some(old) if old.fixed.boot == new.boot && old.fixed.store == new.uuid => {
                old.is_own()?.then_some(old)
            }
            _ => None,
        };
        for scanned in self.segments.iter().filter(|scanned| !scanned.is_replaced) {
            if scanned.segment.header().output.is_none() {
                scanned.void_beyond(directory, self.sequence, self.mode, same_boot)?;
            }
        }
        let mut sync_failed = same_boot.is_some_and(Control::has_sync_failed);
        let replaced: Vec<_> = self.segments.iter().filter(|s| s.is_replaced).collect();
        let any = !replaced.is_empty() || !self.unreadable_replaced.is_empty();
        if any && !sync_failed {
            // The outputs need durable names before their inputs are removed. If the sync fails,
            // the inputs stay, which costs their space, and the store can promise no durability any
            // more.
            match directory.dir.sync() {
                Err(error) if was_not_tried(&error) => {
                    return Err(Error::io("sync", &**directory.path(), error));
                }
                synced => {
                    sync_failed = synced.is_err();
                    if let Err(error) = synced {
                        trace::sync_failed(directory.path(), &error);
                    }
                }
            }
        }
        for scanned in replaced.into_iter().filter(|_| !sync_failed) {
            let (id, file) = (scanned.segment.id(), scanned.segment.file().id());
            directory.unlink_mapped(&segment_name(id), file)?;
        }
        for &id in &self.unreadable_replaced {
            // A header that never reached the disk reads as zeros. A file with any other contents
            // is set aside.
            let blank = directory.content(&segment_name(id), Some(&new.uuid));
            match blank {
                Ok(Content::Blank) if !sync_failed => directory.unlink(&segment_name(id))?,
                _ => set_aside(directory, id)?,
            }
        }
        for (id, _) in &self.unreadable {
            set_aside(directory, *id)?;
        }
        for name in directory.dir.list().map_err(|e| directory.dir_error("list", e))? {
            if is_unfinished(&name)
                && let Some(name) = name.to_str()
            {
                // If nothing names the store, all unfinished files are removed.
                directory.unlink_unfinished(name, self.uuid.as_ref())?;
            }
        }
        let start = Start {
            fixed: layout::Fixed {
                store: new.uuid,
                boot: new.boot,
                created_unix_ms: old
                    .map_or_else(|| directory.disk.now_unix_ms(), |o| o.fixed.created_unix_ms),
                // The identity of the new file, set when it is created.
                device: 0,
                inode: 0,
                temporary: new.temporary,
            },
            sequence: self.sequence,
            next_segment: self.next_segment.max(same_boot.map_or(1, |old| {
                // Limit the jump, so that a corrupt word cannot use up the ids.
                old.next_segment().min(self.next_segment.saturating_add(1 << 20))
            })),
            directory_epoch: 1,
            durable_seq: self.durable_seq.min(self.sequence),
            sync_failed,
        };
        start.create(directory)
    }
}

/// Renames a file without a readable header. It holds nothing of the history, but a person may want
/// to examine it.
fn set_aside<D: Disk>(directory: &Directory<D>, id: u64) -> Result<()> {
    let name = segment_name(id);
    for torn in torn_names(id) {
        match directory.dir.rename(&name, &torn) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done.map_err(|error| directory.error("set aside", &name, error)),
        }
    }
    Ok(())
}
