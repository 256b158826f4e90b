//! A simulated disk on which something happens at one moment of a process, and processes that are
//! stopped at an operation.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sim::disk::{Fate, SimDisk, SimFile, SimLock};
use crate::sim::{STORE, options};
use partd::SegmentLog;
use partd::log::disk::Disk;

pub(crate) type Meanwhile = Box<dyn FnOnce() + Send>;

/// What is to happen once, at a moment.
pub(crate) type Hook = Arc<Mutex<Option<Meanwhile>>>;

/// A simulated disk on which something happens right before a file is opened or renamed, and right
/// before or after a directory is listed.
#[derive(Clone)]
pub(crate) struct Hooked {
    disk: SimDisk,
    pub(crate) before_open: Hook,
    pub(crate) before_rename: Hook,
    pub(crate) before_list: Hook,
    pub(crate) after_list: Hook,
}

impl Hooked {
    pub(crate) fn new(disk: SimDisk) -> Hooked {
        let (before_open, before_rename, before_list, after_list) = Default::default();
        Hooked { disk, before_open, before_rename, before_list, after_list }
    }
}

/// Says what is to happen.
pub(crate) fn set(hook: &Hook, meanwhile: impl FnOnce() + Send + 'static) {
    *hook.lock().expect("no panic") = Some(Box::new(meanwhile));
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

/// Lets happen what was to happen once.
fn fire(hook: &Hook) {
    let meanwhile = hook.lock().expect("no panic").take();
    if let Some(meanwhile) = meanwhile {
        meanwhile();
    }
}

impl Disk for Hooked {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path, writable: bool) -> io::Result<SimFile> {
        fire(&self.before_open);
        self.disk.open(path, writable)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fire(&self.before_list);
        let listed = self.disk.list(dir);
        fire(&self.after_list);
        listed
    }
    fn reclaim(&self, path: &Path) -> io::Result<Option<SimFile>> {
        self.disk.reclaim(path)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<SimFile> {
        self.disk.create(path, len)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fire(&self.before_rename);
        self.disk.rename(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.replace(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn disk_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.disk_bytes(path)
    }
    fn age(&self, dir: &Path) -> io::Result<Duration> {
        self.disk.age(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<SimLock>> {
        self.disk.try_lock(path, exclusive)
    }
    fn unfit(&self, dir: &Path) -> io::Result<Option<String>> {
        self.disk.unfit(dir)
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

pub(crate) fn open(disk: &SimDisk) -> SegmentLog<SimDisk> {
    options().open_on(disk.clone(), STORE).expect("it opens")
}

/// Runs a call of a process until its operation of this number; `None` if it has fewer.
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
