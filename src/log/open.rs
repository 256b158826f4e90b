//! Opening a store: whose directory it is, who else has it open, and whether it needs recovery.
//!
//! Every handle holds the store lock shared. Whoever gets it exclusively is alone, and looks whether
//! the control file can be trusted: it is of this boot, and the last handle closed the store; else
//! it is built again from the segments.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::background::Background;
use super::control::Control;
use super::disk::Disk;
use super::finder::segment_ids;
use super::options::Options;
use super::picture::Picture;
use super::recovery::{Survey, Trust};
use super::segment::mapping::ForkMark;
use super::spares::Spares;
use super::sync::Syncer;
use super::writer::Writer;
use super::{Core, Names, SegmentLog, newer_version};
use crate::error::{Error, Result};

/// How long to wait for another process that recovers the store.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a store may take to get its lock file after its directory.
const MAKING: Duration = Duration::from_secs(60);
/// What the name of a temporary store begins with.
pub(crate) const TEMPORARY_PREFIX: &str = "partd-tmp-";

/// Opens a store for reading and writing.
pub(crate) fn open<D: Disk>(disk: D, path: &Path, options: &Options) -> Result<SegmentLog<D>> {
    let names = prepare(&disk, path, options, true)?;
    let boot = disk.boot_id().map_err(|e| Error::io("read the boot id for", path, e))?;
    let lock_path = names.store_lock();
    let try_lock = |exclusive| {
        disk.try_lock(&lock_path, exclusive).map_err(|source| lock_error(&names, source))
    };
    let since = Instant::now();
    loop {
        if let Some(alone) = try_lock(true)? {
            settle_alone(&disk, &names, boot)?;
            drop(alone);
        }
        // Between the two locks somebody else may have been alone; then this looks again.
        if let Some(shared) = try_lock(false)?
            && let Some(control) = usable(&disk, &names, boot, true)?
        {
            control.set_open();
            return finish(disk, names, options, Some(control), Some(shared), None);
        }
        if since.elapsed() > PATIENCE {
            let why = "another process has been recovering the store, or uses it without its \
                       control file, for half a minute; try again, or stop that process";
            return Err(Error::refused(path, why));
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
    let names = prepare(&disk, path, options, false)?;
    let boot = disk.boot_id().map_err(|e| Error::io("read the boot id for", path, e))?;
    let lock_path = names.store_lock();
    let listed = disk.list(path).map_err(|e| Error::io("read the directory", path, e))?;
    let has_lock = listed.iter().any(|name| lock_path.file_name() == Some(name.as_os_str()));
    let try_lock = |exclusive| match disk.try_lock(&lock_path, exclusive) {
        // Where no lock can be taken, nobody writes.
        Err(error) if is_no_access(&error) => Ok(None),
        locked => locked.map_err(|source| lock_error(&names, source)),
    };
    // While somebody has the store open, the control file is right.
    let is_alone = !has_lock || try_lock(true)?.is_some();
    let shared = if has_lock { try_lock(false)? } else { None };
    let control = usable(&disk, &names, boot, false)?;
    match control {
        Some(control)
            if !options.ignore_damage && (!is_alone || was_closed(&disk, &names, &control)?) =>
        {
            finish(disk, names, options, Some(control), shared, None)
        }
        _ => {
            let (survey, _) = survey(&disk, &names, boot, false, options.ignore_damage)?;
            drop(shared);
            finish(disk, names, options, None, None, Some(survey))
        }
    }
}

/// Makes a store that is removed with its handle.
pub(crate) fn temporary<D: Disk>(disk: D, dir: &Path, options: &Options) -> Result<SegmentLog<D>> {
    let path = dir.join(random_name(&disk, dir, TEMPORARY_PREFIX)?);
    let mut log = open(disk, &path, options)?;
    if let Some(core) = Arc::get_mut(&mut log.core) {
        core.is_temporary = true;
    }
    Ok(log)
}

/// Removes the temporary stores in a directory whose handles are gone.
pub(crate) fn sweep<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut swept = Vec::new();
    for name in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        if !name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            continue;
        }
        let path = dir.join(name);
        let Ok(listed) = disk.list(&path) else { continue };
        let has_lock = listed.iter().any(|name| name.as_encoded_bytes() == b"store.lock");
        if !listed.iter().all(Names::is_known)
            || !has_lock && disk.age(&path).is_ok_and(|age| age < MAKING)
        {
            continue;
        }
        let lock = Names::new(&path).store_lock();
        let alone = disk.try_lock(&lock, true).map_err(|e| Error::io("lock", lock, e))?;
        if alone.is_some() {
            disk.remove_dir(&path).map_err(|e| Error::io("remove", &path, e))?;
            swept.push(path);
        }
    }
    Ok(swept)
}

