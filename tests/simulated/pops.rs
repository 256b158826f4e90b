//! A pop removes nothing that it cannot return: every disk call fails, once or permanently, and
//! other handles create segments at any of its operations.

use std::io::IoSlice;
use std::path::Path;

use crate::hooked::{open, stopped};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::log::fs::DiskFile;
use partd::{Partd, SegmentLog};

type Log = SegmentLog<SimDisk>;

const ERRORS: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EIO];

/// More than half a segment.
const LONG: usize = 40_000;

/// The changes to the store since the popping handle last refreshed.
#[derive(Clone, Copy, Debug)]
enum Since {
    Nothing,
    /// Its own segment has no room for the delete.
    FilledItsSegment,
    /// Another handle has created segments.
    Segments,
    /// Another handle has compacted, and created segments.
    Compaction,
}

/// The popping handle, another handle, and the contents of the key.
struct Scene {
    popper: SimDisk,
    mine: Log,
    other: Log,
    value: Vec<u8>,
}

fn scene(since: Since) -> Scene {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let popper = disk.new_process();
    let (mine, other) = (open(&popper), open(&disk.new_process()));
    let mut value = Vec::new();
    let mut append = |log: &Log, byte: u8, len: usize| {
        log.append([("k", vec![byte; len])]).expect("the disk has no faults");
        value.extend(vec![byte; len]);
    };
    append(&other, 1, 100);
    append(&mine, 2, 100);
    assert_eq!(mine.len_of("k").expect("the read succeeds"), 200);
    match since {
        Since::Nothing => {}
        Since::FilledItsSegment => {
            let segments = || mine.stats().expect("the count succeeds").segments();
            let before = segments();
            while segments() == before {
                mine.append([("f", [0; 900])]).expect("the disk has no faults");
            }
            // The new segment is filled until a delete of one more key would start another.
            let before = segments();
            let twin_deletes = deletes_until_a_segment_is_full();
            for _ in 0..twin_deletes {
                mine.delete(["q"]).expect("the disk has no faults");
            }
            assert_eq!(segments(), before, "the segment is not full yet");
        }
        Since::Segments => (3..6).for_each(|byte| append(&other, byte, LONG)),
        Since::Compaction => {
            append(&other, 3, LONG);
            append(&other, 4, LONG);
            assert!(other.compact().expect("the compaction succeeds").runs > 0);
            append(&other, 5, LONG);
        }
    }
    Scene { popper, mine, other, value }
}

/// The number of deletes that fit into the second segment of a handle that has just started it.
fn deletes_until_a_segment_is_full() -> usize {
    let log = open(&SimDisk::unlogged(&Image::blank(), 1));
    let segments = || log.stats().expect("the count succeeds").segments();
    log.append([("k", [2; 100])]).expect("the disk has no faults");
    while segments() == 1 {
        log.append([("f", [0; 900])]).expect("the disk has no faults");
    }
    let mut deletes = 0;
    while segments() == 2 {
        log.delete(["q"]).expect("the disk has no faults");
        deletes += 1;
    }
    deletes - 1
}

/// Checks that the pop either returned the value or left it in place.
fn check(what: &str, popped: Result<Vec<Vec<u8>>, partd::Error>, left: &[u8], value: &[u8]) {
    match popped {
        Ok(popped) => {
            let both = [&popped[0][..], left].concat();
            assert!(both == value, "I1 is violated: {what}: {} of {}", both.len(), value.len());
        }
        Err(error) => {
            assert!(left == value, "I1 is violated: {what}: {error}, and bytes are gone");
            assert!(error.to_string().contains(STORE), "{what}: no path is named: {error}");
        }
    }
}

