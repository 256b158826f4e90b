//! Opens a store read-only. A store in use is followed; a store that needs recovery is read as
//! recovery would leave it.

use std::path::Path;
use std::time::Instant;

use crate::error::Result;
use crate::log::fs::directory::Directory;
use crate::log::fs::{Access, Disk};
use crate::log::open::Opened;
use crate::log::open::join::{
    Joined, PATIENCE, PAUSE, PRESENCE_PATIENCE, be_present, boot_id, join, refuse_temporary,
    too_long, try_lock,
};
use crate::log::open::prepare::prepare;
use crate::log::open::trust::{owners, scan, usable, was_closed};
use crate::log::options::Options;
use crate::log::read::reader::Reader;
use crate::log::shared::found::FoundControl;
use crate::log::store::{Frozen, History, Store};
use crate::log::trace;

/// Opens a store read-only.
pub(crate) fn open_read_only<D: Disk>(
    disk: D,
    path: &Path,
    options: &Options,
) -> Result<Opened<D>> {
    let _span = trace::open(path, true);
    let directory = prepare(disk, path, options, false)?;
    let boot = boot_id(&directory)?;
    let since = Instant::now();
    let mut unattended = None;
    loop {
        let mut joined = None;
        // While this opener holds the exclusive lock, nobody writes, so the state it finds does not
        // change. A frozen handle is complete before the lock is dropped, because anything may
        // change after that.
        if let Some(alone) = try_lock(&directory, true)? {
            let control =
                usable(&directory, boot, Access::Follow)?.filter(|_| !options.ignore_damage);
            joined = match control {
                Some(control)
                    if was_closed(&directory, &control)?
                        && owners(&directory, &control)?.others == 0 =>
                {
                    be_present(control)?
                }
                _ => return frozen(directory, boot, options),
            };
            drop(alone);
        }
        if let Some(shared) = try_lock(&directory, false)? {
            if options.ignore_damage {
                return frozen(directory, boot, options);
            }
            if joined.is_none() {
                joined = join(&directory, boot, Access::Follow)?;
            }
            if let Some(Joined { control, presence }) = joined
                && control.is_in_place()?
            {
                return Opened::shared(directory, options, control, vec![presence, shared]);
            }
            // The handles that use the store have lost their control file. While this lock is held
            // nobody recovers the store, so its segments remain readable.
            if unattended.get_or_insert_with(Instant::now).elapsed() > PRESENCE_PATIENCE {
                return frozen(directory, boot, options);
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

/// Returns a handle that reads the store as recovery would leave it and never reads the directory
/// again.
fn frozen<D: Disk>(
    directory: Directory<D>,
    boot: [u8; 16],
    options: &Options,
) -> Result<Opened<D>> {
    let control = FoundControl::read(&directory)?;
    let _span = trace::recovery(directory.path());
    let (scan, _) = scan(&directory, boot, Access::Read, options.ignore_damage)?;
    let frozen = Frozen { uuid: scan.uuid, sequence: scan.sequence, control };
    let store = Store::new(directory, options.clone(), History::Frozen(frozen), Vec::new(), false)?;
    let reader = Reader::new();
    reader.with_version(&store, |_| ())?;
    Ok(Opened { store, reader })
}
