//! Takes the locks on a store and joins the handles that already have it open.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::log::fs::directory::Directory;
use crate::log::fs::{Access, Dir, Disk};
use crate::log::open::trust::{control, is_temporary};
use crate::log::shared::control::Control;

/// How long to wait while another process recovers the store.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for a control file with a handle present on it: another opener takes the
/// directory lock and becomes present in two steps.
pub(super) const PRESENCE_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// A control file and this handle's presence lock on it, which keeps it the one in use.
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

/// Takes the presence lock on a control file. The caller has checked that it is the one in use.
pub(super) fn be_present<D: Disk>(control: Control<D>) -> Result<Option<Joined<D>>> {
    let presence = control.take_presence_lock()?;
    Ok(presence.map(|presence| Joined { control, presence }))
}

/// Joins the handles that use the store, if any is present on its control file. The caller holds
/// the shared lock on the directory.
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
                   /proc/sys/kernel/random/boot_id, as in some kinds of containers; give all \
                   processes that use the store the same one";
        return Err(Error::refused(ErrorKind::Busy, &**directory.path(), why));
    }
    match control.is_open() || control.is_clean() {
        true => be_present(control),
        false => Ok(None),
    }
}

/// Fails if the store is the temporary store of another handle.
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
