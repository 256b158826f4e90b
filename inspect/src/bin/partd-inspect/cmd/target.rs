//! Where commands write: new files and directories for their user alone, never inside the store.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use partd_format::segment::id_of_file_name;

use crate::Failure;
use partd_inspect::path::shown;

/// Makes a directory that must not be there, or be empty, and not lie in the store.
pub(crate) fn new_directory(dir: &Path, store: &Path) -> Result<(), Failure> {
    outside_store(dir, store)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(dir).map_err(|e| Failure::io("read", dir, &e))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(refuse(
                    dir,
                    "this directory is not empty; give one that is, or that does not exist",
                )),
            }
        }
        made => made.map_err(|error| Failure::io("make", dir, &error)),
    }
}

/// Makes a file that must not be there, not even as a symbolic link, and not lie in the store.
pub(crate) fn new_file(path: &Path, store: &Path) -> Result<File, Failure> {
    outside_store(path, store)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            refuse(path, "this file is there; give one that does not exist")
        }
        _ => Failure::io("make", path, &error),
    })
}

/// Refuses a path that leads into the store at `store`, or into the one around that segment file.
fn outside_store(path: &Path, store: &Path) -> Result<(), Failure> {
    let Some(store) = directory_of(store) else { return Ok(()) };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // What is not there yet will lie in its parent.
    let real = fs::canonicalize(path).or_else(|_| {
        let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")))?;
        Ok::<PathBuf, std::io::Error>(parent.join(path.file_name().unwrap_or_default()))
    });
    match real {
        Ok(real) if real.starts_with(&store) => {
            Err(refuse(path, "this lies inside the store, which is never written to"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::io("make", path, &error)),
    }
}

/// The directory of a store, itself or around a segment file; `None` if there is none around it.
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