#[test]
fn a_pop_whose_calls_fail_once_or_permanently_removes_nothing() {
    let (mut failures, mut total) = (0, 0);
    for since in [Since::Nothing, Since::FilledItsSegment, Since::Segments, Since::Compaction] {
        let Scene { popper, mine, other: _other, value } = scene(since);
        popper.watch(None);
        assert!(mine.pop(["k"]).expect("the disk has no faults") == [value]);
        let calls = popper.watched();
        println!("{since:?}: {calls:?}");
        total += calls.len();
        for at in 0..calls.len() {
            for error in ERRORS {
                for for_good in [false, true] {
                    let Scene { popper, mine, other, value } = scene(since);
                    match for_good {
                        true => popper.fail_for_good(at, error),
                        false => popper.watch(Some((at, error))),
                    }
                    let popped = mine.pop(["k"]);
                    popper.watched();
                    failures += u32::from(popped.is_err());
                    let left = other.get("k").expect("the other handle meets no fault");
                    let what = format!("{since:?}, call {at}, error {error}, for good: {for_good}");
                    check(&what, popped, &left, &value);
                    assert!(mine.get("k").expect("the handle continues") == left, "{what}");
                    mine.append([("k", "more")]).expect("the handle continues");
                    let again = other.get("k").expect("the handle continues");
                    assert!(again == [&left[..], b"more"].concat(), "{what}");
                }
            }
        }
    }
    println!("{total} calls, {failures} failures");
    assert!(total >= 10 && failures > 50, "{total} calls, {failures} failures");
}

#[test]
fn a_pop_loses_no_bytes_when_segments_appear_at_any_of_its_operations() {
    let (mut operations, mut failures) = (0, 0);
    for fails in [None, Some(libc::EMFILE), Some(libc::ENOMEM)] {
        for at in 1.. {
            let Scene { popper, mine, other, mut value } = scene(Since::Segments);
            let (fate, thread) = stopped(&popper, at, move || {
                let popped = mine.pop(["k"]);
                (mine, popped)
            });
            for byte in [7, 8] {
                other.append([("k", [byte; LONG])]).expect("the disk has no faults");
                value.extend([byte; LONG]);
            }
            if let Some(error) = fails {
                popper.fail_for_good(0, error);
            }
            popper.resume();
            let (mine, popped) = thread.join().expect("the thread does not panic");
            popper.watched();
            failures += u32::from(popped.is_err());
            let left = other.get("k").expect("the disk has no faults");
            check(&format!("stopped at {at}, then {fails:?}"), popped, &left, &value);
            assert!(mine.get("k").expect("the handle continues") == left);
            if fate == Fate::Finished {
                operations = at - 1;
                break;
            }
        }
    }
    println!("{operations} operations, {failures} failures");
    assert!(operations > 5 && failures > 0, "{operations} operations, {failures} failures");
}

#[test]
fn a_pop_without_checksums_returns_late_values_unverified() {
    let mut late = 0;
    for at in 1.. {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let (popper, other) = (disk.new_process(), open(&disk.new_process()));
        let mine = options().verify_on_read(false).open_on(popper.clone(), STORE);
        let mine = mine.expect("the open succeeds");
        mine.append([("k", [1; 100])]).expect("the append succeeds");
        other.append([("k", [2; 100])]).expect("the append succeeds");
        assert_eq!(mine.len_of("k").expect("the read succeeds"), 200);
        let (fate, thread) = stopped(&popper, at, move || mine.pop(["k"]));
        other.append([("k", [3; 5000])]).expect("the append succeeds");
        // The value is at the end of its batch, and is damaged there.
        let file = Path::new(STORE).join("0000000000000002.seg");
        let file = disk.open_path(&file).expect("it is there");
        let all: Vec<u8> = {
            let mut bytes = vec![0; file.mapping().len() as usize];
            file.mapping().copy_out(0, &mut bytes);
            bytes
        };
        let value =
            all.windows(5000).position(|bytes| bytes == [3; 5000]).expect("the write succeeds");
        file.write_at(&mut [IoSlice::new(&[4])], value as u64 + 2000).expect("the write succeeds");
        popper.resume();
        let popped =
            thread.join().expect("the thread does not panic").expect("no checksum is compared");
        late += u32::from(popped[0].len() == 5200);
        assert!([200, 5200].contains(&popped[0].len()), "{} bytes", popped[0].len());
        if fate == Fate::Finished {
            break;
        }
    }
    assert!(late > 3, "late values were popped {late} times");
}
