//! Opening a store: whose directory it is, who else has it open, and whether it needs recovery.
//!
//! Every handle holds the store lock shared. Whoever gets it exclusively is alone, and looks whether
//! the control file can be trusted: it is of this boot, and the last handle closed the store; else
//! it is built again from the segments.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use partd_format::control as layout;
use partd_format::segment::id_of_file_name;

use super::background::Background;
use super::control::Control;
use super::disk::{Disk, DiskFile};
use super::finder::segment_ids;
use super::options::Options;
use super::picture::Picture;
use super::recovery::{Survey, Trust};
use super::segment::mapping::ForkMark;
use super::spares::Spares;
use super::sync::Syncer;
use super::writer::Writer;
use super::{Core, Names, SegmentLog, newer_version, open_io};
use crate::error::{Error, Result};

/// How long to wait for another process that recovers the store.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a store may take to get its lock file after its directory.
const MAKING: Duration = Duration::from_secs(60);
/// How often to begin a temporary store anew that a sweep has taken away in the making.
const TEMPORARY_TRIES: u32 = 16;
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
            return Err(too_long(path));
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
    let since = Instant::now();
    loop {
        // Alone, nobody writes for as long as the lock is held: what is found then stays true. The
        // handle is finished before the lock goes, since others may change everything after it.
        let alone = lock_to_read(&disk, &names, true)?;
        if let Taken::Held(_) | Taken::Impossible { .. } = alone {
            let control = usable(&disk, &names, boot, false)?.filter(|_| !options.ignore_damage);
            let in_use = matches!(alone, Taken::Impossible { in_use: true });
            let followed = match control {
                Some(control) if in_use || was_closed(&disk, &names, &control)? => Some(control),
                _ => None,
            };
            match (followed, &alone) {
                (None, _) => return frozen(disk, names, boot, options),
                (control @ Some(_), Taken::Impossible { .. }) => {
                    return finish(disk, names, options, control, None, None);
                }
                // It is closed: what can be followed is held by the shared lock.
                (Some(_), _) => drop(alone),
            }
        }
        if let Taken::Held(shared) = lock_to_read(&disk, &names, false)? {
            // While it is held nobody recovers. Somebody has settled the store, so the control file
            // is right; unless it was taken away under those who use it.
            return match usable(&disk, &names, boot, false)?.filter(|_| !options.ignore_damage) {
                control @ Some(_) => finish(disk, names, options, control, Some(shared), None),
                None => frozen(disk, names, boot, options),
            };
        }
        if since.elapsed() > PATIENCE {
            return Err(too_long(path));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What came of asking for the store lock to read.
enum Taken<L> {
    Held(L),
    /// Somebody holds it in the way.
    Busy,
    /// There is no lock file, so nobody has the store open; or there is one that this user may not
    /// use, and somebody may.
    Impossible {
        in_use: bool,
    },
}

/// Takes the store lock without making its file.
fn lock_to_read<D: Disk>(disk: &D, names: &Names, exclusive: bool) -> Result<Taken<D::Lock>> {
    let path = names.store_lock();
    let listed = disk.list(names.dir());
    let listed = listed.map_err(|e| Error::io("read the directory", names.dir(), e))?;
    if !listed.iter().any(|name| path.file_name() == Some(name.as_os_str())) {
        return Ok(Taken::Impossible { in_use: false });
    }
    match disk.try_lock(&path, exclusive) {
        Ok(Some(lock)) => Ok(Taken::Held(lock)),
        Ok(None) => Ok(Taken::Busy),
        Err(error) if is_no_access(&error) => Ok(Taken::Impossible { in_use: true }),
        Err(error) => Err(lock_error(names, error)),
    }
}

/// A handle that reads the store as recovery would leave it, and never looks at its directory again.
fn frozen<D: Disk>(
    disk: D,
    names: Names,
    boot: [u8; 16],
    options: &Options,
) -> Result<SegmentLog<D>> {
    let (survey, _) = survey(&disk, &names, boot, false, options.ignore_damage)?;
    let log = finish(disk, names, options, None, None, Some(survey))?;
    log.core.with_picture(|_| ())?;
    Ok(log)
}

fn too_long(path: &Path) -> Error {
    let why = "another process has been opening or recovering the store, or uses it without its \
               control file, for half a minute; try again, or stop that process";
    Error::refused(path, why)
}

/// Makes a store that is removed with its handle.
pub(crate) fn temporary<D: Disk>(disk: D, dir: &Path, options: &Options) -> Result<SegmentLog<D>> {
    let mut tries = TEMPORARY_TRIES;
    loop {
        tries -= 1;
        let path = dir.join(random_name(&disk, dir, TEMPORARY_PREFIX)?);
        match open(disk.clone(), &path, options) {
            Ok(mut log) => {
                if let Some(core) = Arc::get_mut(&mut log.core) {
                    core.is_temporary = true;
                }
                return Ok(log);
            }
            // While it is opened there is a moment without a lock, at which a sweep may take it.
            Err(_) if tries > 0 && is_missing(&disk, &path) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_missing<D: Disk>(disk: &D, dir: &Path) -> bool {
    disk.list(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Removes the temporary stores in a directory whose handles are gone.
pub(crate) fn sweep<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut swept = Vec::new();
    for name in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        if !is_temporary_store(&name) {
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
        // Where no lock can be had, it is in use, another user's, or its owner has just removed it.
        let lock = Names::new(&path).store_lock();
        let Ok(Some(_alone)) = disk.try_lock(&lock, true) else { continue };
        // Who is opening it finds nothing under its name, and begins another. Removed in its place, it
        // could get a new lock file once the locked one is gone, and be opened while its files go.
        let going = dir.join(random_name(disk, dir, TEMPORARY_PREFIX)?);
        match disk.rename(&path, &going).and_then(|()| disk.remove_dir(&going)) {
            // Its owner has just removed it: the next sweep finds what is left.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                continue;
            }
            removed => removed.map_err(|e| Error::io("remove", &path, e))?,
        }
        swept.push(path);
    }
    Ok(swept)
}

/// Whether a directory has the name of a temporary store.
fn is_temporary_store(name: &OsStr) -> bool {
    let random = name.as_encoded_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes());
    random.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
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
    // The process may change its directory while the store is open.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
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
    let names = Names::new(path);
    let is_store = listed.iter().any(Names::is_of_store) || is_control(disk, &names, &listed)?;
    let is_strange = |name: &&OsString| !Names::is_known(name) || Names::is_control(name);
    let stranger = listed.iter().find(is_strange);
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
    Ok(names)
}

/// Whether a file called `control`, where nothing else tells of a store, can be what a power cut has
/// left of one: empty, or of its length, whatever it holds.
fn is_control<D: Disk>(disk: &D, names: &Names, listed: &[OsString]) -> Result<bool> {
    if !listed.iter().any(|name| Names::is_control(name)) {
        return Ok(false);
    }
    let path = names.control();
    let file = match disk.open(&path, false) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
        opened => opened.map_err(|error| open_io(&path, error))?,
    };
    let len = file.mapping().len();
    Ok(len == 0 || len == layout::FILE_LEN)
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

    pub(crate) fn is_spare(name: &OsStr) -> bool {
        let id = name.as_encoded_bytes().strip_prefix(b"tmp-spare-");
        id.is_some_and(|id| id_of_file_name(&[id, b".seg"].concat()).is_some())
    }

    /// Whether a file of this name is one that [`temporary`](Names::temporary) has named.
    pub(crate) fn is_temporary(name: &OsStr) -> bool {
        let maker = name.as_encoded_bytes().strip_prefix(b"tmp-");
        let is_maker = |maker: &[u8]| matches!(maker, b"control" | b"output") || is_writer(maker);
        maker.is_some_and(is_maker) || Names::is_spare(name)
    }

    fn is_control(name: &OsStr) -> bool {
        name == "control"
    }

    /// Whether a file of this name makes a directory a store.
    fn is_of_store(name: &OsString) -> bool {
        name == "store.lock" || id_of_file_name(name.as_encoded_bytes()).is_some()
    }

    /// Whether a file of this name is one that a store may have.
    fn is_known(name: &OsString) -> bool {
        let bytes = name.as_encoded_bytes();
        let lock = bytes.strip_suffix(b".lock");
        let torn = bytes.strip_suffix(b"torn").map(|id| [id, b"seg"].concat());
        name == "control"
            || Names::is_of_store(name)
            || Names::is_temporary(name)
            || lock.is_some_and(|lock| matches!(lock, b"sync" | b"compaction") || is_writer(lock))
            || torn.is_some_and(|name| id_of_file_name(&name).is_some())
    }
}

/// Whether something is named after a writer's slot.
fn is_writer(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b"writer-");
    digits.is_some_and(|digits| digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
}