/// A name that nobody else uses: a prefix and random hexadecimal digits.
pub(crate) fn random_name<D: Disk>(disk: &D, dir: &Path, prefix: &str) -> Result<String> {
    let mut bytes = [0; 8];
    disk.random(&mut bytes).map_err(|e| Error::io("draw a name in", dir, e))?;
    let mut name = prefix.to_owned();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

fn finish<D: Disk>(
    disk: D,
    names: Names,
    options: &Options,
    control: Option<Control<D>>,
    lock: Option<D::Lock>,
    survey: Option<Survey<D::File>>,
) -> Result<SegmentLog<D>> {
    let mark = ForkMark::new().map_err(|e| Error::io("map a page for", names.dir(), e))?;
    let store = match (&control, &survey) {
        (Some(control), _) => control.fixed.store,
        (None, Some(survey)) => survey.store.unwrap_or_default(),
        (None, None) => [0; 16],
    };
    let is_read_only = survey.is_some() || !control.as_ref().is_some_and(Control::is_writable);
    let core = Core {
        disk,
        names,
        options: options.clone(),
        store,
        control,
        frozen: survey.map_or(0, |survey| survey.sequence),
        lock,
        mark,
        is_read_only,
        is_temporary: false,
        writer: Writer::new(),
        picture: RwLock::new(Picture::default()),
        syncer: Syncer::new(),
        spares: Spares::default(),
    };
    Ok(SegmentLog { core: Arc::new(core), background: Background::new() })
}

/// Checks the path, and makes the directory if it may.
fn prepare<D: Disk>(disk: &D, path: &Path, options: &Options, make: bool) -> Result<Names> {
    let listed = match disk.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
            disk.create_dir(path).map_err(|e| Error::io("make the directory", path, e))?;
            Vec::new()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = "there is no store here; `SegmentLog::open` would make one";
            return Err(Error::refused(path, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let why = "this is a file; a store is a directory, give the path of one or of nothing";
            return Err(Error::refused(path, why));
        }
        listed => listed.map_err(|e| Error::io("read the directory", path, e))?,
    };
    let is_store = listed.iter().any(Names::is_of_store);
    let stranger = listed.iter().find(|name| !Names::is_known(name));
    if let Some(stranger) = stranger.filter(|_| !is_store) {
        let why = format!(
            "this is no partd store, and it holds other files ({}{}); give an empty or a new \
             directory",
            stranger.to_string_lossy(),
            if listed.len() > 1 { ", …" } else { "" }
        );
        return Err(Error::refused(path, why));
    }
    if !make && !is_store {
        let why = "there is no store in this directory; `SegmentLog::open` would make one";
        return Err(Error::refused(path, why));
    }
    if !options.any_file_system
        && let Some(unfit) =
            disk.unfit(path).map_err(|e| Error::io("look at the file system of", path, e))?
    {
        let why = format!(
            "{unfit}, where mappings and locks may not do what the store relies on; use a local \
             disk, or the option `any_file_system` if only this machine uses the directory and no \
             promise need hold after a crash"
        );
        return Err(Error::refused(path, why));
    }
    Ok(Names::new(path))
}

/// The control file, if it is one of this boot and its words can be used as they are.
fn usable<D: Disk>(
    disk: &D,
    names: &Names,
    boot: [u8; 16],
    writable: bool,
) -> Result<Option<Control<D>>> {
    Ok(control(disk, names, writable)?
        .filter(|control| control.fixed.boot == boot && (control.is_open() || control.is_clean())))
}

/// Whether the last handle closed the store and this is the control file that it left. Whatever
/// was written since is in a segment with a later id, since each handle makes its own.
fn was_closed<D: Disk>(disk: &D, names: &Names, control: &Control<D>) -> Result<bool> {
    let is_last = |last: &u64| *last < control.next_segment();
    Ok(control.is_clean() && segment_ids(disk, names)?.last().is_none_or(is_last))
}

/// The control file, if there is one and it is whole.
fn control<D: Disk>(disk: &D, names: &Names, writable: bool) -> Result<Option<Control<D>>> {
    match Control::open(disk, names, writable) {
        Ok(Ok(control)) => Ok(Some(control)),
        Ok(Err(error)) => match newer_version(names.control(), &error) {
            Some(newer) => Err(newer),
            None => Ok(None),
        },
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(Error::Io { source, .. }) if writable && is_no_access(&source) => {
            Err(lock_error(names, source))
        }
        Err(error) => Err(error),
    }
}

/// Looks whether the control file tells the truth, and builds it again if not. The caller is alone.
fn settle_alone<D: Disk>(disk: &D, names: &Names, boot: [u8; 16]) -> Result<()> {
    if let Some(control) = usable(disk, names, boot, true)?
        && was_closed(disk, names, &control)?
    {
        control.reopen();
        return Ok(());
    }
    let (survey, old) = survey(disk, names, boot, true, false)?;
    let store = match survey.store {
        Some(store) => store,
        None => {
            let mut store = [0; 16];
            disk.random(&mut store).map_err(|e| Error::io("draw an id for", names.dir(), e))?;
            store
        }
    };
    survey.apply(disk, names, old.as_ref(), boot, store)
}

type Surveyed<D> = (Survey<<D as Disk>::File>, Option<Control<D>>);

fn survey<D: Disk>(
    disk: &D,
    names: &Names,
    boot: [u8; 16],
    writable: bool,
    ignore_damage: bool,
) -> Result<Surveyed<D>> {
    let old = control(disk, names, writable)?;
    let trust = match &old {
        Some(old) if old.fixed.boot == boot => Trust::Memory,
        _ => Trust::Disk,
    };
    let store = old.as_ref().map(|old| old.fixed.store);
    let synced = old.as_ref().map_or(0, Control::synced);
    let survey = Survey::new(disk, names, store, synced, trust, writable, ignore_damage)?;
    Ok((survey, old))
}

fn lock_error(names: &Names, source: io::Error) -> Error {
    if is_no_access(&source) {
        let why = format!(
            "cannot be opened for writing ({source}); use `SegmentLog::open_read_only`, or give \
             this user the right to write there"
        );
        return Error::refused(names.dir(), why);
    }
    Error::io("lock", names.store_lock(), source)
}

fn is_no_access(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
    )
}

