//! `sweep`: finds abandoned temporary stores, which `SegmentLog::temporary` created and a killed
//! process left behind.
//!
//! The handle of a temporary store holds an exclusive `flock` on its directory. Listing takes no lock.
//! Removing takes that lock, as the engine's own sweep does (`src/log/open/sweep.rs`). It removes a
//! directory only if all files in it belong to one temporary store, by their names and their contents,
//! and the control file says that it is one. The name of the directory proves nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, openat, statat, unlinkat,
};
use rustix::io::Errno;
use serde_json::json;

use crate::Failure;
use crate::args::Sweep;
use crate::output::Output;
use crate::text::{Align, Table, plural, shorten};
use partd_inspect::locks::{Liveness, Locks};
use partd_inspect::names::{Content, Name};
use partd_inspect::path::shown;

/// The prefix of a temporary store's name; 16 hexadecimal digits follow.
const PREFIX: &str = "partd-tmp-";
/// The name of the control file.
const CONTROL: &str = "control";
/// The name of a control file under construction.
const UNFINISHED_CONTROL: &str = "tmp-control";
/// How many characters of a reason the table shows.
const REASON: usize = 48;

struct Candidate {
    name: OsString,
    path: PathBuf,
    bytes: u64,
    age: Duration,
    /// Why it is kept; `None` if it is abandoned.
    kept: Option<String>,
    removed: bool,
    /// Whether removing it failed.
    failed: bool,
}

pub(crate) fn run(args: &Sweep, out: &mut Output) -> Result<(), Failure> {
    let io = |error| Failure::io("read", &args.dir, &error);
    let parent = File::open(&args.dir).map_err(io)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&args.dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let named = suffix.is_some_and(|suffix| {
            suffix.len() == 16 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        // A symbolic link is skipped: it may lead anywhere.
        if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(examine(&parent, name, entry.path()));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    if args.remove {
        for store in found.iter_mut().filter(|store| store.kept.is_none()) {
            match remove(&parent, store) {
                Ok(()) => store.removed = true,
                Err(Kept::Used) => store.kept = Some("in use".to_owned()),
                Err(Kept::Failed(why)) => (store.kept, store.failed) = (Some(why), true),
            }
        }
    }
    if found.iter().any(|store| store.failed) {
        out.record_failure();
    }
    show(&found, args, out)
}

/// The reason why a store was not removed.
enum Kept {
    /// A process uses it now.
    Used,
    Failed(String),
}

/// Opens a store's directory, but not through a symbolic link.
fn open_dir(parent: &File, name: &OsString) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::empty())?))
}

/// The names and total length of the files in a directory, if all of them belong to one temporary
/// store.
fn store_files(dir: &File) -> Result<(Vec<OsString>, u64), String> {
    let unreadable = |error: Errno| format!("cannot be read: {error}");
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in Dir::read_from(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        let stat = match statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            // Its process has just removed it.
            Err(Errno::NOENT) => continue,
            stat => stat.map_err(unreadable)?,
        };
        let is_foreign =
            matches!(Name::of(name.as_encoded_bytes()), Name::Foreign | Name::UnfinishedBackup);
        if is_foreign || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(format!("holds {}, which is not part of a store", shown(&name)));
        }
        bytes += u64::try_from(stat.st_size).unwrap_or(0);
        names.push(name);
    }
    names.sort();
    of_one_temporary_store(dir, &names)?;
    Ok((names, bytes))
}

