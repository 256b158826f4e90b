//! Backup: copies a store, as of one sequence number, into a directory of its own.
//!
//! A backup pins the segments of one version of the store, so it never waits for writers and
//! compactions, nor they for it. Of each segment, it keeps the chain up to the last batch of that
//! version. Batches before that point that are not part of the version, because they were committed
//! later or are still pending, are void in the copy.
//!
//! A sealed segment whose batches are all final gets a second name (a hard link) in the backup: no
//! handle stores a batch or a state into it again, and recovery makes a private copy of a segment
//! with two names before it changes it. Temporary stores recycle their segments, so theirs are
//! copied. Other segments are copied by the file system, which may share the blocks, or else from
//! the mapping, which also works once a compaction has unlinked the file.
//!
//! The backup has the uuid of the store: linked segments carry it, and a handle identifies its
//! store by the open directory, not by the uuid. Its control file names no boot, so the first open,
//! on any machine, recovers it from its segments. Its `durable_seq` is the sequence number of the
//! backup, so a batch that is missing up to there is an error.
//!
//! A file marks the directory as unfinished until everything in it is durable. No handle opens a
//! directory with that file.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use partd_format::control::Fixed;
use partd_format::segment::DURABLE_END_AT;
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Evidence, Link, State};

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::{CONTROL, UNFINISHED_BACKUP, is_known, segment_name};
use crate::log::fs::{Access, Dir, Disk, DiskFile, was_not_tried};
use crate::log::read::reader::Reader;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{Ahead, Span};
use crate::log::seq::Seq;
use crate::log::shared::control::Control;
use crate::log::shared::start::Start;
use crate::log::store::Store;

/// The contents of the file that marks a backup as unfinished.
const UNFINISHED: &str = "\
This backup of a partd store is not complete: it is still being made, or it was interrupted.\n\
If nobody is making it any more, remove this directory, and make the backup again.\n";
const _: () = assert!(UNFINISHED.len().is_multiple_of(8), "a mapping is read in whole words");
/// How many bytes are copied at once.
const PIECE_BYTES: u64 = 1 << 20;
/// The unit in which disk space is freed.
const PAGE_BYTES: u64 = 4096;

/// The result of [`SegmentLog::backup`](crate::SegmentLog::backup).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The sequence number of the last batch in the backup.
    pub seq: Seq,
    /// The segments of the backup.
    pub segments: u64,
    /// How many of them are hard links to segments of the store.
    pub segments_linked: u64,
    /// The bytes of the segments that were copied. The file system may share their blocks.
    pub bytes_copied: u64,
}

/// Writes a backup of the store into the directory at `path`.
pub(crate) fn backup<D: Disk>(store: &Store<D>, reader: &Reader<D>, path: &Path) -> Result<Backup> {
    store.check_process()?;
    if store.ignores_damage() {
        let why = "a handle that ignores damage cannot make a backup, since parts of the history may be missing; \
                   `partd-inspect salvage` writes what is left to a new store";
        return Err(Error::refused(ErrorKind::Invalid, &**store.directory.path(), why));
    }
    // Absolute for error messages: the process may change its working directory later.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let target = Target::claim(&store.directory.disk, &path)?;
    let made = target.mark().and_then(|()| target.fill(store, reader));
    if made.is_err() {
        target.discard();
    }
    made
}

/// The directory of a backup that is being made.
#[derive(Debug)]
struct Target<D: Disk> {
    directory: Directory<D>,
    /// Whether this backup created the directory.
    is_new: bool,
    _alone: D::Lock,
}

