//! A store in a process that changes its directory, and in one whose children keep the files that
//! they inherited.

use std::path::Path;

use partd::log::fs::{Dir, Disk, OsDisk};
use partd::{Partd, SegmentLog};
use partd_testkit::children::{self, Start, directory, fork, report, start_with_channel};

/// More than half of the smallest segment.
const LONG: usize = 40_000;

/// The entry point of the children of this file.
pub(crate) fn live(arguments: &[String]) {
    let path = Path::new(&arguments[1]);
    match arguments[0].as_str() {
        "wanders" => wander(path),
        "forks" => fork_with_a_lock(path),
        other => panic!("there is no {other}"),
    }
}

/// The reports of a child in a role, with a path.
fn told(role: &str, path: &Path) -> Vec<String> {
    let arguments = [role.to_owned(), path.display().to_string()];
    let (child, said) = start_with_channel(&Start::default(), "process", &arguments);
    let said = said.iter().take_while(|line| line != "done").collect();
    child.finish();
    said
}

/// Opens one of two stores with the same relative path, and changes to the directory of the other.
fn wander(dir: &Path) {
    let options = SegmentLog::options().segment_len_bytes(64 << 10);
    let go = |place: &str| std::env::set_current_dir(dir.join(place)).expect("it is there");
    go("here");
    let p = options.open("store").expect("the open succeeds");
    p.append([("k", [1; LONG])]).expect("the append succeeds");
    go("there");
    for byte in 2..4 {
        p.append_durable([("k", [byte; LONG])]).expect("the append succeeds");
    }
    assert_eq!(p.get("k").expect("the read succeeds").len(), 3 * LONG);
    report("done");
}

#[test]
fn a_store_opened_by_a_relative_path_survives_a_change_of_directory() {
    let (dir, _) = directory();
    for place in ["here", "there"] {
        std::fs::create_dir(dir.path().join(place)).unwrap();
    }
    let there = SegmentLog::open(dir.path().join("there/store")).unwrap();
    there.append([("k", "another")]).unwrap();
    assert!(told("wanders", dir.path()).is_empty());
    assert_eq!(there.get("k").unwrap(), b"another");
    let here = SegmentLog::open(dir.path().join("here/store")).unwrap();
    assert_eq!(here.get("k").unwrap().len(), 3 * LONG);
}

/// Reports who holds a lock after its holder has dropped it while a child has the file open; and
/// while its holder has it but a child has dropped its copy.
fn fork_with_a_lock(path: &Path) {
    let dir = OsDisk.open_dir(path).expect("a directory");
    let take = || dir.try_lock(true).expect("the lock can be queried");
    let lock = take().expect("the lock is free");
    if fork::fork().is_none() {
        fork::sleep_until_input_ends();
    }
    drop(lock);
    report(if take().is_some() { "free" } else { "held by the child" });
    let lock = take().expect("the lock is free");
    match fork::fork() {
        None => {
            drop(lock);
            fork::vanish();
        }
        Some(pid) => children::wait_for_state(pid, &[Some('Z'), None]),
    }
    report(if take().is_none() { "held" } else { "freed by the child" });
    report("done");
}

#[test]
fn a_lock_belongs_to_the_process_that_took_it_although_a_child_inherits_the_file() {
    let (dir, _) = directory();
    assert_eq!(told("forks", dir.path()), ["free", "held"]);
}
