//! Missing rights are an error that names the path and says what to do, and nothing is changed.
//!
//! A child process attempts operations for which it lacks the rights. If the tests run as root,
//! which lacks none, the child runs as another user; otherwise it runs as the same user, and the
//! modes of the files restrict their owner.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use partd::{Partd, SegmentLog};
use partd_testkit::children::{Start, directory, report, skip, start_with_channel};

/// The user `nobody`.
pub(crate) const NOBODY: u32 = 65534;

/// Tries every operation on a path, and reports the results.
pub(crate) fn visit(arguments: &[String]) {
    let path = Path::new(&arguments[0]);
    let said = |result: Result<Vec<u8>, partd::Error>| match result {
        Ok(value) => format!("ok {}", String::from_utf8_lossy(&value)),
        Err(error) => format!("error {error}"),
    };
    match SegmentLog::open(path) {
        Ok(p) => {
            report(&said(p.append([("k", "by the visitor")]).map(|()| Vec::new())));
            report(&said(p.get("k")));
            report(&said(p.sync().map(|()| Vec::new())));
        }
        Err(error) => {
            report(&said(Err(error)));
            report("not opened");
            report("not opened");
        }
    }
    report(&said(SegmentLog::open_read_only(path).and_then(|p| p.get("k"))));
}

/// A place for a store, and a visitor whose rights are given by file modes.
struct Place {
    dir: tempfile::TempDir,
    store: PathBuf,
    start: Start,
}

/// The visitor's results of an append, a read, a sync, and a read-only opening.
struct Told {
    append: String,
    read: String,
    sync: String,
    read_only: String,
}

impl Place {
    fn new() -> Place {
        let (dir, store) = directory();
        let is_root = rustix::process::geteuid().is_root();
        let mut place = Place { dir, store, start: Start::default() };
        if is_root {
            // Another user may not be able to reach the original program.
            let program = place.dir.path().join("visitor");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            mode(&program, 0o755);
            mode(place.dir.path(), 0o755);
            place.start = Start { program: Some(program), user: Some(NOBODY) };
        }
        place
    }

    /// Creates a store with one value.
    fn fill(&self) {
        let p = SegmentLog::options().segment_len_bytes(64 << 10).open(&self.store).unwrap();
        p.append([("k", "kept ")]).unwrap();
    }

    /// Gives the visitor these rights (`rwx` as in a mode) on a file or directory of this user.
    fn let_visitor(&self, path: &Path, rights: u32) {
        mode(path, if self.start.user.is_some() { 0o700 | rights } else { rights << 6 });
    }

    fn let_visitor_files(&self, rights: u32) {
        for entry in fs::read_dir(&self.store).unwrap() {
            self.let_visitor(&entry.unwrap().path(), rights);
        }
    }

    fn visit(&self) -> Told {
        let arguments = [self.store.display().to_string()];
        let (mut child, said) = start_with_channel(&self.start, "visitor", &arguments);
        assert!(child.wait().success());
        let next = || said.recv().unwrap();
        Told { append: next(), read: next(), sync: next(), read_only: next() }
    }

