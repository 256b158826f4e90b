//! Checks whether a path leads to a store or to a place for a new one.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use partd_format::control as layout;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::{CONTROL, UNFINISHED_BACKUP, is_known, is_of_store};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::options::Options;

/// Checks the path and opens its directory, which it creates if `make` is set.
pub(super) fn prepare<D: Disk>(
    disk: D,
    path: &Path,
    options: &Options,
    make: bool,
) -> Result<Directory<D>> {
    // Absolute for error messages: the process may change its working directory later.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let opened = match disk.open_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            disk.create_dir(path).map_err(|e| Error::io("make the directory", path, e))?;
            disk.open_dir(path)
        }
        opened => opened,
    };
    let dir = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !make => {
            let why =
                "there is no store here; check the path, or create one with `SegmentLog::open`";
            return Err(Error::refused(ErrorKind::NotAStore, path, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let why = "this is a file, but a store is a directory; give the path of a directory, \
                       or a path that does not exist";
            return Err(Error::refused(ErrorKind::NotAStore, path, why));
        }
        opened => opened.map_err(|e| Error::io("read the directory", path, e))?,
    };
    let directory = Directory::new(disk, dir, path);
    let listed = directory.dir.list().map_err(|e| directory.dir_error("read the directory", e))?;
    if listed.iter().any(|name| name == UNFINISHED_BACKUP) {
        return Err(unfinished_backup(&directory));
    }
    let is_store = listed.iter().any(|name| is_of_store(name)) || is_control(&directory, &listed)?;
    let is_strange = |name: &&OsString| !is_known(name) || *name == CONTROL;
    let stranger = listed.iter().find(is_strange);
    if let Some(stranger) = stranger.filter(|_| !is_store) {
        let why = format!(
            "this is not a partd store, and it holds other files ({}{}); give an empty or a new \
             directory",
            stranger.to_string_lossy(),
            if listed.len() > 1 { ", …" } else { "" }
        );
        return Err(Error::refused(ErrorKind::NotAStore, path, why));
    }
    if !make && !is_store {
        let why = "there is no store in this directory; check the path, or create one with \
                   `SegmentLog::open`";
        return Err(Error::refused(ErrorKind::NotAStore, path, why));
    }
    check_file_system(&directory, options)?;
    Ok(directory)
}

/// Rejects an unfinished backup, also one that was begun since [`prepare`] has listed the directory.
pub(super) fn refuse_unfinished_backup<D: Disk>(directory: &Directory<D>) -> Result<()> {
    match directory.dir.id_of(UNFINISHED_BACKUP) {
        Ok(_) => Err(unfinished_backup(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(directory.error("look at", UNFINISHED_BACKUP, error)),
    }
}

fn unfinished_backup<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "this is an unfinished backup: it is still being made, or it was interrupted. If \
               nobody is making it any more, remove the directory and make the backup again";
    Error::refused(ErrorKind::NotAStore, &**directory.path(), why)
}

/// Rejects file systems on which the store cannot keep its guarantees.
pub(crate) fn check_file_system<D: Disk>(
    directory: &Directory<D>,
    options: &Options,
) -> Result<()> {
    if options.any_file_system {
        return Ok(());
    }
    let unfit =
        directory.dir.unfit().map_err(|e| directory.dir_error("examine the file system of", e))?;
    let Some(unfit) = unfit else { return Ok(()) };
    let why = format!(
        "{unfit}, where mappings and locks may not work as the store requires; use a local disk, \
         or set the option `any_file_system` if only this machine uses the directory and nothing \
         has to survive a crash"
    );
    Err(Error::refused(ErrorKind::UnsupportedFileSystem, &**directory.path(), why))
}

/// Whether a file named `control`, in a directory without segments, can be the remains of a control
/// file after a power cut: it is empty or has the full length, with any contents.
pub(super) fn is_control<D: Disk>(directory: &Directory<D>, listed: &[OsString]) -> Result<bool> {
    if !listed.iter().any(|name| name == CONTROL) {
        return Ok(false);
    }
    let file = match directory.dir.open(CONTROL, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
        opened => opened.map_err(|error| directory.error("open", CONTROL, error))?,
    };
    let len = file.mapping().len();
    Ok(len == 0 || len == layout::FILE_LEN)
}
