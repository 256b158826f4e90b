//! Opening a store: whose directory it is, who else has it open, and whether it needs recovery.
//!
//! Two locks say who is there. Every handle holds the lock on the directory shared, and a shared lock on the
//! presence byte of the control file. Whoever gets the lock on the directory exclusively is alone, and decides
//! whether the control file can be trusted: it is the original, of this boot, and was closed by its last handle;
//! else it is built again from the segments. Whoever joins others takes the control file only if somebody is
//! present on it: a file that was put in its place under living handles has nobody on it. So no two handles
//! ever use different control files of one store, whatever is removed or replaced meanwhile.

pub(crate) mod recovery;
pub(crate) mod temporary;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use partd_format::control as layout;

use crate::error::{Error, ErrorKind, Result, newer_version};
use crate::log::fs::directory::Directory;
use crate::log::fs::mapping::ForkMark;
use crate::log::fs::names::{CONTROL, is_known, is_of_store};
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::maintain::background::Background;
use crate::log::maintain::sync::Syncer;
use crate::log::open::recovery::{Known, NewControl, RecoveryMode, RecoveryScan};
use crate::log::options::Options;
use crate::log::read::version::Version;
use crate::log::segment::recycle::Recycler;
use crate::log::shared::control::Control;
use crate::log::write::Writer;
use crate::log::{Core, Frozen, SegmentLog};

/// How long to wait for another process that recovers the store.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for a control file on which those who use the store are present: another opener takes two
/// steps to be there.
const PRESENCE_PATIENCE: Duration = Duration::from_secs(2);
/// Of so many segments, whoever joins others looks at the version of each.
const LOOKED_AT_MAX: usize = 64;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// A control file on which this handle is present, so that it stays the one in use.
struct Joined<D: Disk> {
    control: Control<D>,
    presence: D::Lock,
}

/// What a handle is made of, beside its options.
pub(crate) struct Parts<D: Disk> {
    pub(crate) control: Option<Control<D>>,
    pub(crate) locks: Vec<D::Lock>,
    /// The uuid of a store without a control file that can be used, and what was found.
    pub(crate) scan: Option<(Option<[u8; 16]>, Frozen)>,
    pub(crate) is_temporary: bool,
}

