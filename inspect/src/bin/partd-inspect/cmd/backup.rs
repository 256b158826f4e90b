//! `backup`: copies a store, as of one sequence number, into a directory of its own.
//!
//! It reads the store like every other command and writes what `SegmentLog::backup` writes: the
//! chain of each segment, sealed after the last batch of the history that was read, with earlier
//! batches that are not part of the history made void; and a control file that names no boot. A
//! file marks the directory as unfinished until all of it is durable.
//!
//! A segment becomes a hard link if nothing in it changes any more and the store itself says that
//! it is durable. This command never syncs a file of the store: the kernel reports a failed sync
//! once, and the writers must get that report.
//!
//! Files may be unlinked, and those of a temporary store reused, while they are copied. Then the backup
//! starts again, a few times.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use partd_format::control::{self as layout, Commit, Fixed};
use partd_format::segment::DURABLE_END_AT;
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Ending, Link, Salt, State};
use rustix::fs::{AtFlags, CWD, FlockOperation, flock, linkat, syncfs};
use rustix::io::Errno;
use serde_json::json;

use super::target::{create, new_directory};
use crate::Failure;
use crate::args::Backup;
use crate::output::Output;
use crate::text::{count, plural};
use partd_inspect::history::Rule;
use partd_inspect::names::UNFINISHED_BACKUP;
use partd_inspect::path::shown;
use partd_inspect::store::Store;
use partd_inspect::walk::{BatchInfo, Segment};

/// How many times to try if files change meanwhile.
const ATTEMPTS: u32 = 6;
/// Half the pause before the second attempt; the pause doubles each time.
const PAUSE: Duration = Duration::from_millis(10);
/// The contents of the file that marks the directory as unfinished.
const UNFINISHED: &str = "\
This backup of a partd store is not complete: it is still being made, or it was interrupted.\n\
If nobody is making it any more, remove this directory, and make the backup again.\n";

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    sequence: u64,
    segments: u64,
    linked: u64,
    copied_bytes: u64,
}

/// The reason why an attempt ended.
enum Ended {
    /// The files of the store changed; another attempt may succeed.
    Changed,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failed(failure)
    }
}

pub(crate) fn run(args: &Backup, out: &mut Output) -> Result<(), Failure> {
    let metadata = fs::metadata(&args.path).map_err(|e| Failure::io("read", &args.path, &e))?;
    if !metadata.is_dir() {
        let path = shown(&args.path);
        let message = format!("{path}: this is a file; give the directory of a store");
        return Err(Failure::Message(message));
    }
    // Nothing is created if there is no store.
    Store::read(&args.path)?;
    let is_new = fs::symlink_metadata(&args.dir).is_err();
    new_directory(&args.dir, &args.path)?;
    let target = Target::lock(&args.dir, is_new)?;
    let mut attempt = 0;
    let made = loop {
        attempt += 1;
        let store = Store::read(&args.path)?;
        let ended = match check(&store).and_then(|()| target.fill(&store)) {
            Ok(made) => break Ok((store, made)),
            Err(ended) => ended,
        };
        target.clear();
        match ended {
            Ended::Failed(failure) => break Err(failure),
            Ended::Changed if attempt == ATTEMPTS => {
                let path = shown(&args.path);
                let message = format!(
                    "{path}: its files changed during each of {ATTEMPTS} attempts, as beside compactions; run \
                     the command again, or make the backup from a handle of the engine, which pins them"
                );
                break Err(Failure::Message(message));
            }
            Ended::Changed => sleep(PAUSE * (1 << attempt)),
        }
    };
    let (store, made) = made.inspect_err(|_| target.discard())?;
    show(args, &store, made, out)
}

fn show(args: &Backup, store: &Store, made: Made, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        let rest = json!({
            "backup": shown(&args.dir),
            "sequence": made.sequence,
            "segments": made.segments,
            "segments_linked": made.linked,
            "bytes_copied": made.copied_bytes,
        });
        return Ok(out.document("backup", store, rest)?);
    }
    let (segments, linked) = (
        plural(made.segments, "segment", "segments"),
        plural(made.linked, "hard link", "hard links"),
    );
    out.line(format!("backup    {}", shown(&args.dir)))?;
    out.line(format!("history   up to sequence {}", count(made.sequence)))?;
    let copied = out.size(made.copied_bytes);
    Ok(out.line(format!("files     {segments}: {linked}, {copied} copied"))?)
}