/// Checks that all files belong to one temporary store, which the control file names. Without it, only
/// the remains of an interrupted creation or removal pass: an unfinished control file, or no file.
fn of_one_temporary_store(dir: &File, names: &[OsString]) -> Result<(), String> {
    let mut contents = Vec::new();
    for name in names {
        match content(dir, name) {
            Ok(content) => contents.push((name, content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", shown(name))),
        }
    }
    let mut said = None;
    for (name, content) in &contents {
        match content {
            Content::Control(fixed) if *name == CONTROL && !fixed.temporary => {
                return Err("is not temporary, by its control file".to_owned());
            }
            Content::Control(fixed) if *name == CONTROL => said = Some(fixed.store),
            Content::NewerVersion => {
                return Err(format!("{} has a newer format version", shown(name)));
            }
            _ => {}
        }
    }
    if said.is_none() && contents.iter().any(|(name, _)| *name != UNFINISHED_CONTROL) {
        return Err("has no readable control file that says it is temporary".to_owned());
    }
    for (name, content) in &contents {
        match content {
            Content::Segment(store) if said != Some(*store) => {
                return Err(format!("{} belongs to another store", shown(name)));
            }
            // A killed process may leave an unfinished file with any content.
            Content::Unknown => match Name::of(name.as_encoded_bytes()) {
                Name::Unfinished | Name::Recycled => {}
                _ => return Err(format!("{} is not a file of a store", shown(name))),
            },
            _ => {}
        }
    }
    Ok(())
}

/// Classifies a file in a directory by its first bytes.
fn content(dir: &File, name: &OsString) -> io::Result<Content> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = vec![0; metadata.len().min(Content::LEN as u64) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(match Content::of(&bytes, metadata.len()) {
        // Too short for a header, but somebody has written it.
        Content::Blank if bytes.iter().any(|&byte| byte != 0) => Content::Unknown,
        content => content,
    })
}

fn examine(parent: &File, name: OsString, path: PathBuf) -> Candidate {
    let opened = open_dir(parent, &name).map_err(|error| format!("cannot be read: {error}"));
    let changed = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    let (bytes, kept) = match opened.and_then(|dir| store_files(&dir)) {
        Err(why) => (0, Some(why)),
        Ok((_, bytes)) => match Locks::read().store(&path) {
            Liveness::Alive => (bytes, Some("in use".to_owned())),
            Liveness::Dead | Liveness::Unknown => (bytes, None),
        },
    };
    Candidate { name, path, bytes, age, kept, removed: false, failed: false }
}

/// Removes an abandoned store under its exclusive lock. It reaches every file through the directory
/// that it opened, so that no rename can redirect it.
fn remove(parent: &File, store: &Candidate) -> Result<(), Kept> {
    let failed = |error: Errno| Kept::Failed(format!("cannot be removed: {error}"));
    let opened = open_dir(parent, &store.name);
    let dir = opened.map_err(|error| Kept::Failed(format!("cannot be opened: {error}")))?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Kept::Used),
        locked => locked.map_err(failed)?,
    }
    let (names, _) = store_files(&dir).map_err(Kept::Failed)?;
    is_named(parent, store, &dir)?;
    for name in names.iter().filter(|name| *name != CONTROL) {
        unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
    }
    // The control file goes last: if the sweep dies, it still tells whose files are left.
    match unlinkat(&dir, CONTROL, AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        unlinked => unlinked.map_err(failed)?,
    }
    is_named(parent, store, &dir)?;
    unlinkat(parent, &store.name, AtFlags::REMOVEDIR).map_err(failed)
}

/// Checks that the name of a store still leads to its directory.
fn is_named(parent: &File, store: &Candidate, dir: &File) -> Result<(), Kept> {
    let opened = dir.metadata().map_err(|e| Kept::Failed(format!("cannot be read: {e}")))?;
    let is_same = |now: Stat| (now.st_dev, now.st_ino) == (opened.dev(), opened.ino());
    match statat(parent, &store.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(now) if is_same(now) => Ok(()),
        _ => Err(Kept::Failed("was renamed or replaced meanwhile".to_owned())),
    }
}

fn show(found: &[Candidate], args: &Sweep, out: &mut Output) -> Result<(), Failure> {
    let state = |store: &Candidate| match &store.kept {
        _ if store.removed => "removed".to_owned(),
        Some(why) => why.clone(),
        None => "abandoned".to_owned(),
    };
    let abandoned = found.iter().filter(|store| store.kept.is_none());
    let bytes: u64 = abandoned.clone().map(|store| store.bytes).sum();
    let number = abandoned.count() as u64;
    if out.json {
        let stores: Vec<_> = found
            .iter()
            .map(|store| {
                json!({
                    "path": shown(&store.path),
                    "bytes": store.bytes,
                    "age_seconds": store.age.as_secs(),
                    "state": match (store.removed, store.failed, &store.kept) {
                        (true, ..) => "removed",
                        (_, true, _) => "failed",
                        (_, _, Some(_)) => "kept",
                        (_, _, None) => "abandoned",
                    },
                    "why": store.kept,
                })
            })
            .collect();
        let directory = shown(&args.dir);
        let rest = json!({ "path": directory, "stores": stores, "abandoned_bytes": bytes });
        return Ok(out.plain_document("sweep", rest)?);
    }
    if found.is_empty() {
        let dir = shown(&args.dir);
        return Ok(out.line(format!("no temporary stores ({PREFIX}...) in {dir}"))?);
    }
    let mut table = Table::new(&[
        ("store", Align::Flexible),
        ("size", Align::Right),
        ("age", Align::Right),
        ("state", Align::Left),
    ]);
    for store in found {
        let age = match store.age.as_secs() {
            seconds @ 0..120 => format!("{seconds} s"),
            seconds @ 120..7200 => format!("{} min", seconds / 60),
            seconds => format!("{} h", seconds / 3600),
        };
        let state = shorten(&state(store), REASON);
        table.row(vec![shown(&store.path), out.size(store.bytes), age, state]);
    }
    out.table(&table)?;
    let (abandoned, size) =
        (plural(number, "abandoned store", "abandoned stores"), out.size(bytes));
    let how = match (args.remove, number) {
        (true, _) => " removed",
        (false, 0) => "",
        (false, _) => "; --remove removes them",
    };
    Ok(out.line(format!("{abandoned}, {size}{how}"))?)
}
