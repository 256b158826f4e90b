//! Removes temporary stores: with their handle, or in a sweep after the handle was killed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::log::fs::directory::{Content, Directory};
use crate::log::fs::names::{
    CONTROL, TEMPORARY_PREFIX, UNFINISHED_CONTROL, is_known, is_unfinished,
};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::shared::control::Control;

/// How many files a removal keeps open, each with a memory map. The space of any others is freed as
/// they are unlinked.
const OPEN_MAX: usize = 8192;
/// From this many bytes on, a separate thread frees the space.
const THREAD_MIN_BYTES: u64 = 256 << 20;

/// Frees the space of unlinked files and drops `others`, which may hold them open too.
///
/// A large amount is freed on a thread, because the store is already gone and nobody has to wait.
/// If the process ends first, the kernel releases the files.
pub(crate) fn give_back<F: DiskFile>(files: Vec<F>, others: impl Send + 'static) {
    let bytes: u64 = files.iter().map(|file| file.mapping().len()).sum();
    let work = move || drop((files, others));
    if bytes < THREAD_MIN_BYTES {
        return work();
    }
    // If no thread can be started, dropping the closure frees the files here.
    drop(std::thread::Builder::new().name("partd-removal".into()).spawn(work));
}

/// Removes the temporary stores in a directory whose handles are gone.
pub(crate) fn sweep<D: Disk>(disk: &D, path: &Path) -> Result<Vec<PathBuf>> {
    let parent = disk.open_dir(path).map_err(|e| Error::io("list", path, e))?;
    // A store that cannot be removed does not stop the removal of the others.
    let (mut swept, mut failed) = (Vec::new(), None);
    for name in parent.list().map_err(|e| Error::io("list", path, e))? {
        let Some(name) = name.to_str().filter(|name| is_temporary_store(OsStr::new(name))) else {
            continue;
        };
        let Ok(dir) = parent.open_dir(name) else { continue };
        let directory = Directory::new(disk.clone(), dir, &path.join(name));
        // Without the lock, the store is in use or another user's, or its owner has just removed
        // it.
        let Ok(Some(_alone)) = directory.dir.try_lock(true) else { continue };
        match remove(&directory, None, Some(&parent)) {
            Ok(Some(_)) => swept.push(path.join(name)),
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(swept),
    }
}

/// Removes a temporary store whose lock the caller holds. Returns `None` and leaves everything in
/// place if the directory is gone or holds anything that is not of one temporary store. Also
/// returns `None` if the directory's name leads elsewhere by now; its files are then unlinked, but
/// the directory stays.
///
/// The name of the directory proves nothing. It is a temporary store if its own handle says so, by
/// passing its `uuid`, or if its control file does. Without either, only the remains of an
/// interrupted creation or removal are removed: an unfinished control file, or no file at all.
///
/// Returns the unlinked files still open: the kernel frees a file's pages and blocks when its last
/// user closes it, which takes far longer than the unlink.
///
/// `parent` is the directory that holds the store; without it, the parent of the store's path is
/// used.
pub(crate) fn remove<D: Disk>(
    directory: &Directory<D>,
    uuid: Option<[u8; 16]>,
    parent: Option<&D::Dir>,
) -> Result<Option<Vec<D::File>>> {
    let opened;
    let parent = match (parent, directory.path().parent()) {
        (Some(parent), _) => parent,
        (None, Some(path)) => {
            opened = directory.disk.open_dir(path).map_err(|e| Error::io("open", path, e))?;
            &opened
        }
        (None, None) => return Ok(None),
    };
    let names = match directory.dir.list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        names => names.map_err(|e| directory.dir_error("list", e))?,
    };
    if !names.iter().all(|name| is_known(name)) {
        return Ok(None);
    }
    let uuid = match Control::open(directory, Access::Read) {
        Ok(Ok(control)) if control.fixed.temporary => uuid.or(Some(control.fixed.store)),
        Ok(Ok(_)) => return Ok(None),
        _ => uuid,
    };
    if uuid.is_none() && names.iter().any(|name| name != UNFINISHED_CONTROL) {
        return Ok(None);
    }
    let mut files = Vec::new();
    for name in names.iter().filter_map(|name| name.to_str()) {
        match directory.content(name, uuid.as_ref()) {
            Ok(Content::Foreign) => return Ok(None),
            // A killed process may leave an unfinished file with any content.
            Ok(Content::Unknown) if !is_unfinished(OsStr::new(name)) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(directory.error("read", name, error)),
        }
        if files.len() < OPEN_MAX {
            files.extend(directory.dir.open(name, Access::Read));
        }
    }
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| *name != CONTROL) {
        directory.unlink(name)?;
    }
    // Removed last, so that the sweep after an interrupted one can still identify the store.
    directory.unlink(CONTROL)?;
    let Some(name) = directory.path().file_name().and_then(OsStr::to_str) else { return Ok(None) };
    match parent.remove_dir(name, &directory.dir) {
        Ok(()) => Ok(Some(files)),
        // The directory was renamed, replaced or removed by someone else.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::StaleNetworkFileHandle
                    | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::io("remove", &**directory.path(), error)),
    }
}

/// Whether a directory is named like a temporary store.
fn is_temporary_store(name: &OsStr) -> bool {
    let random = name.as_encoded_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes());
    random.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}
