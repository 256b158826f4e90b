//! A simulated disk that runs a hook at a certain moment, and processes that are stopped at an
//! operation.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::sim::disk::{Fate, SimDir, SimDisk, SimFile, SimLock};
use crate::sim::{STORE, options};
use partd::SegmentLog;
use partd::log::fs::{Access, Dir, Disk, FileId};

pub(crate) type Meanwhile = Box<dyn FnOnce() + Send>;

/// An event to run once, at a certain moment.
pub(crate) type Hook = Arc<Mutex<Option<Meanwhile>>>;

/// A simulated disk with hooks before a file is opened, identified or renamed, after a failed open,
/// and before or after a directory is listed.
#[derive(Clone)]
pub(crate) struct Hooked {
    disk: SimDisk,
    pub(crate) before_open: Hook,
    pub(crate) after_failed_open: Hook,
    pub(crate) before_id_of: Hook,
    pub(crate) before_rename: Hook,
    pub(crate) before_list: Hook,
    pub(crate) after_list: Hook,
}

impl Hooked {
    pub(crate) fn new(disk: SimDisk) -> Hooked {
        Hooked {
            disk,
            before_open: Hook::default(),
            after_failed_open: Hook::default(),
            before_id_of: Hook::default(),
            before_rename: Hook::default(),
            before_list: Hook::default(),
            after_list: Hook::default(),
        }
    }
}

/// Sets the event of a hook.
pub(crate) fn set(hook: &Hook, meanwhile: impl FnOnce() + Send + 'static) {
    *hook.lock().expect("the thread does not panic") = Some(Box::new(meanwhile));
}

/// Sets the event of a hook, to run at the `at`th moment from now on, counted from 1.
pub(crate) fn set_at(hook: &Hook, at: u64, meanwhile: impl FnOnce() + Send + 'static) {
    let again = Arc::clone(hook);
    set(hook, move || match at {
        0 | 1 => meanwhile(),
        _ => set_at(&again, at - 1, meanwhile),
    });
}

/// Whether the event of a hook has run, or none was set. Removes it.
pub(crate) fn has_fired(hook: &Hook) -> bool {
    hook.lock().expect("the thread does not panic").take().is_none()
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

/// Runs the event of a hook, once.
fn fire(hook: &Hook) {
    let meanwhile = hook.lock().expect("the thread does not panic").take();
    if let Some(meanwhile) = meanwhile {
        meanwhile();
    }
}

impl Disk for Hooked {
    type Dir = HookedDir;
    type File = SimFile;
    type Lock = SimLock;

    fn open_dir(&self, path: &Path) -> io::Result<HookedDir> {
        Ok(HookedDir { hooks: self.clone(), dir: self.disk.open_dir(path)? })
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.disk.boot_id()
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.random(bytes)
    }
    fn now_unix_ms(&self) -> u64 {
        self.disk.now_unix_ms()
    }
}

/// A directory on the hooked disk.
#[derive(Clone, Debug)]
pub(crate) struct HookedDir {
    hooks: Hooked,
    dir: SimDir,
}

impl Dir for HookedDir {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, name: &str, access: Access) -> io::Result<SimFile> {
        fire(&self.hooks.before_open);
        let opened = self.dir.open(name, access);
        if opened.is_err() {
            fire(&self.hooks.after_failed_open);
        }
        opened
    }
    fn open_unmapped(&self, name: &str, id: FileId) -> io::Result<File> {
        fire(&self.hooks.before_open);
        self.dir.open_unmapped(name, id)
    }
    fn list(&self) -> io::Result<Vec<OsString>> {
        fire(&self.hooks.before_list);
        let listed = self.dir.list();
        fire(&self.hooks.after_list);
        listed
    }
    fn create(&self, name: &str, len: u64) -> io::Result<SimFile> {
        self.dir.create(name, len)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fire(&self.hooks.before_rename);
        self.dir.rename(from, to)
    }
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.replace(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.dir.unlink(name)
    }
    fn id_of(&self, name: &str) -> io::Result<FileId> {
        fire(&self.hooks.before_id_of);
        self.dir.id_of(name)
    }
    fn disk_bytes(&self, name: &str) -> io::Result<u64> {
        self.dir.disk_bytes(name)
    }
    fn is_removed(&self) -> io::Result<bool> {
        self.dir.is_removed()
    }
    fn open_dir(&self, name: &str) -> io::Result<HookedDir> {
        Ok(HookedDir { hooks: self.hooks.clone(), dir: self.dir.open_dir(name)? })
    }
    fn remove_dir(&self, name: &str, dir: &HookedDir) -> io::Result<()> {
        self.dir.remove_dir(name, &dir.dir)
    }
    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }
    fn sync_name(&self) -> io::Result<()> {
        self.dir.sync_name()
    }
    fn try_lock(&self, exclusive: bool) -> io::Result<Option<SimLock>> {
        self.dir.try_lock(exclusive)
    }
    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, SimLock)>> {
        self.dir.try_lock_byte(name, id, bytes, exclusive)
    }
    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool> {
        self.dir.is_byte_locked(name, id, at)
    }
    fn unfit(&self) -> io::Result<Option<String>> {
        self.dir.unfit()
    }
}

pub(crate) fn open(disk: &SimDisk) -> SegmentLog<SimDisk> {
    options().open_on(disk.clone(), STORE).expect("the open succeeds")
}

/// Runs a call of a process up to the operation with this number. The fate is `Finished` if the
/// call has fewer.
pub(crate) fn stopped<T: Send + 'static>(
    process: &SimDisk,
    at: u64,
    call: impl FnOnce() -> T + Send + 'static,
) -> (Fate, JoinHandle<T>) {
    process.stop_at(at);
    let disk = process.clone();
    let thread = std::thread::spawn(move || {
        let value = call();
        disk.finished();
        value
    });
    (process.wait(), thread)
}
