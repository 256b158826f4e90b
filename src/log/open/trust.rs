//! Decides whether the control file can be trusted, and rebuilds it from the segments if not.

use std::io;

use crate::error::{Error, ErrorKind, Result, newer_version};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::CONTROL;
use crate::log::fs::{Access, Disk};
use crate::log::open::prepare::refuse_unfinished_backup;
use crate::log::open::recovery::{Known, NewControl, RecoveryScan};
use crate::log::open::scanned::RecoveryMode;
use crate::log::shared::control::Control;
use crate::log::trace;

/// The control file, if it is this store's own, was written in this boot, and its words can be used
/// without recovery. The caller is alone.
pub(super) fn usable<D: Disk>(
    directory: &Directory<D>,
    boot: [u8; 16],
    access: Access,
) -> Result<Option<Control<D>>> {
    let control = control(directory, access)?;
    if control.as_ref().is_some_and(|control| control.fixed.temporary) {
        return Err(is_temporary(directory));
    }
    let Some(control) = control else { return Ok(None) };
    let is_usable = control.fixed.boot == boot
        && (control.is_open() || control.is_clean())
        && control.is_own()?;
    Ok(is_usable.then_some(control))
}

/// How many segments belong to the control file's store, and how many to others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owners {
    pub(super) same: u64,
    pub(super) others: u64,
}

/// Counts the segments by owner. Fails on a segment of a newer format, so that nothing is appended
/// beside it.
pub(super) fn owners<D: Disk>(directory: &Directory<D>, control: &Control<D>) -> Result<Owners> {
    let mut owners = Owners::default();
    for id in directory.segment_ids()? {
        match directory.header(id) {
            Ok(header) if header.store == control.fixed.store => owners.same += 1,
            Ok(_) => owners.others += 1,
            Err(error @ Error::Refused { kind: ErrorKind::NewerVersion, .. }) => return Err(error),
            // The reader of the segment reports any other error in it.
            Err(_) => {}
        }
    }
    Ok(owners)
}

/// Whether the last handle closed the store and left this control file. Later writes would be in a
/// segment with a higher id, because each handle creates its own.
pub(super) fn was_closed<D: Disk>(directory: &Directory<D>, control: &Control<D>) -> Result<bool> {
    let is_last = |last: &u64| *last < control.next_segment();
    Ok(control.is_clean() && directory.segment_ids()?.last().is_none_or(is_last))
}

/// The control file, if it exists and is intact.
pub(super) fn control<D: Disk>(
    directory: &Directory<D>,
    access: Access,
) -> Result<Option<Control<D>>> {
    match Control::open(directory, access) {
        Ok(Ok(control)) => Ok(Some(control)),
        Ok(Err(error)) => match newer_version(directory.path_of(CONTROL), &error) {
            Some(newer) => Err(newer),
            None => Ok(None),
        },
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if access == Access::Write => Err(no_access(directory, error)),
        Err(error) => Err(error),
    }
}

/// Reopens the store with its control file if that can be trusted, and recovers it otherwise. The
/// caller is alone.
pub(super) fn reopen_or_recover<D: Disk>(directory: &Directory<D>, boot: [u8; 16]) -> Result<()> {
    if let Some(control) = usable(directory, boot, Access::Write)?
        && was_closed(directory, &control)?
        && owners(directory, &control)?.others == 0
    {
        control.reserve()?;
        control.reopen();
        return Ok(());
    }
    // A backup may have been begun here, and have died, while this opener waited for the lock. Its
    // control file needs recovery, so a store that needs none is no backup in the making.
    refuse_unfinished_backup(directory)?;
    let _span = trace::recovery(directory.path());
    let (scan, old) = scan(directory, boot, Access::Write, false)?;
    let uuid = match scan.uuid {
        Some(uuid) => uuid,
        None => directory.random()?,
    };
    let new = NewControl { uuid, boot, temporary: false };
    scan.apply(directory, old.as_ref(), &new).map_err(|error| no_access(directory, error))?;
    if old.is_some() || scan.sequence > 0 {
        trace::recovered(directory.path(), scan.sequence);
    }
    Ok(())
}

pub(super) type ScanAndControl<D> = (RecoveryScan<<D as Disk>::File>, Option<Control<D>>);

pub(super) fn scan<D: Disk>(
    directory: &Directory<D>,
    boot: [u8; 16],
    access: Access,
    ignore_damage: bool,
) -> Result<ScanAndControl<D>> {
    let old = control(directory, access)?;
    let old = match old {
        Some(old) => match owners(directory, &old)? {
            // The file was moved here from another store and says nothing about this one.
            Owners { same: 0, others: 1.. } => None,
            _ => Some(old),
        },
        None => None,
    };
    let own = match &old {
        Some(old) if old.is_own()? => Some(old),
        _ => None,
    };
    let of_this_boot = own.filter(|own| own.fixed.boot == boot);
    let mode = if of_this_boot.is_some() { RecoveryMode::Memory } else { RecoveryMode::Disk };
    let known = Known {
        uuid: own.map(|own| own.fixed.store),
        durable_seq: old.as_ref().map(|old| (old.fixed.store, old.durable_seq())),
        last: of_this_boot
            .filter(|own| own.is_open() || own.is_clean())
            .and_then(Control::last_position),
    };
    let is_copy = own.is_none() && old.is_some();
    match RecoveryScan::new(directory, known, mode, ignore_damage) {
        Err(error) if is_copy && error.kind() == ErrorKind::Corrupt => {
            let why = format!(
                "this store is a copy, or its disk has a new device number, and it is incomplete: \
                 {error}. If it was copied while it was in use, close it and copy it again; \
                 `SegmentLog::options().ignore_damage(true).open_read_only(path)` reads its \
                 history up to the first damage"
            );
            Err(Error::refused(ErrorKind::Corrupt, &**directory.path(), why))
        }
        scan => Ok((scan?, old)),
    }
}

/// Replaces an error that is due to missing write access by one that says so.
pub(super) fn no_access<D: Disk>(directory: &Directory<D>, error: Error) -> Error {
    let Error::Io { source, .. } = &error else { return error };
    let is_no_access = matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    );
    if !is_no_access {
        return error;
    }
    let why = format!(
        "cannot be opened for writing ({source}); use `SegmentLog::open_read_only`, or give \
         this user the right to write there"
    );
    Error::refused(ErrorKind::ReadOnly, &**directory.path(), why)
}

pub(super) fn is_temporary<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "this is a temporary store, which belongs to the handle that created it; \
               `SegmentLog::sweep` removes temporary stores whose process has ended, and \
               `partd-inspect` shows their contents";
    Error::refused(ErrorKind::Busy, &**directory.path(), why)
}