impl<D: Disk> Target<D> {
    /// Creates the directory, or takes an empty one, and locks it.
    fn claim(disk: &D, path: &Path) -> Result<Target<D>> {
        let mut is_new = false;
        let opened = match disk.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_dir(path).map_err(|e| Error::io("make the directory", path, e))?;
                is_new = true;
                disk.open_dir(path)
            }
            opened => opened,
        };
        let dir = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let why = "this is a file; a backup is a directory, give a new or an empty one";
                return Err(Error::refused(ErrorKind::Invalid, path, why));
            }
            opened => opened.map_err(|e| Error::io("read the directory", path, e))?,
        };
        let directory = Directory::new(disk.clone(), dir, path);
        let locked = directory.dir.try_lock(true).map_err(|e| directory.dir_error("lock", e))?;
        let Some(alone) = locked else {
            let why = "another process uses this directory; give a new or an empty one";
            return Err(Error::refused(ErrorKind::Busy, path, why));
        };
        let listed = directory.dir.list().map_err(|e| directory.dir_error("list", e))?;
        match listed.first() {
            None => Ok(Target { directory, is_new, _alone: alone }),
            Some(_) if listed.iter().any(|name| name == UNFINISHED_BACKUP) => {
                let why =
                    "this directory holds an unfinished backup; remove it, or give another one";
                Err(Error::refused(ErrorKind::Invalid, path, why))
            }
            Some(first) => {
                let why = format!(
                    "this directory is not empty ({}{}); give an empty one, or a path that does not exist",
                    first.to_string_lossy(),
                    if listed.len() > 1 { ", …" } else { "" }
                );
                Err(Error::refused(ErrorKind::Invalid, path, why))
            }
        }
    }

    /// Marks the directory as unfinished, durably.
    fn mark(&self) -> Result<()> {
        let dir = &self.directory.dir;
        let marked = || {
            let file = dir.create(UNFINISHED_BACKUP, UNFINISHED.len() as u64)?;
            file.write_at(&mut [IoSlice::new(UNFINISHED.as_bytes())], 0)?;
            file.sync()?;
            dir.sync()?;
            // A directory that was there may be new as well.
            dir.sync_name()
        };
        marked().map_err(|error| self.directory.error("create", UNFINISHED_BACKUP, error))
    }

    /// Writes all files, makes them durable, and removes the mark.
    fn fill(&self, store: &Store<D>, reader: &Reader<D>) -> Result<Backup> {
        let (segments, batch_bytes, sequence) = reader.with_version(store, |version| {
            (Arc::clone(&version.segments), version.batch_bytes.clone(), version.sequence)
        })?;
        let mut made = Backup {
            seq: Seq::from(sequence),
            segments: segments.len() as u64,
            ..Backup::default()
        };
        for (segment, bytes) in segments.iter().zip(batch_bytes) {
            let part = Part::of(segment, sequence, bytes)?;
            if part.is_whole && self.link(store, segment)? {
                made.segments_linked += 1;
            } else {
                self.copy(store, segment, &part)?;
                made.bytes_copied += part.end;
            }
        }
        if made.segments_linked > 0
            && let Some(control) = store.shared()
        {
            // A sync that fails elsewhere may consume the error that one here would have returned.
            store.check_sync(control)?;
        }
        let last_id = segments.iter().map(|segment| segment.id()).max().unwrap_or(0);
        self.finish(store, sequence, last_id)?;
        Ok(made)
    }

    /// Gives a segment a second name in this directory and makes its contents durable. Returns
    /// whether that was possible.
    fn link(&self, store: &Store<D>, segment: &Segment<D::File>) -> Result<bool> {
        let Some(control) = linkable(store) else { return Ok(false) };
        let (dir, name) = (&self.directory.dir, segment_name(segment.id()));
        // It fails on another file system, for files of other users, and for a segment that a
        // compaction has unlinked. Then the segment is copied.
        if store.directory.dir.link(&name, segment.file().id(), dir, &name).is_err() {
            return Ok(false);
        }
        // The store's own syncs do not suffice: they skip the inputs of a compaction.
        match dir.open(&name, Access::Write).and_then(|file| file.sync()) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.directory.unlink(&name)?;
                if !was_not_tried(&error) {
                    // The kernel reports an error once, so a sync of the store may never see this
                    // one.
                    control.sync_error(segment.path(), error);
                }
                Ok(false)
            }
        }
    }

    /// Copies a part of a segment, seals it, and makes it durable.
    fn copy(&self, store: &Store<D>, segment: &Segment<D::File>, part: &Part) -> Result<()> {
        let (name, len) = (segment_name(segment.id()), segment.header().len);
        let (from, salt) = (segment.file(), segment.salt());
        let created = self.directory.dir.create(&name, len);
        let file = created.map_err(|error| self.directory.error("allocate", &name, error))?;
        let copied = || {
            // If this fails, everything is copied from the mapping.
            let dir = &store.directory.dir;
            let done = dir.copy_start(&name, from.id(), &file, part.end).unwrap_or(0) & !7;
            let piece = |offset| (offset, PIECE_BYTES.min(part.end - offset));
            let pieces = || (done..part.end).step_by(PIECE_BYTES as usize).map(piece);
            let spans = pieces().map(|(offset, len)| Span { segment, offset, len });
            let ahead = Ahead::new(spans.collect::<Vec<_>>(), true);
            let mut buffer = vec![0; PIECE_BYTES.min(part.end - done) as usize];
            for (offset, len) in pieces() {
                ahead.begin(len);
                let piece = &mut buffer[..len as usize];
                from.loaded(offset, len);
                from.mapping().copy_out(offset, piece);
                file.write_at(&mut [IoSlice::new(piece)], offset)?;
            }
            let put = |offset: u64, word: u64| {
                file.write_at(&mut [IoSlice::new(&word.to_le_bytes())], offset)
            };
            for &offset in &part.voided {
                put(offset + STATE_AT, State::Void.encode(salt, offset))?;
            }
            if part.end + 8 <= len {
                put(part.end, Link::Sealed.encode(salt, part.end))?;
            }
            put(DURABLE_END_AT, durable_end::encode(salt, part.end))?;
            let (free, end) =
                ((part.end + 8).next_multiple_of(PAGE_BYTES), len & !(PAGE_BYTES - 1));
            if free < end {
                // Failure is harmless: the file keeps the space.
                let _ = file.punch(free, end - free);
            }
            file.sync()
        };
        copied().map_err(|error| self.directory.error("copy a segment to", &name, error))
    }

    /// Writes the control file, makes the directory durable, and removes the mark.
    fn finish(&self, store: &Store<D>, sequence: u64, last_id: u64) -> Result<()> {
        let directory = &self.directory;
        let uuid = match store.uuid {
            // An empty store that was opened read-only has no uuid yet.
            uuid if uuid == [0; 16] => directory.random()?,
            uuid => uuid,
        };
        let start = Start {
            fixed: Fixed {
                store: uuid,
                // The id of no boot: the words of the file are valid under none.
                boot: [0; 16],
                created_unix_ms: directory.disk.now_unix_ms(),
                device: 0,
                inode: 0,
                temporary: false,
            },
            sequence,
            next_segment: last_id.saturating_add(1),
            directory_epoch: 1,
            durable_seq: sequence,
            sync_failed: false,
        };
        start.create(directory)?;
        let synced = directory.dir.open(CONTROL, Access::Write).and_then(|file| file.sync());
        synced.map_err(|error| directory.error("sync", CONTROL, error))?;
        let sync_dir = || directory.dir.sync().map_err(|e| directory.dir_error("sync", e));
        sync_dir()?;
        directory.unlink(UNFINISHED_BACKUP)?;
        sync_dir()
    }

    /// Removes the files of a failed backup. The mark goes last, so that a partial removal leaves
    /// an unfinished backup, too.
    fn discard(&self) {
        let dir = &self.directory.dir;
        let is_marked = || dir.id_of(UNFINISHED_BACKUP).is_ok();
        if !is_marked() {
            // The last sync has failed, after the backup was complete: it has to be marked again
            // before a part of it is removed. A mark that is not durable is better than none.
            let _ = self.mark();
            if !is_marked() {
                return;
            }
        }
        let Ok(names) = dir.list() else { return };
        // The directory was empty when it was locked, so every file in it is from this backup.
        let ours = names.iter().filter(|name| is_known(name)).filter_map(|name| name.to_str());
        if !ours.map(|name| dir.unlink(name)).all(|removed| removed.is_ok())
            || dir.sync().is_err()
            || dir.unlink(UNFINISHED_BACKUP).is_err()
            || !self.is_new
        {
            return;
        }
        let path = self.directory.path();
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let (Ok(parent), Some(name)) = (self.directory.disk.open_dir(parent), name.to_str())
        {
            // If someone has put a file there meanwhile, the directory stays.
            let _ = parent.remove_dir(name, dir);
        }
    }
}

