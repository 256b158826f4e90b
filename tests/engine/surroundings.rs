//! The environment of a store: paths of every kind, a machine whose boot id cannot be read, and
//! containers that see another boot id.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use partd::log::fs::{Disk, OsDir, OsDisk, OsFile, OsLock};
use partd::{Error, Options, Partd, SegmentLog};

/// The disk of the operating system, with another boot id or an unreadable one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) boot_id: Option<[u8; 16]>,
}

impl Disk for Elsewhere {
    type Dir = OsDir;
    type File = OsFile;
    type Lock = OsLock;

    fn open_dir(&self, path: &Path) -> io::Result<OsDir> {
        OsDisk.open_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.boot_id.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        OsDisk.random(bytes)
    }

    fn now_unix_ms(&self) -> u64 {
        OsDisk.now_unix_ms()
    }
}

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10)
}

#[track_caller]
fn says<T>(result: Result<T, Error>, words: &[&str]) {
    let error = result.err().expect("it is refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn a_store_in_use_is_refused_under_another_boot_id_and_opens_there_once_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let container = Elsewhere { boot_id: Some([7; 16]) };
    let p = options().open(&path).unwrap();
    p.append([("k", "v")]).unwrap();
    let words =
        &[&*path.to_string_lossy(), "another boot id", "give all that use the store the same"];
    says(options().open_on(container, &path), words);
    p.append([("k", "w")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"vw");
    drop(p);
    let q = options().open_on(container, &path).unwrap();
    assert_eq!(q.get("k").unwrap(), b"vw");
    says(options().open(&path), words);
}

#[test]
fn an_unreadable_boot_id_is_an_error_that_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    options().open(&path).unwrap().append([("k", "v")]).unwrap();
    let nowhere = Elsewhere { boot_id: None };
    let words = &["/proc/sys/kernel/random/boot_id", &*path.to_string_lossy()];
    says(options().open_on(nowhere, &path), words);
    says(options().open_read_only_on(nowhere, &path), words);
    assert_eq!(options().open(&path).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn a_store_can_have_any_path_that_a_directory_can_have() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(255);
    let names: [&[u8]; 12] = [
        b"sp ace",
        "\u{fc}n\u{ef}".as_bytes(),
        b"non\xFFutf8",
        b"a/b/c/deep",
        b"trail/",
        b"./dot/.",
        b"a/../parent",
        b"q?*[",
        b"-dash",
        b"new\nline",
        b"esc\x1B[31m",
        long.as_bytes(),
    ];
    for name in names {
        let path = dir.path().join(OsStr::from_bytes(name));
        let p = options()
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", name.escape_ascii()));
        p.append_durable([("k", name)]).unwrap();
        p.compact().unwrap();
        drop(p);
        assert_eq!(options().open_read_only(&path).unwrap().get("k").unwrap(), name);
    }
    // With one more character the system returns an error, which names the path.
    let longer = dir.path().join("x".repeat(256));
    says(options().open(&longer), &[&longer.to_string_lossy()]);
    // A link leads to its target directory; a dangling link is an error.
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    options().open(dir.path().join("link")).unwrap().append([("k", "v")]).unwrap();
    assert_eq!(options().open(dir.path().join("real")).unwrap().get("k").unwrap(), b"v");
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    says(options().open(dir.path().join("dangling")), &["dangling"]);
}

#[test]
fn the_error_names_the_place_where_a_temporary_store_could_not_be_created() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    says(options().temporary_in(&file), &[&file.to_string_lossy()]);
    says(options().temporary_in("/proc"), &["/proc"]);
    let p = options().temporary_in(dir.path().join("made/for/it")).unwrap();
    p.append([("k", "v")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"v");
}
