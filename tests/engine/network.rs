//! Network and unknown file systems are refused with an error that says why, unless an option
//! allows them.
//!
//! NFS cannot be mounted everywhere, so the real disk is wrapped by one that claims to be on NFS.
//! The real disk's own classification of file systems is tested directly.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use partd::log::fs::{Access, Dir, Disk, FileId, OsDir, OsDisk, OsFile, OsLock};
use partd::{Error, Partd, SegmentLog};

/// The disk of the operating system, claiming to be on NFS.
#[derive(Clone, Debug)]
struct NetworkDisk;

impl Disk for NetworkDisk {
    type Dir = NetworkDir;
    type File = OsFile;
    type Lock = OsLock;

    fn open_dir(&self, path: &Path) -> io::Result<NetworkDir> {
        OsDisk.open_dir(path).map(NetworkDir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        OsDisk.boot_id()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsDisk.random(bytes)
    }

    fn now_unix_ms(&self) -> u64 {
        OsDisk.now_unix_ms()
    }
}

/// A directory on that disk.
#[derive(Clone, Debug)]
struct NetworkDir(OsDir);

impl Dir for NetworkDir {
    type File = OsFile;
    type Lock = OsLock;

    fn unfit(&self) -> io::Result<Option<String>> {
        Ok(Some("the file system is NFS (type 0x6969)".to_owned()))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<OsFile> {
        self.0.create(name, len)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<OsFile> {
        self.0.open(name, access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.replace(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(name)
    }

    fn list(&self) -> io::Result<Vec<OsString>> {
        self.0.list()
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.0.id_of(name)
    }

    fn disk_bytes(&self, name: &str) -> io::Result<u64> {
        self.0.disk_bytes(name)
    }

    fn is_removed(&self) -> io::Result<bool> {
        self.0.is_removed()
    }

    fn open_dir(&self, name: &str) -> io::Result<NetworkDir> {
        self.0.open_dir(name).map(NetworkDir)
    }

    fn remove_dir(&self, name: &str, dir: &NetworkDir) -> io::Result<()> {
        self.0.remove_dir(name, &dir.0)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn sync_name(&self) -> io::Result<()> {
        self.0.sync_name()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<Option<OsLock>> {
        self.0.try_lock(exclusive)
    }

    fn try_lock_byte(
        &self,
        name: &str,
        id: FileId,
        bytes: &mut dyn Iterator<Item = u64>,
        exclusive: bool,
    ) -> io::Result<Option<(u64, OsLock)>> {
        self.0.try_lock_byte(name, id, bytes, exclusive)
    }

    fn is_byte_locked(&self, name: &str, id: FileId, at: u64) -> io::Result<bool> {
        self.0.is_byte_locked(name, id, at)
    }
}

#[track_caller]
fn is_refused<T>(result: Result<T, Error>, path: &Path) {
    let error = result.err().expect("it is refused");
    let message = error.to_string();
    assert!(matches!(error, Error::Refused { .. }), "{message}");
    for words in [&path.to_string_lossy(), "NFS", "use a local disk", "`any_file_system`"] {
        assert!(message.contains(words), "{words:?} is not said: {message}");
    }
}

#[test]
fn a_network_file_system_is_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = &dir.path().join("store");
    let options = SegmentLog::options();
    is_refused(options.open_on(NetworkDisk, path), path);
    // No part of a store was created, so a second attempt fails the same way.
    is_refused(options.open_on(NetworkDisk, path), path);
    let any = SegmentLog::options().any_file_system(true);
    let p = any.open_on(NetworkDisk, path).unwrap();
    p.append([("k", "v")]).unwrap();
    is_refused(options.open_on(NetworkDisk, path), path);
    is_refused(options.open_read_only_on(NetworkDisk, path), path);
    assert_eq!(any.open_read_only_on(NetworkDisk, path).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn the_real_disk_accepts_local_file_systems_and_refuses_others() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        OsDisk.open_dir(dir.path()).unwrap().unfit().unwrap(),
        None,
        "the directory of the tests is on a local file system"
    );
    for unknown in ["/proc", "/sys"] {
        let unfit = OsDisk.open_dir(Path::new(unknown)).unwrap().unfit().unwrap();
        assert!(unfit.is_some_and(|why| why.contains("an unknown kind (type 0x")), "{unknown}");
    }
    // An existing directory on such a file system is refused too.
    let error = SegmentLog::open("/proc/self/fdinfo").unwrap_err().to_string();
    assert!(error.contains("/proc/self/fdinfo"), "{error}");
}
