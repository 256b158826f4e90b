//! Opening a store: whose directory it is, who else has it open, and whether it needs recovery.
//!
//! Two locks say who is there. Every handle holds the lock on the directory shared, and a shared lock on the
//! presence byte of the control file. Whoever gets the lock on the directory exclusively is alone, and decides
//! whether the control file can be trusted: it is the original, of this boot, and was closed by its last handle;
//! else it is built again from the segments. Whoever joins others takes the control file only if somebody is
//! present on it: a file that was put in its place under living handles has nobody on it. So no two handles
//! ever use different control files of one store, whatever is removed or replaced meanwhile.

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
use crate::log::open::trust::{settle_alone, usable};
use crate::log::options::Options;
use crate::log::read::reader::Reader;
use crate::log::shared::control::Control;
use crate::log::store::{History, Store};

/// Of so many segments, whoever joins others looks at the version of each.
const LOOKED_AT_MAX: usize = 64;

/// A store that was opened, and what its handle knows of it.
#[derive(Debug)]
pub(crate) struct Opened<D: Disk> {
    pub(crate) store: Store<D>,
    pub(crate) reader: Reader<D>,
}

impl<D: Disk> Opened<D> {
    /// A store that is followed by its control file.
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
    let directory = prepare(disk, path, options, options.create)?;
    let boot = boot_id(&directory)?;
    let since = Instant::now();
    let mut unattended = None;
    loop {
        let mut joined = None;
        if let Some(alone) = try_lock(&directory, true)? {
            settle_alone(&directory, boot)?;
            joined =
                usable(&directory, boot, Access::Write)?.map(be_present).transpose()?.flatten();
            drop(alone);
        }
        // Between the two locks somebody else may have been alone; then this tries again.
        if let Some(shared) = try_lock(&directory, false)? {
            if joined.is_none() {
                joined = join(&directory, boot, Access::Write)?;
                // Whoever was there first has looked at all of them; of many, nobody looks again.
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