/// Returns the control file if the sealed segments of the store may be linked. They are copied if
/// the store is temporary, since it recycles them; if the handle is read-only, since it may not
/// sync them; and after a failed sync, since the disk may lack bytes that are in memory.
fn linkable<D: Disk>(store: &Store<D>) -> Option<&Control<D>> {
    let control = store.shared()?;
    let is_linkable = !store.is_temporary && !store.is_read_only && !control.has_sync_failed();
    is_linkable.then_some(control)
}

/// The part of a segment that a backup keeps.
#[derive(Debug)]
struct Part {
    /// The end of the last batch that it keeps.
    end: u64,
    /// The offsets of batches before the end that are not part of the version.
    voided: Vec<u64>,
    /// Whether this is the whole chain, and none of its batches can still change.
    is_whole: bool,
}

impl Part {
    /// Walks a segment of the version with this sequence number. `applied_bytes` is the length of
    /// all its batches in that version.
    fn of<F: DiskFile>(segment: &Segment<F>, sequence: u64, applied_bytes: u64) -> Result<Part> {
        let mut part =
            Part { end: segment.header().data_start, voided: Vec::new(), is_whole: false };
        let (mut found_bytes, mut later) = (0, Vec::new());
        let durable_end = segment.durable_end();
        let mut chain = segment.chain(part.end).ahead();
        for batch in chain.by_ref() {
            match segment.state(batch.offset) {
                Ok(State::Committed(number)) if number <= sequence => {
                    found_bytes += batch.len;
                    part.end = batch.end();
                    part.voided.append(&mut later);
                }
                Ok(State::Void) => {}
                Err(error) if batch.offset < durable_end => return Err(segment.damage(error)),
                Ok(_) | Err(_) => later.push(batch.offset),
            }
        }
        match chain.ending() {
            Err(error) if chain.at() < durable_end => return Err(segment.damage(error)),
            ending => {
                let is_final = part.voided.is_empty() && later.is_empty();
                part.is_whole = ending == Ok(Link::Sealed) && is_final;
            }
        }
        if found_bytes == applied_bytes {
            return Ok(part);
        }
        Err(segment.damage(partd_format::Error {
            offset: segment.header().data_start,
            what: "bytes of committed batches",
            expected: Evidence::Number(applied_bytes),
            found: Evidence::Number(found_bytes),
        }))
    }
}
