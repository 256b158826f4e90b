//! Creates temporary stores, each for one handle that keeps it locked.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result, damage};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::{CONTROL, TEMPORARY_PREFIX};
use crate::log::fs::{Access, Dir, Disk};
use crate::log::open::Opened;
use crate::log::open::prepare::check_file_system;
use crate::log::open::sweep::remove;
use crate::log::options::Options;
use crate::log::read::reader::Reader;
use crate::log::shared::control::Control;
use crate::log::shared::start::Start;
use crate::log::store::{History, Store};
use crate::log::trace;

/// How many attempts to make when sweeps remove the directory before it is locked.
const TRIES: u32 = 16;

/// Creates a store that is removed with its handle.
pub(crate) fn temporary<D: Disk>(disk: D, dir: &Path, options: &Options) -> Result<Opened<D>> {
    let _span = trace::open(dir, false);
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let path = dir.join(random_name(&disk, dir)?);
        let path = std::path::absolute(&path).unwrap_or(path);
        match make(disk.clone(), &path, options)? {
            Some(log) => return Ok(log),
            None if tries > 0 => {}
            None => {
                let why = "sweeps have removed 16 temporary stores in a row while this process \
                           was creating them";
                return Err(Error::refused(ErrorKind::Busy, dir, why));
            }
        }
    }
}

/// Creates the store; `None` if a sweep removed it first.
fn make<D: Disk>(disk: D, path: &Path, options: &Options) -> Result<Option<Opened<D>>> {
    disk.create_dir(path).map_err(|e| Error::io("make the directory", path, e))?;
    let dir = match disk.open_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir.map_err(|e| Error::io("open the directory", path, e))?,
    };
    let directory = Directory::new(disk, dir, path);
    let made = check_file_system(&directory, options).and_then(|()| fill(&directory));
    match made {
        Ok(Some((control, lock))) => {
            let history = History::Shared(control);
            let store = Store::new(directory, options.clone(), history, vec![lock], true)?;
            Ok(Some(Opened { store, reader: Reader::new() }))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            let _ = remove(&directory, None, None);
            Err(error)
        }
    }
}

/// Locks a new directory for the life of its handle and creates its control file; `None` if a sweep
/// removed it first.
fn fill<D: Disk>(directory: &Directory<D>) -> Result<Option<(Control<D>, D::Lock)>> {
    let lock =
        directory.dir.try_lock(true).map_err(|e| directory.dir_error("lock the directory", e))?;
    let Some(lock) = lock else { return Ok(None) };
    // A sweep may have held the lock and removed the directory before this handle got it.
    if directory.dir.is_removed().map_err(|e| directory.dir_error("examine", e))? {
        return Ok(None);
    }
    let boot = directory.disk.boot_id().unwrap_or_default();
    let start = Start::of_new_store(directory.random()?, boot, directory.disk.now_unix_ms(), true);
    start.create(directory)?;
    match Control::open(directory, Access::Write)? {
        Ok(control) => Ok(Some((control, lock))),
        Err(error) => Err(damage(directory.path_of(CONTROL), error)),
    }
}

/// A random name for the store.
fn random_name<D: Disk>(disk: &D, dir: &Path) -> Result<String> {
    let mut bytes = [0; 8];
    disk.random(&mut bytes).map_err(|e| Error::io("draw a name in", dir, e))?;
    let mut name = TEMPORARY_PREFIX.to_owned();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}