    /// Checks, with all rights restored, that the store is unchanged.
    fn is_as_before(&self) {
        mode(&self.store, 0o700);
        for entry in fs::read_dir(&self.store).unwrap() {
            mode(&entry.unwrap().path(), 0o600);
        }
        let p = SegmentLog::open(&self.store).unwrap();
        assert_eq!(p.get("k").unwrap(), b"kept ");
        p.verify().unwrap();
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Checks that an error names the path and says what to do.
#[track_caller]
fn advises(said: &str, path: &Path, advice: &str) {
    assert!(said.starts_with("error "), "{said}");
    assert!(said.contains(&*path.to_string_lossy()), "the path is not named: {said}");
    assert!(said.contains(advice), "{advice:?} is not said: {said}");
}

const GIVE: &str = "give this user the right";

#[test]
fn a_directory_without_search_permission_is_an_error() {
    let place = Place::new();
    place.fill();
    place.let_visitor(&place.store, 0);
    let told = place.visit();
    advises(&told.append, &place.store, GIVE);
    advises(&told.read_only, &place.store, GIVE);
    place.is_as_before();
}

#[test]
fn unreadable_files_are_an_error() {
    let place = Place::new();
    place.fill();
    place.let_visitor_files(0);
    place.let_visitor(&place.store, 0o5);
    let told = place.visit();
    advises(&told.append, &place.store, GIVE);
    advises(&told.read_only, &place.store, GIVE);
    place.is_as_before();
}

#[test]
fn read_only_files_are_read_and_not_written() {
    let place = Place::new();
    place.fill();
    place.let_visitor_files(0o4);
    place.let_visitor(&place.store, 0o5);
    let told = place.visit();
    advises(&told.append, &place.store, "`SegmentLog::open_read_only`");
    advises(&told.append, &place.store, GIVE);
    assert_eq!(told.read_only, "ok kept ");
    place.is_as_before();
}

#[test]
fn a_parent_without_write_permission_is_an_error() {
    let place = Place::new();
    place.let_visitor(place.dir.path(), 0o5);
    let told = place.visit();
    advises(&told.append, &place.store, GIVE);
    advises(&told.read_only, &place.store, "there is no store");
    mode(place.dir.path(), 0o700);
    assert!(!place.store.exists());
}

#[test]
fn opening_a_read_only_directory_for_writing_is_an_error() {
    // A directory without a store.
    let place = Place::new();
    fs::create_dir(&place.store).unwrap();
    place.let_visitor(&place.store, 0o5);
    let told = place.visit();
    advises(&told.append, &place.store, GIVE);
    advises(&told.read_only, &place.store, "there is no store");
    mode(&place.store, 0o700);
    assert_eq!(fs::read_dir(&place.store).unwrap().count(), 0);
    // A store whose files are writable but whose directory is not: it can be read, and the error
    // explains why it cannot be written.
    let place = Place::new();
    place.fill();
    if let Some(user) = place.start.user {
        for entry in fs::read_dir(&place.store).unwrap() {
            chown(entry.unwrap().path(), Some(user), Some(user)).unwrap();
        }
        chown(&place.store, Some(user), Some(user)).unwrap();
    }
    mode(&place.store, 0o555);
    let told = place.visit();
    advises(&told.append, &place.store, GIVE);
    assert!(["ok kept ", "not opened"].contains(&&*told.read), "{}", told.read);
    assert_eq!(told.read_only, "ok kept ");
    place.is_as_before();
}

#[test]
fn a_store_below_a_searchable_but_unreadable_directory_is_durable() {
    let place = Place::new();
    fs::create_dir(&place.store).unwrap();
    if let Some(user) = place.start.user {
        chown(&place.store, Some(user), Some(user)).unwrap();
    }
    place.let_visitor(place.dir.path(), 0o1);
    let told = place.visit();
    mode(place.dir.path(), 0o700);
    assert_eq!(told.append, "ok ");
    assert_eq!(told.sync, "ok ");
    assert_eq!(told.read_only, "ok by the visitor");
}

#[test]
fn a_users_store_still_belongs_to_the_user_after_root_writes_to_it() {
    let place = Place::new();
    if place.start.user.is_none() {
        skip("only root can write to another user's store");
        return;
    }
    chown(place.dir.path(), Some(NOBODY), None).unwrap();
    let said = place.visit();
    assert_eq!(said.append, "ok ");
    for is_recovered in [false, true] {
        if is_recovered {
            fs::remove_file(place.store.join("control")).unwrap();
        }
        let root = SegmentLog::options().segment_len_bytes(64 << 10).open(&place.store).unwrap();
        root.append([("k", vec![b'.'; 100_000])]).unwrap();
        root.compact().unwrap();
        drop(root);
        for entry in fs::read_dir(&place.store).unwrap().map(|entry| entry.unwrap()) {
            assert_eq!(entry.metadata().unwrap().uid(), NOBODY, "{:?}", entry.file_name());
        }
        let said = place.visit();
        for answer in [&said.append, &said.read, &said.sync, &said.read_only] {
            assert!(answer.starts_with("ok "), "{answer}");
        }
    }
}
