//! Orphaned temporary stores: what `SegmentLog::temporary` made and a killed process left behind.
//!
//! A store is in use while anybody holds a lock on its `store.lock`. Listing takes no lock;
//! removing holds that lock exclusively, and touches nothing but the files of a store.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use partd_format::segment::id_of_file_name;
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, openat, statat, unlinkat,
};
use rustix::io::Errno;
use serde_json::json;

use crate::Failure;
use crate::args::Sweep;
use crate::output::Output;
use crate::text::{Align, Table, plural, shorten};
use partd_inspect::control::{Life, Locks};
use partd_inspect::path::shown;

/// How a temporary store begins its name; 16 hexadecimal digits follow.
const PREFIX: &str = "partd-tmp-";
/// A directory without a lock file is left alone for so long, as the engine's own sweep does: it may
/// be in the making.
const YOUNG: Duration = Duration::from_secs(60);
/// The lock file of a store.
const LOCK: &str = "store.lock";
/// How much of a reason a table shows.
const REASON: usize = 48;

struct Found {
    name: OsString,
    path: PathBuf,
    bytes: u64,
    age: Duration,
    /// Why it stays; `None` for an orphan.
    stays: Option<String>,
    removed: bool,
    /// Whether it was to be removed, and could not be.
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
        // Not through a symbolic link: it may lead anywhere.
        if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(look(&parent, name, entry.path()));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    if args.remove {
        for store in found.iter_mut().filter(|store| store.stays.is_none()) {
            match remove(&parent, store) {
                Ok(()) => store.removed = true,
                Err(Stays::Used) => store.stays = Some("in use".to_owned()),
                Err(Stays::Failed(why)) => (store.stays, store.failed) = (Some(why), true),
            }
        }
    }
    if found.iter().any(|store| store.failed) {
        out.note_failure();
    }
    show(&found, args, out)
}

/// Why a store was not removed.
enum Stays {
    /// Somebody has come meanwhile.
    Used,
    Failed(String),
}

/// Opens a store's directory, whatever its name leads to meanwhile: not through a symbolic link.
fn open_dir(parent: &File, name: &OsString) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::empty())?))
}

/// The names and the bytes of the files in a directory, if they are those of a store and nothing
/// else.
fn store_files(dir: &File) -> Result<(Vec<OsString>, u64), String> {
    let unreadable = |error: Errno| format!("cannot be read: {error}");
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in Dir::read_from(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable)?;
        if !is_of_a_store(name.as_encoded_bytes())
            || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        {
            return Err(format!("holds {}, which is not a store's", shown(&name)));
        }
        bytes += u64::try_from(stat.st_size).unwrap_or(0);
        names.push(name);
    }
    Ok((names, bytes))
}

/// Whether a store may have a file of this name (SPEC.md, "Files of a store").
fn is_of_a_store(name: &[u8]) -> bool {
    let writer = |name: &[u8]| {
        let digits = name.strip_prefix(b"writer-");
        digits.is_some_and(|digits| digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
    };
    let id = |digits: &[u8]| id_of_file_name(&[digits, b".seg"].concat()).is_some();
    let lock = name.strip_suffix(b".lock");
    let unfinished = name.strip_prefix(b"tmp-");
    name == b"control"
        || id_of_file_name(name).is_some()
        || name.strip_suffix(b".torn").is_some_and(id)
        || lock
            .is_some_and(|lock| matches!(lock, b"store" | b"sync" | b"compaction") || writer(lock))
        || unfinished.is_some_and(|maker| {
            matches!(maker, b"control" | b"output")
                || writer(maker)
                || maker.strip_prefix(b"spare-").is_some_and(id)
        })
}

fn look(parent: &File, name: OsString, path: PathBuf) -> Found {
    let opened = open_dir(parent, &name).map_err(|error| format!("cannot be read: {error}"));
    let changed = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    let (bytes, stays) = match opened.and_then(|dir| store_files(&dir)) {
        Err(why) => (0, Some(why)),
        Ok((names, bytes)) => {
            let has_lock = names.iter().any(|name| name == LOCK);
            let stays = match Locks::read().holds(&path.join(LOCK)) {
                Life::Alive => Some("in use".to_owned()),
                _ if !has_lock && age < YOUNG => Some("has no lock file yet, and is young".into()),
                Life::Dead | Life::Unknown => None,
            };
            (bytes, stays)
        }
    };
    Found { name, path, bytes, age, stays, removed: false, failed: false }
}

/// Removes an orphan under its exclusive lock. Every file is named below the directory that was
/// opened, so that nobody can lead it elsewhere.
fn remove(parent: &File, store: &Found) -> Result<(), Stays> {
    let failed = |error: Errno| Stays::Failed(format!("cannot be removed: {error}"));
    let dir = open_dir(parent, &store.name)
        .map_err(|error| Stays::Failed(format!("cannot be opened: {error}")))?;
    // Made where there is none, as the engine does: two must not remove one store, nor open it.
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Stays::Used),
        locked => locked.map_err(failed)?,
    }
    let (names, _) = store_files(&dir).map_err(Stays::Failed)?;
    // The lock file goes last, so that whoever comes meanwhile meets the lock.
    for name in names.iter().filter(|name| *name != LOCK) {
        unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
    }
    unlinkat(&dir, LOCK, AtFlags::empty()).map_err(failed)?;
    unlinkat(parent, &store.name, AtFlags::REMOVEDIR).map_err(failed)
}

fn show(found: &[Found], args: &Sweep, out: &mut Output) -> Result<(), Failure> {
    let state = |store: &Found| match &store.stays {
        _ if store.removed => "removed".to_owned(),
        Some(why) => why.clone(),
        None => "orphan".to_owned(),
    };
    let orphans = found.iter().filter(|store| store.stays.is_none());
    let bytes: u64 = orphans.clone().map(|store| store.bytes).sum();
    let number = orphans.count() as u64;
    if out.json {
        let stores: Vec<_> = found
            .iter()
            .map(|store| {
                json!({
                    "path": shown(&store.path),
                    "bytes": store.bytes,
                    "age_seconds": store.age.as_secs(),
                    "state": match (store.removed, store.failed, &store.stays) {
                        (true, ..) => "removed",
                        (_, true, _) => "failed",
                        (_, _, Some(_)) => "stays",
                        (_, _, None) => "orphan",
                    },
                    "why": store.stays,
                })
            })
            .collect();
        let directory = shown(&args.dir);
        let rest = json!({ "path": directory, "stores": stores, "orphan_bytes": bytes });
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
    let (orphans, size) = (plural(number, "orphan", "orphans"), out.size(bytes));
    let how = match (args.remove, number) {
        (true, _) => " removed",
        (false, 0) => "",
        (false, _) => "; --remove removes them",
    };
    Ok(out.line(format!("{orphans}, {size}{how}"))?)
}