impl Names {
    pub(crate) fn new(dir: &Path) -> Names {
        Names { dir: dir.into() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    pub(crate) fn segment(&self, id: u64) -> PathBuf {
        let name = partd_format::segment::file_name(id);
        self.dir.join(String::from_utf8_lossy(&name).as_ref())
    }

    pub(crate) fn store_lock(&self) -> PathBuf {
        self.dir.join("store.lock")
    }

    pub(crate) fn sync_lock(&self) -> PathBuf {
        self.dir.join("sync.lock")
    }

    pub(crate) fn writer_lock(&self, slot: u16) -> PathBuf {
        self.dir.join(format!("writer-{slot:04}.lock"))
    }

    /// The name of a file that is not part of the store yet; one at a time makes one of a name.
    pub(crate) fn temporary(&self, maker: &str) -> PathBuf {
        self.dir.join(format!("tmp-{maker}"))
    }

    /// The name of a dead segment that is kept to be written anew.
    pub(crate) fn spare(&self, id: u64) -> PathBuf {
        self.temporary(&format!("spare-{id:016x}"))
    }

    pub(crate) fn is_spare(name: &OsString) -> bool {
        name.as_encoded_bytes().starts_with(b"tmp-spare-")
    }

    pub(crate) fn is_temporary(name: &OsString) -> bool {
        name.as_encoded_bytes().starts_with(b"tmp-")
    }

    /// Whether a file of this name makes a directory a store.
    fn is_of_store(name: &OsString) -> bool {
        let name = name.as_encoded_bytes();
        name == b"control" || name == b"store.lock" || name.ends_with(b".seg")
    }

    /// Whether a file of this name is one that a store may have.
    fn is_known(name: &OsString) -> bool {
        let bytes = name.as_encoded_bytes();
        Names::is_of_store(name)
            || Names::is_temporary(name)
            || bytes.ends_with(b".lock")
            || bytes.ends_with(b".torn")
    }
}
