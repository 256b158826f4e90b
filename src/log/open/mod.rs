//! Opens a store: finds its directory, joins the processes that have it open, and recovers it if
//! needed.
//!
//! Every handle that follows a store holds two shared locks: one on the directory and one on the
//! presence byte of the control file. (The handle of a temporary store holds the directory
//! exclusively; one that reads a store as recovery would leave it holds no lock.) An opener that
//! gets the exclusive lock on the directory is alone. It decides whether the control file can be
//! trusted, which requires that the file is the original, was written in this boot, and was closed
//! by its last handle; otherwise it rebuilds the file from the segments. An opener that joins
//! others uses the control file only if a handle is present on it; a file that replaced the
//! original under live handles has none. So no two handles ever use different control files of one
//! store, whatever is removed or replaced meanwhile.

mod join;
mod prepare;
pub(crate) mod read_only;
pub(crate) mod recovery;
mod scanned;
pub(crate) mod sweep;
pub(crate) mod temporary;
mod trust;

use std::path::Path;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::{Access, Disk};
use crate::log::open::join::{
    Joined, PATIENCE, PAUSE, PRESENCE_PATIENCE, be_present, boot_id, join, refuse_temporary,
    too_long, try_lock,
};
use crate::log::open::prepare::prepare;
use crate::log::open::trust::{reopen_or_recover, usable};
use crate::log::options::Options;
use crate::log::read::reader::Reader;
use crate::log::shared::control::Control;
use crate::log::store::{History, Store};
use crate::log::trace;

/// A joining handle checks the format version of each segment only in stores with at most this
/// many.
const LOOKED_AT_MAX: usize = 64;

/// An opened store and the reader of its handle.
#[derive(Debug)]
pub(crate) struct Opened<D: Disk> {
    pub(crate) store: Store<D>,
    pub(crate) reader: Reader<D>,
}

impl<D: Disk> Opened<D> {
    /// Opens a store whose history is followed through its control file.
    fn shared(
        directory: Directory<D>,
        options: &Options,
        control: Control<D>,
        locks: Vec<D::Lock>,
    ) -> Result<Opened<D>> {
        let history = History::Shared(control);
        let store = Store::new(directory, options.clone(), history, locks, false)?;
        Ok(Opened { store, reader: Reader::new() })
    }
}

/// Opens a store for reading and writing.
pub(crate) fn open<D: Disk>(disk: D, path: &Path, options: &Options) -> Result<Opened<D>> {
    let _span = trace::open(path, false);
    let directory = prepare(disk, path, options, options.create)?;
    let boot = boot_id(&directory)?;
    let since = Instant::now();
    let mut unattended = None;
    loop {
        let mut joined = None;
        if let Some(alone) = try_lock(&directory, true)? {
            reopen_or_recover(&directory, boot)?;
            joined =
                usable(&directory, boot, Access::Write)?.map(be_present).transpose()?.flatten();
            drop(alone);
        }
        // Another opener may have been alone between the two locks; then this one tries again.
        if let Some(shared) = try_lock(&directory, false)? {
            if joined.is_none() {
                joined = join(&directory, boot, Access::Write)?;
                // The first opener has checked all segments; if there are many, do not check them
                // again.
                if joined.is_some() && directory.segment_ids()?.len() <= LOOKED_AT_MAX {
                    directory.check_versions()?;
                }
            }
            if let Some(Joined { control, presence }) = joined
                && control.is_in_place()?
            {
                control.reserve()?;
                control.set_open();
                return Opened::shared(directory, options, control, vec![presence, shared]);
            }
            drop(shared);
            if unattended.get_or_insert_with(Instant::now).elapsed() > PRESENCE_PATIENCE {
                return Err(no_control_in_use(&directory));
            }
        } else {
            unattended = None;
            refuse_temporary(&directory)?;
        }
        if since.elapsed() > PATIENCE {
            return Err(too_long(&directory));
        }
        std::thread::sleep(PAUSE);
    }
}

fn no_control_in_use<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "other processes have the store open, but none of them uses its control file: it was removed or \
               replaced, or a process was stopped while it opened the store. Close the store in those processes \
               and open it again: it is then recovered from the segments";
    Error::refused(ErrorKind::Removed, &**directory.path(), why)
}