/// Opens a store for reading and writing.
pub(crate) fn open<D: Disk>(disk: D, path: &Path, options: &Options) -> Result<SegmentLog<D>> {
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
                return finish(directory, options, Parts::shared(control, shared, presence));
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

/// Opens a store for reading alone.
pub(crate) fn open_read_only<D: Disk>(
    disk: D,
    path: &Path,
    options: &Options,
) -> Result<SegmentLog<D>> {
    let directory = prepare(disk, path, options, false)?;
    let boot = boot_id(&directory)?;
    let since = Instant::now();
    let mut unattended = None;
    loop {
        let mut joined = None;
        // Alone, nobody writes for as long as the lock is held: what is found then stays true. The
        // handle is finished before the lock goes, since others may change everything after it.
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
                return finish(directory, options, Parts::shared(control, shared, presence));
            }
            // Those who use the store have lost their control file. While the lock is held nobody recovers,
            // and the segments are there to be read.
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

impl<D: Disk> Parts<D> {
    fn shared(control: Control<D>, shared: D::Lock, presence: D::Lock) -> Parts<D> {
        let locks = vec![presence, shared];
        Parts { control: Some(control), locks, scan: None, is_temporary: false }
    }
}

fn try_lock<D: Disk>(directory: &Directory<D>, exclusive: bool) -> Result<Option<D::Lock>> {
    directory
        .dir
        .try_lock(exclusive)
        .map_err(|error| directory.dir_error("lock the directory", error))
}

fn boot_id<D: Disk>(directory: &Directory<D>) -> Result<[u8; 16]> {
    let doing = "read /proc/sys/kernel/random/boot_id for";
    directory.disk.boot_id().map_err(|error| Error::io(doing, &**directory.path(), error))
}

/// Becomes present on a control file that the caller knows to be the one in use.
fn be_present<D: Disk>(control: Control<D>) -> Result<Option<Joined<D>>> {
    let presence = control.take_presence_lock()?;
    Ok(presence.map(|presence| Joined { control, presence }))
}

/// Joins those who use the store, if somebody is present on its control file. The caller holds the lock on the
/// directory shared.
fn join<D: Disk>(
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

/// A handle that reads the store as recovery would leave it, and never looks at its directory again.
fn frozen<D: Disk>(
    directory: Directory<D>,
    boot: [u8; 16],
    options: &Options,
) -> Result<SegmentLog<D>> {
    let control = directory.dir.id_of(CONTROL).ok();
    let (scan, _) = scan(&directory, boot, Access::Read, options.ignore_damage)?;
    let frozen = Frozen { sequence: scan.sequence, control };
    let scan = Some((scan.uuid, frozen));
    let parts = Parts { control: None, locks: Vec::new(), scan, is_temporary: false };
    let log = finish(directory, options, parts)?;
    log.core.with_version(|_| ())?;
    Ok(log)
}

fn too_long<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "another process has been opening or recovering the store for half a minute; try again, or stop \
               that process";
    Error::refused(ErrorKind::Busy, &**directory.path(), why)
}

fn no_control_in_use<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "other processes have the store open, but none of them uses its control file: it was removed or \
               replaced, or a process was stopped while it opened the store. Close the store in those processes \
               and open it again: it is then recovered from the segments";
    Error::refused(ErrorKind::Removed, &**directory.path(), why)
}

/// An error if the store is the temporary one of another handle.
fn refuse_temporary<D: Disk>(directory: &Directory<D>) -> Result<()> {
    match control(directory, Access::Read) {
        Ok(Some(control)) if control.fixed.temporary => Err(is_temporary(directory)),
        _ => Ok(()),
    }
}

fn is_temporary<D: Disk>(directory: &Directory<D>) -> Error {
    let why = "this is a temporary store, which belongs to the one handle that made it; `SegmentLog::sweep` \
               removes those whose process is gone, and `partd-inspect` shows what they hold";
    Error::refused(ErrorKind::Busy, &**directory.path(), why)
}

pub(crate) fn finish<D: Disk>(
    store: Directory<D>,
    options: &Options,
    parts: Parts<D>,
) -> Result<SegmentLog<D>> {
    let Parts { control, locks, scan, is_temporary } = parts;
    let mark = ForkMark::new().map_err(|e| store.dir_error("map a page for", e))?;
    let uuid = match (&control, &scan) {
        (Some(control), _) => control.fixed.store,
        (None, Some((uuid, _))) => uuid.unwrap_or_default(),
        (None, None) => [0; 16],
    };
    let is_read_only = scan.is_some() || !control.as_ref().is_some_and(Control::is_writable);
    let opened_unix_ms = store.disk.now_unix_ms();
    let core = Core {
        store,
        options: options.clone(),
        uuid,
        control,
        frozen: scan.map(|(_, frozen)| frozen),
        locks,
        mark,
        is_read_only,
        is_temporary,
        writer: Writer::new(opened_unix_ms),
        version: RwLock::new(Version::default()),
        syncer: Syncer::new(),
        recycler: Recycler::new(),
    };
    Ok(SegmentLog { core: Arc::new(core), background: Background::new() })
}

/// Checks the path, opens its directory, and makes it if it may.
fn prepare<D: Disk>(disk: D, path: &Path, options: &Options, make: bool) -> Result<Directory<D>> {
    // For messages: the process may change its directory while the store is open.
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
            let why = "there is no store here; `SegmentLog::open` would make one";
            return Err(Error::refused(ErrorKind::NotAStore, path, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let why = "this is a file; a store is a directory, give the path of one or of nothing";
            return Err(Error::refused(ErrorKind::NotAStore, path, why));
        }
        opened => opened.map_err(|e| Error::io("read the directory", path, e))?,
    };
    let directory = Directory::new(disk, dir, path);
    let listed = directory.dir.list().map_err(|e| directory.dir_error("read the directory", e))?;
    let is_store = listed.iter().any(|name| is_of_store(name)) || is_control(&directory, &listed)?;
    let is_strange = |name: &&OsString| !is_known(name) || *name == CONTROL;
    let stranger = listed.iter().find(is_strange);
    if let Some(stranger) = stranger.filter(|_| !is_store) {
        let why = format!(
            "this is no partd store, and it holds other files ({}{}); give an empty or a new \
             directory",
            stranger.to_string_lossy(),
            if listed.len() > 1 { ", …" } else { "" }
        );
        return Err(Error::refused(ErrorKind::NotAStore, path, why));
    }
    if !make && !is_store {
        let why = "there is no store in this directory; `SegmentLog::open` would make one";
        return Err(Error::refused(ErrorKind::NotAStore, path, why));
    }
    check_file_system(&directory, options)?;
    Ok(directory)
}

/// Refuses file systems on which the store cannot keep its promises.
pub(crate) fn check_file_system<D: Disk>(
    directory: &Directory<D>,
    options: &Options,
) -> Result<()> {
    if options.any_file_system {
        return Ok(());
    }
    let unfit =
        directory.dir.unfit().map_err(|e| directory.dir_error("look at the file system of", e))?;
    let Some(unfit) = unfit else { return Ok(()) };
    let why = format!(
        "{unfit}, where mappings and locks may not do what the store relies on; use a local \
         disk, or the option `any_file_system` if only this machine uses the directory and no \
         promise need hold after a crash"
    );
    Err(Error::refused(ErrorKind::UnsupportedFileSystem, &**directory.path(), why))
}

/// Whether a file called `control`, where nothing else tells of a store, can be what a power cut has
/// left of one: empty, or of its length, whatever it holds.
fn is_control<D: Disk>(directory: &Directory<D>, listed: &[OsString]) -> Result<bool> {
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

/// The control file, if it is this store's own, of this boot, and its words can be used as they are. The caller
/// is alone.
fn usable<D: Disk>(
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

/// How many segments are of the store of a control file, and how many of others.
#[derive(Clone, Copy, Debug, Default)]
struct Owners {
    same: u64,
    others: u64,
}

/// Counts whose the segments are. A segment of a newer format is an error: before anything is appended beside it.
fn owners<D: Disk>(directory: &Directory<D>, control: &Control<D>) -> Result<Owners> {
    let mut owners = Owners::default();
    for id in directory.segment_ids()? {
        match directory.header(id) {
            Ok(header) if header.store == control.fixed.store => owners.same += 1,
            Ok(_) => owners.others += 1,
            Err(error @ Error::Refused { kind: ErrorKind::NewerVersion, .. }) => return Err(error),
            // Whoever reads the segment reports whatever else is wrong with it.
            Err(_) => {}
        }
    }
    Ok(owners)
}

/// Whether the last handle closed the store and this is the control file that it left. Whatever
/// was written since is in a segment with a later id, since each handle makes its own.
fn was_closed<D: Disk>(directory: &Directory<D>, control: &Control<D>) -> Result<bool> {
    let is_last = |last: &u64| *last < control.next_segment();
    Ok(control.is_clean() && directory.segment_ids()?.last().is_none_or(is_last))
}

/// The control file, if there is one and it is whole.
fn control<D: Disk>(directory: &Directory<D>, access: Access) -> Result<Option<Control<D>>> {
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

/// Decides whether the control file tells the truth, and builds it again if not. The caller is alone.
fn settle_alone<D: Disk>(directory: &Directory<D>, boot: [u8; 16]) -> Result<()> {
    if let Some(control) = usable(directory, boot, Access::Write)?
        && was_closed(directory, &control)?
        && owners(directory, &control)?.others == 0
    {
        control.reserve()?;
        control.reopen();
        return Ok(());
    }
    let (scan, old) = scan(directory, boot, Access::Write, false)?;
    let uuid = match scan.uuid {
        Some(uuid) => uuid,
        None => directory.random()?,
    };
    let new = NewControl { uuid, boot, temporary: false };
    scan.apply(directory, old.as_ref(), &new).map_err(|error| no_access(directory, error))
}

type Surveyed<D> = (RecoveryScan<<D as Disk>::File>, Option<Control<D>>);

fn scan<D: Disk>(
    directory: &Directory<D>,
    boot: [u8; 16],
    access: Access,
    ignore_damage: bool,
) -> Result<Surveyed<D>> {
    let old = control(directory, access)?;
    let old = match old {
        Some(old) => match owners(directory, &old)? {
            // It was moved here from another store, and says nothing about this one.
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
        mark: old.as_ref().map(|old| (old.fixed.store, old.durable_seq())),
        last: of_this_boot
            .filter(|own| own.is_open() || own.is_clean())
            .and_then(Control::last_position),
    };
    let is_copy = own.is_none() && old.is_some();
    match RecoveryScan::new(directory, known, mode, ignore_damage) {
        Err(error) if is_copy && error.kind() == ErrorKind::Corrupt => {
            let why = format!(
                "this is a copy of a store, or its disk has another device number by now, and it is not whole: \
                 {error}. If it was copied while it was in use, copy it again, closed; \
                 `SegmentLog::options().ignore_damage(true).open_read_only(path)` reads its history as far as it \
                 is whole"
            );
            Err(Error::refused(ErrorKind::Corrupt, &**directory.path(), why))
        }
        scan => Ok((scan?, old)),
    }
}

/// The error for a store that cannot be opened for writing, if that is what stands in the way.
fn no_access<D: Disk>(directory: &Directory<D>, error: Error) -> Error {
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
