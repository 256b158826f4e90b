//! Orphaned temporary stores: what `SegmentLog::temporary` made and a killed process left behind.
//!
//! A store is in use while anybody holds a lock on its `store.lock`. Listing takes no lock;
//! removing holds that lock exclusively, and touches nothing but the files of a store.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use partd_format::segment::id_of_file_name;
use serde_json::json;

use crate::Failure;
use crate::args::Sweep;
use crate::output::Output;
use crate::read::control::{Life, Locks};
use crate::text::{Align, Table, plural};

/// How a temporary store begins its name; eight or more letters and digits follow.
const PREFIX: &str = "partd-tmp-";
/// A directory without a lock file is left alone for so long: it may be in the making.
const YOUNG: Duration = Duration::from_secs(60);

struct Found {
    path: PathBuf,
    bytes: u64,
    age: Duration,
    /// Why it stays; `None` for an orphan.
    stays: Option<String>,
    removed: bool,
}

pub(crate) fn run(args: &Sweep, out: &mut Output) -> Result<(), Failure> {
    let io = |error| Failure::io("read", &args.dir, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&args.dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let named = suffix.is_some_and(|suffix| {
            suffix.len() >= 8 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        // Not through a symbolic link: it may lead anywhere.
        if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(look(entry.path()));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    if args.remove {
        for store in found.iter_mut().filter(|store| store.stays.is_none()) {
            match remove(&store.path) {
                Ok(()) => store.removed = true,
                Err(why) => store.stays = Some(why),
            }
        }
    }
    show(&found, args, out)
}

/// The files in a directory, if they are those of a store and nothing else.
fn store_files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let entries = fs::read_dir(path).map_err(|error| format!("cannot be read: {error}"))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot be read: {error}"))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let ours = id_of_file_name(name.as_encoded_bytes()).is_some()
            || text == "control"
            || text.ends_with(".lock")
            || text.ends_with(".torn")
            || text.starts_with("tmp-");
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Err(format!("holds {text}, which is not a store's"));
        }
        files.push(entry.path());
    }
    Ok(files)
}

fn look(path: PathBuf) -> Found {
    let changed = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok());
    let age = age.unwrap_or_default();
    let (files, mut stays) = match store_files(&path) {
        Ok(files) => (files, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|m| m.len()).sum();
    let lock = path.join("store.lock");
    stays = stays.or(match Locks::read().holds(&lock) {
        Life::Alive => Some("in use".to_owned()),
        _ if !lock.exists() && age < YOUNG => Some("has no lock file yet, and is young".to_owned()),
        Life::Dead | Life::Unknown => None,
    });
    Found { path, bytes, age, stays, removed: false }
}

/// Removes an orphan under its exclusive lock.
fn remove(path: &Path) -> Result<(), String> {
    let lock = path.join("store.lock");
    let guard = match File::open(&lock) {
        Ok(file) => {
            fs2::FileExt::try_lock_exclusive(&file).map_err(|_| "in use".to_owned())?;
            Some(file)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("its lock cannot be opened: {error}")),
    };
    let failed = |error: std::io::Error| format!("cannot be removed: {error}");
    // The lock file goes last, so that whoever comes meanwhile meets the lock.
    for file in store_files(path)?.iter().filter(|file| **file != lock) {
        fs::remove_file(file).map_err(failed)?;
    }
    if guard.is_some() {
        fs::remove_file(&lock).map_err(failed)?;
    }
    fs::remove_dir(path).map_err(failed)
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
                    "path": store.path.display().to_string(),
                    "bytes": store.bytes,
                    "age_seconds": store.age.as_secs(),
                    "state": match (store.removed, &store.stays) {
                        (true, _) => "removed",
                        (false, Some(_)) => "stays",
                        (false, None) => "orphan",
                    },
                    "why": store.stays,
                })
            })
            .collect();
        let directory = args.dir.display().to_string();
        let rest = json!({ "path": directory, "stores": stores, "orphan_bytes": bytes });
        return Ok(out.plain_document("sweep", rest)?);
    }
    if found.is_empty() {
        let dir = args.dir.display();
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
        table.row(vec![store.path.display().to_string(), out.size(store.bytes), age, state(store)]);
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
