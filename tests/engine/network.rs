//! Network and unknown file systems are refused with a sentence that says why, unless an option
//! allows them.
//!
//! No test can mount NFS everywhere, so the real disk is put behind one that says it is on NFS; what
//! the real one says of file systems is asked of it directly.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use partd::log::disk::{Disk, OsDisk, OsFile};
use partd::{Error, Partd, SegmentLog};

/// The disk of the operating system, if it were on NFS.
#[derive(Clone, Debug)]
struct NetworkDisk;

impl Disk for NetworkDisk {
    type File = OsFile;
    type Lock = <OsDisk as Disk>::Lock;

    fn unfit(&self, _: &Path) -> io::Result<Option<String>> {
        Ok(Some("the file system is NFS (type 0x6969)".to_owned()))
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<OsFile> {
        OsDisk.create(path, len)
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<OsFile> {
        OsDisk.open(path, writable)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.replace(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        OsDisk.unlink(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        OsDisk.list(dir)
    }

    fn disk_bytes(&self, path: &Path) -> io::Result<u64> {
        OsDisk.disk_bytes(path)
    }

    fn age(&self, dir: &Path) -> io::Result<Duration> {
        OsDisk.age(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Self::Lock>> {
        OsDisk.try_lock(path, exclusive)
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
fn a_network_file_system_is_refused_unless_it_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = &dir.path().join("store");
    let options = SegmentLog::options();
    is_refused(options.open_on(NetworkDisk, path), path);
    // Nothing of a store was made, so a second try says the same.
    is_refused(options.open_on(NetworkDisk, path), path);
    let any = SegmentLog::options().any_file_system(true);
    let p = any.open_on(NetworkDisk, path).unwrap();
    p.append([("k", "v")]).unwrap();
    is_refused(options.open_on(NetworkDisk, path), path);
    is_refused(options.open_read_only_on(NetworkDisk, path), path);
    assert_eq!(any.open_read_only_on(NetworkDisk, path).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn the_real_disk_knows_local_file_systems_and_refuses_the_others() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(OsDisk.unfit(dir.path()).unwrap(), None, "the directory of the tests is fit");
    for unknown in ["/proc", "/sys"] {
        let unfit = OsDisk.unfit(Path::new(unknown)).unwrap();
        assert!(unfit.is_some_and(|why| why.contains("an unknown kind (type 0x")), "{unknown}");
    }
    // A directory that is there, on such a file system: it is refused as it is.
    let error = SegmentLog::open("/proc/self/fdinfo").unwrap_err().to_string();
    assert!(error.contains("/proc/self/fdinfo"), "{error}");
}
