//! Creates the files and directories that commands write: private to the user, never inside the
//! store.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use partd_format::segment::id_of_file_name;

use crate::Failure;
use partd_inspect::path::shown;

/// Creates a directory outside the store, or takes an empty one.
pub(crate) fn new_directory(dir: &Path, store: &Path) -> Result<(), Failure> {
    outside_store(dir, store)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(dir).map_err(|e| Failure::io("read", dir, &e))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(refuse(
                    dir,
                    "this directory is not empty; give an empty one, or a path that does not exist",
                )),
            }
        }
        made => made.map_err(|error| Failure::io("create", dir, &error)),
    }
}

/// Creates a file that only its owner may use; it must not exist, not even as a symbolic link.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Creates a file outside the store; it must not exist, not even as a symbolic link.
pub(crate) fn new_file(path: &Path, store: &Path) -> Result<File, Failure> {
    outside_store(path, store)?;
    create(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => refuse(path, "this file exists; give a path that does not"),
        _ => Failure::io("create", path, &error),
    })
}

/// Refuses a path inside the store at `store`; if that is a segment file, inside its directory.
fn outside_store(path: &Path, store: &Path) -> Result<(), Failure> {
    let Some(store) = directory_of(store) else { return Ok(()) };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // A path that does not exist yet is resolved by its parent.
    let real = fs::canonicalize(path).or_else(|_| {
        let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")))?;
        Ok::<PathBuf, io::Error>(parent.join(path.file_name().unwrap_or_default()))
    });
    match real {
        Ok(real) if real.starts_with(&store) => {
            Err(refuse(path, "this is inside the store, which partd-inspect never writes to"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::io("create", path, &error)),
    }
}

/// The directory of a store, given the directory itself or a segment file in it; else `None`.
fn directory_of(store: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(store).ok()?;
    if real.is_dir() {
        return Some(real);
    }
    let name = real.file_name().unwrap_or_default();
    let parent = real.parent()?.to_owned();
    let is_one = id_of_file_name(name.as_encoded_bytes()).is_some();
    (is_one || parent.join("control").exists()).then_some(parent)
}

fn refuse(path: &Path, why: &str) -> Failure {
    Failure::Message(format!("{}: {why}", shown(path)))
}
