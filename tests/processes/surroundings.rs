//! What a process does around an open store: it changes its directory, and it has children that live
//! on with what they inherited.

use std::path::Path;

use partd::log::fs::{Dir, Disk, OsDisk};
use partd::{Partd, SegmentLog};
use partd_testkit::children::{self, Start, directory, fork, report, start_with_channel};

/// More than half of the smallest segment.
const LONG: usize = 40_000;

/// What the process of a role does.
pub(crate) fn live(arguments: &[String]) {
    let path = Path::new(&arguments[1]);
    match arguments[0].as_str() {
        "wanders" => wander(path),
        "forks" => fork_with_a_lock(path),
        other => panic!("there is no {other}"),
    }
}

/// What the process of a role reports, with a path.
fn told(role: &str, path: &Path) -> Vec<String> {
    let arguments = [role.to_owned(), path.display().to_string()];
    let (child, said) = start_with_channel(&Start::default(), "process", &arguments);
    let said = said.iter().take_while(|line| line != "done").collect();
    child.finish();
    said
}

/// Opens one of two stores of one name by it alone, and goes to the other's place.
fn wander(dir: &Path) {
    let options = SegmentLog::options().segment_len_bytes(64 << 10);
    let go = |place: &str| std::env::set_current_dir(dir.join(place)).expect("it is there");
    go("here");
    let p = options.open("store").expect("it opens");
    p.append([("k", [1; LONG])]).expect("it is appended");
    go("there");
    for byte in 2..4 {
        p.append_durable([("k", [byte; LONG])]).expect("it is appended");
    }
    assert_eq!(p.get("k").expect("it is read").len(), 3 * LONG);
    report("done");
}

#[test]
fn a_store_that_was_opened_by_a_relative_path_stays_where_it_is() {
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

/// Tells who has a lock once its holder has dropped it, with a child that has its file open; and
/// while its holder holds it, with a child that has dropped it.
fn fork_with_a_lock(path: &Path) {
    let dir = OsDisk.open_dir(path).expect("a directory");
    let take = || dir.try_lock(true).expect("it can be asked for");
    let lock = take().expect("nobody has it");
    if fork::fork().is_none() {
        fork::sleep_until_input_ends();
    }
    drop(lock);
    report(if take().is_some() { "free" } else { "held by the child" });
    let lock = take().expect("nobody has it");
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
fn a_lock_is_that_of_the_process_which_took_it_whoever_has_inherited_its_file() {
    let (dir, _) = directory();
    assert_eq!(told("forks", dir.path()), ["free", "held"]);
}