/// Checks that what was read is a whole store at one moment.
fn check(store: &Store) -> Result<(), Ended> {
    let path = shown(&store.path);
    if store.has_gone() {
        return Err(Ended::Changed);
    }
    if store.is_damaged() {
        let message = format!(
            "{path}: the store is damaged, see `partd-inspect verify`; `partd-inspect salvage` writes what is \
             left of it to a new store"
        );
        return Err(Ended::Failed(Failure::Damage(message)));
    }
    if store.is_unreadable() {
        let message =
            format!("{path}: a file of the store cannot be read, see `partd-inspect verify`");
        return Err(Ended::Failed(Failure::Message(message)));
    }
    // An output was published after the commit word was read.
    match store.history.rule == Rule::CommitWord && store.history.max_seq > store.history.last {
        true => Err(Ended::Changed),
        false => Ok(()),
    }
}

/// The directory of a backup that is being made.
struct Target {
    path: PathBuf,
    dir: File,
    /// Whether this command created the directory.
    is_new: bool,
}

impl Target {
    /// Locks an empty directory.
    fn lock(path: &Path, is_new: bool) -> Result<Target, Failure> {
        let io = |error: io::Error| Failure::io("lock", path, &error);
        let refused = |why| Err(Failure::Message(format!("{}: {why}", shown(path))));
        let dir = File::open(path).map_err(io)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return refused("another process uses this directory; give a new or an empty one");
            }
            Err(error) => return Err(io(error.into())),
        }
        // Another process may have made a backup here before the lock, which `clear` would remove.
        match fs::read_dir(path).map_err(io)?.next() {
            None => Ok(Target { path: path.to_owned(), dir, is_new }),
            Some(_) => refused("this directory is not empty any more; give a new or an empty one"),
        }
    }

    /// Writes all files, makes them durable, and removes the mark.
    fn fill(&self, store: &Store) -> Result<Made, Ended> {
        let mark = self.path.join(UNFINISHED_BACKUP);
        let io = |doing, path: &Path, error| Ended::Failed(Failure::io(doing, path, &error));
        let write = |path: &Path, bytes: &[u8]| {
            let file = create(path)?;
            file.write_all_at(bytes, 0)?;
            file.sync_all()
        };
        let sync_dir = || self.dir.sync_all().map_err(|error| io("sync", &self.path, error));
        write(&mark, UNFINISHED.as_bytes()).map_err(|error| io("create", &mark, error))?;
        sync_dir()?;
        self.sync_name().map_err(|error| io("sync the name of", &self.path, error))?;
        let mut made = Made { sequence: store.history.last, ..Made::default() };
        let durable_seq = durable_seq(store);
        let mut last_id = 0;
        for (segment, included) in store.segments.iter().zip(&store.history.included) {
            let (Ok(header), true) = (&segment.header, *included) else { continue };
            let part = Part::of(segment, header.data_start, store.history.last);
            let to = self.path.join(segment.path().file_name().unwrap_or_default());
            last_id = last_id.max(header.id);
            made.segments += 1;
            if part.is_whole && is_durable(segment, durable_seq) && link(segment, &to)? {
                made.linked += 1;
                continue;
            }
            match copy(segment, header.salt, &part, &to) {
                Ok(()) => made.copied_bytes += part.end,
                Err(_) if segment.source.has_gone() => return Err(Ended::Changed),
                Err(error) => return Err(io("copy a segment to", &to, error)),
            }
        }
        // A temporary store may have reused a file before it was copied.
        if store.has_gone() {
            return Err(Ended::Changed);
        }
        let uuid = match store.uuid() {
            Some(uuid) => uuid,
            None => {
                let mut uuid = [0; 16];
                getrandom::fill(&mut uuid)
                    .map_err(|error| io("draw random bytes for", &self.path, error.into()))?;
                uuid
            }
        };
        let control = self.path.join("control");
        let bytes = control_file(uuid, store.history.last, last_id.saturating_add(1));
        write(&control, &bytes).map_err(|error| io("create", &control, error))?;
        sync_dir()?;
        fs::remove_file(&mark).map_err(|error| io("remove", &mark, error))?;
        sync_dir()?;
        Ok(made)
    }

    /// Makes the name of the directory durable. One that was there may be new as well.
    fn sync_name(&self) -> io::Result<()> {
        match File::open(self.path.join("..")) {
            // It may be searched but not read: sync the whole file system instead.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(syncfs(&self.dir)?),
            parent => parent?.sync_all(),
        }
    }

    /// Removes the files of an attempt. The mark goes last.
    fn clear(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        // The directory was empty when it was locked, so these files come from this command.
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        for name in names.filter(|name| name != UNFINISHED_BACKUP) {
            let is_ours =
                name == "control" || Path::new(&name).extension() == Some(OsStr::new("seg"));
            if is_ours && fs::remove_file(self.path.join(name)).is_err() {
                return;
            }
        }
        let _ = fs::remove_file(self.path.join(UNFINISHED_BACKUP));
    }

    /// Removes the directory if this command created it and it is empty.
    fn discard(&self) {
        if self.is_new {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// The `durable_seq` of the control file, which was read before the directory was listed; 0 if none
/// can be trusted. The one that a batch repeats would not do: a compaction that finished after the
/// listing raises it without a sync of its inputs, which are listed.
fn durable_seq(store: &Store) -> u64 {
    let control = store.control().filter(|control| !control.is_temporary() && !control.sync_failed);
    control.and_then(|control| control.durable_seq.as_ref().ok()).copied().unwrap_or(0)
}

/// Whether all batches of a segment whose batches are all final are durable.
fn is_durable(segment: &Segment, durable_seq: u64) -> bool {
    // An output is durable before it gets its name, except in a temporary store.
    let numbers = segment.batches.iter().filter_map(BatchInfo::sequence);
    durable_seq > 0 && numbers.max().unwrap_or(0) <= durable_seq
}

/// Gives a segment a second name. Returns whether that was possible.
fn link(segment: &Segment, to: &Path) -> Result<bool, Ended> {
    // It fails on another file system, for files of other users, and for a removed file.
    if linkat(CWD, segment.path(), CWD, to, AtFlags::empty()).is_err() {
        return Ok(false);
    }
    // The name may lead to another file by now, or be a symbolic link.
    if fs::symlink_metadata(to).is_ok_and(|metadata| segment.source.is_file(&metadata)) {
        return Ok(true);
    }
    fs::remove_file(to).map_err(|error| Failure::io("remove", to, &error))?;
    Ok(false)
}

/// Copies a part of a segment, seals it, and makes it durable.
fn copy(segment: &Segment, salt: Salt, part: &Part, to: &Path) -> io::Result<()> {
    let (file, len) = (create(to)?, segment.source.len());
    file.set_len(len)?;
    segment.source.copy_start(&file, part.end)?;
    let put = |offset: u64, word: u64| file.write_all_at(&word.to_le_bytes(), offset);
    for &offset in &part.voided {
        put(offset + STATE_AT, State::Void.encode(salt, offset))?;
    }
    if part.end + 8 <= len {
        put(part.end, Link::Sealed.encode(salt, part.end))?;
    }
    put(DURABLE_END_AT, durable_end::encode(salt, part.end))?;
    file.sync_all()
}

/// The part of a segment that a backup keeps.
struct Part {
    /// The end of the last batch that it keeps.
    end: u64,
    /// The offsets of batches before the end that are not part of the history.
    voided: Vec<u64>,
    /// Whether this is the whole chain, and none of its batches can still change.
    is_whole: bool,
}

impl Part {
    fn of(segment: &Segment, data_start: u64, last: u64) -> Part {
        let is_kept = |sequence: u64| segment.is_output() || sequence <= last;
        let mut part = Part { end: data_start, voided: Vec::new(), is_whole: false };
        let mut later = Vec::new();
        for batch in &segment.batches {
            match batch.state {
                Ok(State::Committed(sequence)) if is_kept(sequence) => {
                    part.end = batch.offset + batch.len;
                    part.voided.append(&mut later);
                }
                Ok(State::Void) => {}
                Ok(_) | Err(_) => later.push(batch.offset),
            }
        }
        let is_final = part.voided.is_empty() && later.is_empty();
        part.is_whole = matches!(segment.ending, Ending::Sealed) && is_final;
        part
    }
}

/// A control file that names no boot, device or inode, so only its store and `durable_seq` count.
fn control_file(uuid: [u8; 16], sequence: u64, next_segment: u64) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fixed = Fixed {
        store: uuid,
        boot: [0; 16],
        created_unix_ms: since.as_millis() as u64,
        device: 0,
        inode: 0,
        temporary: false,
    };
    let mut bytes = vec![0; layout::FILE_LEN as usize];
    bytes[..layout::FIXED_LEN].copy_from_slice(&fixed.encode());
    for (offset, word) in [
        (layout::COMMIT_AT, Commit { sequence, slot: 0, done: true }.encode()),
        (layout::NEXT_SEGMENT_AT, next_segment),
        (layout::DIRECTORY_EPOCH_AT, 1),
        (layout::DURABLE_SEQ_AT, layout::encode_durable_seq(&uuid, sequence)),
    ] {
        bytes[offset as usize..offset as usize + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another backup may have been made between the check of the directory and its lock.
    #[test]
    fn a_directory_that_is_not_empty_once_it_is_locked_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("control"), "of another backup").unwrap();
        let refused = Target::lock(dir.path(), false).map(drop);
        assert!(
            matches!(&refused, Err(Failure::Message(why)) if why.contains("not empty")),
            "{refused:?}"
        );
    }
}
