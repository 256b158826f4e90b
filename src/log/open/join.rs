//! Who else has the store open: the locks, and how to join those who hold them.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::{Access, Dir, Disk};
use crate::log::open::trust::{control, is_temporary};
use crate::log::shared::control::Control;

/// How long to wait for another process that recovers the store.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for a control file on which those who use the store are present: another opener takes two
/// steps to be there.
pub(super) const PRESENCE_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// A control file on which this handle is present, so that it stays the one in use.
pub(super) struct Joined<D: Disk> {
    pub(super) control: Control<D>,
    pub(super) presence: D::Lock,
}

pub(super) fn try_lock<D: Disk>(
    directory: &Directory<D>,
    exclusive: bool,
) -> Result<Option<D::Lock>> {
    directory
        .dir
        .try_lock(exclusive)
        .map_err(|error| directory.dir_error("lock the directory", error))
}

pub(super) fn boot_id<D: Disk>(directory: &Directory<D>) -> Result<[u8; 16]> {
    let doing = "read /proc/sys/kernel/random/boot_id for";
    directory.disk.boot_id().map_err(|error| Error::io(doing, &**directory.path(), error))
}

/// Becomes present on a control file that the caller knows to be the one in use.
pub(super) fn be_present<D: Disk>(control: Control<D>) -> Result<Option<Joined<D>>> {
    let presence = control.take_presence_lock()?;
    Ok(presence.map(|presence| Joined { control, presence }))
}

/// Joins those who use the store, if somebody is present on its control file. The caller holds the lock on the
/// directory shared.
pub(super) fn join<D: Disk>(
    directory: &Directory<D>,
    boot: [u8; 16],
    access: Access,
) -> Result<Option<Joined<D>>> {
    let Some(control) = control(directory, access)? else { return Ok(None) };
    if !control.is_original() || !control.is_present()? {
        return Ok(None);
    }
    if control.fixed.boot != boot {
        let why = "the store is in use by processes that see another boot id in \
                   /proc/sys/kernel/random/boot_id, as containers of some kinds do; give all that use the store \
                   the same one";
        return Err(Error::refused(ErrorKind::Busy, &**directory.path(), why));
    }
    match control.is_open() || control.is_clean() {
        true => be_present(control),
        false => Ok(None),
    }
}

/// An error if the store is the temporary one of another handle.
pub(super) fn refuse_temporary<D: Disk>(directory: &Directory<D>) -> Result<()> {
    match control(directory, Access::Read) {
        Ok(Some(control)) if control.fixed.temporary => Err(is_temporary(directory)),
        _ => Ok(()),
    }
}

pub(super) fn too_long<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "another process has been opening or recovering the store for half a minute; try again, or stop \
               that process";
    Error::refused(ErrorKind::Busy, &**directory.path(), why)
}
