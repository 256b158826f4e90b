//! A file system that is really full: an append is an error and not a SIGBUS, stored data can be
//! read and deleted, and appends succeed again once there is space.
//!
//! The tests mount a small in-memory file system, which requires root.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use partd::{Buffer, Dict, Error, Partd, SegmentLog};
use partd_testkit::children;

/// The size of the file system.
const SIZE_BYTES: u64 = 8 << 20;

/// A small file system, unmounted when the value is dropped.
struct Small {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Small {
    /// Mounts it; reports why and returns `None` if mounting is not allowed.
    fn mount() -> Option<Small> {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let path = dir.path().to_owned();
        let size = format!("size={SIZE_BYTES},mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "partd-test"])
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Small { _dir: dir, path }),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                children::skip(&format!("a file system cannot be mounted: {said}"));
                None
            }
            Err(error) => {
                children::skip(&format!("there is no mount command: {error}"));
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: in a failed test, a handle may still be open.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn options() -> partd::Options {
    SegmentLog::options().segment_len_bytes(256 << 10).compaction_dead_share(None)
}

fn piece(number: usize) -> Vec<u8> {
    (0..3000).map(|i| (i + number) as u8).collect()
}

fn key(number: usize) -> String {
    format!("key {}", number % 4)
}

/// Appends until it fails; returns the number of pieces in the store, which held `from` before.
fn fill(p: &impl Partd, from: usize) -> (usize, Error) {
    for number in from.. {
        if let Err(error) = p.append([(key(number), piece(number))]) {
            return (number, error);
        }
    }
    unreachable!("numbers have no end");
}

#[track_caller]
fn says_full(error: &Error, store: &Path) {
    let message = error.to_string();
    assert!(matches!(error, Error::Io { .. }), "{message}");
    assert!(message.contains(&*store.to_string_lossy()), "the path is not named: {message}");
    assert!(message.contains("free some space"), "{message}");
}

/// Checks that the store holds exactly `pieces` pieces, byte by byte.
fn holds(p: &impl Partd, pieces: usize) {
    for first in 0..4 {
        let right: Vec<u8> = (first..pieces).step_by(4).flat_map(piece).collect();
        assert!(p.get(key(first)).unwrap() == right, "{pieces} pieces, {}", key(first));
    }
}

#[test]
fn a_full_file_system_is_an_error_and_freed_space_is_used_again() {
    let Some(small) = Small::mount() else { return };
    let store = small.path.join("store");
    let filler = small.path.join("filler");
    fs::write(&filler, vec![1; 3 << 20]).unwrap();
    let p = options().open(&store).unwrap();
    let other = options().open(&store).unwrap();
    other.append([("other", "x")]).unwrap();
    let (full, error) = fill(&p, 0);
    says_full(&error, &store);
    assert!(full > 1000, "only {full} pieces fit");
    // The disk stays full for each kind of write that needs space, and no write is half done.
    for _ in 0..3 {
        says_full(&p.append([("more", vec![7; 100_000])]).unwrap_err(), &store);
        says_full(&p.append_durable([("more", vec![7; 5_000_000])]).unwrap_err(), &store);
        says_full(&p.iset("more", vec![7; 100_000]).unwrap_err(), &store);
    }
    assert!(!p.contains("more").unwrap());
    // Reads work for every handle and for new ones, and so does the durability guarantee.
    p.sync().unwrap();
    for p in [&p, &other, &options().open(&store).unwrap()] {
        holds(p, full);
        p.verify().unwrap();
    }
    holds(&options().open_read_only(&store).unwrap(), full);
    // Deletes work.
    p.delete(["other", "nothing"]).unwrap();
    assert_eq!(p.pop([key(3)]).unwrap()[0].len(), (3..full).step_by(4).count() * 3000);
    assert_eq!(other.keys().unwrap().len(), 3);
    // Once space is freed, the same handle continues.
    fs::remove_file(&filler).unwrap();
    let (second, error) = fill(&p, full);
    says_full(&error, &store);
    assert!(second > full + 800, "only {} more fit", second - full);
    drop((p, other));
    // The handles hold no state of their own: the store opens while the disk is full, for writing
    // too, and is complete.
    let p = options().open(&store).unwrap();
    let first: Vec<u8> = (0..second).step_by(4).flat_map(piece).collect();
    assert!(p.get(key(0)).unwrap() == first);
    p.verify().unwrap();
    // A small append either fits into the space that the handle still has, or fails with the same
    // error.
    match p.append([("small", "fits or not")]) {
        Ok(()) => assert_eq!(p.get("small").unwrap(), b"fits or not"),
        Err(error) => {
            says_full(&error, &store);
            assert!(!p.contains("small").unwrap());
        }
    }
    assert!(p.get(key(0)).unwrap() == first);
    drop(p);
    fs::remove_dir_all(&store).unwrap();
}

#[test]
fn a_buffer_keeps_what_a_full_file_system_rejects() {
    let Some(small) = Small::mount() else { return };
    let store = small.path.join("store");
    let filler = small.path.join("filler");
    fs::write(&filler, vec![1; 4 << 20]).unwrap();
    let p = Buffer::new(Dict::new(), options().open(&store).unwrap(), 256 << 10);
    let (full, error) = fill(&p, 0);
    says_full(&error, &store);
    holds(&p, full);
    fs::remove_file(&filler).unwrap();
    for number in full..full + 200 {
        p.append([(key(number), piece(number))]).unwrap();
    }
    p.flush().unwrap();
    holds(p.slow(), full + 200);
}

#[test]
fn a_store_that_cannot_be_created_on_a_full_file_system_leaves_no_obstacle() {
    let Some(small) = Small::mount() else { return };
    let store = small.path.join("store");
    let filler = small.path.join("filler");
    let all = vec![1; SIZE_BYTES as usize + 1];
    assert!(fs::write(&filler, all).is_err(), "it is full now");
    let opened = options().open(&store).and_then(|p| p.append([("k", "v")]));
    says_full(&opened.unwrap_err(), &store);
    fs::remove_file(&filler).unwrap();
    let p = options().open(&store).unwrap();
    p.append_durable([("k", "v")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"v");
}

#[test]
fn a_backup_that_does_not_fit_is_an_error_and_leaves_nothing() {
    let Some(small) = Small::mount() else { return };
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let p = options().open(&store).unwrap();
    for number in 0..3000 {
        p.append([(key(number), piece(number))]).unwrap();
    }
    let before = p.get(key(0)).unwrap();
    for target in [small.path.clone(), small.path.join("new")] {
        let error = p.backup(&target).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert!(error.to_string().contains(&*target.to_string_lossy()), "{error}");
        assert_eq!(fs::read_dir(&small.path).unwrap().count(), 0, "{}", target.display());
    }
    assert!(p.get(key(0)).unwrap() == before);
    p.clear().unwrap();
    p.compact().unwrap();
    p.append([("k", "v")]).unwrap();
    // Another file system: everything is copied.
    let made = p.backup(small.path.join("new")).unwrap();
    assert_eq!(made.segments_linked, 0, "{made:?}");
    assert_eq!(options().open(small.path.join("new")).unwrap().get("k").unwrap(), b"v");
}

#[test]
fn a_hard_linked_copy_opened_on_a_full_disk_leaves_the_control_file_of_the_original_alone() {
    let Some(small) = Small::mount() else { return };
    let (store, copy) = (small.path.join("store"), small.path.join("copy"));
    // All segments are sealed, so a recovery of the copy needs space only for its control file.
    options().open(&store).unwrap().append([("k", "1")]).unwrap();
    let p = options().open(&store).unwrap();
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&store).unwrap() {
        let entry = entry.unwrap();
        fs::hard_link(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let filler = small.path.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let control = fs::read(store.join("control")).unwrap();
    says_full(&options().open(&copy).expect_err("there is no space for it"), &copy);
    assert!(fs::read(store.join("control")).unwrap() == control, "it was overwritten");
    // Its blocks are free once nobody has it open.
    drop(file);
    fs::remove_file(&filler).unwrap();
    p.append([("k", "2")]).unwrap();
    assert_eq!(options().open(&copy).unwrap().get("k").unwrap(), b"1");
    assert_eq!(p.get("k").unwrap(), b"12");
}

#[test]
fn threads_that_fill_a_limited_store_use_the_room_of_every_segment() {
    const SEGMENT: u64 = 1 << 20;
    // Ten values leave less than a sixteenth of a segment.
    const VALUE: usize = 102_000;
    const THREADS: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::options()
        .segment_len_bytes(SEGMENT)
        .max_store_bytes(8 * SEGMENT)
        .compaction_dead_share(None)
        .open(dir.path().join("store"))
        .unwrap();
    let appended: Vec<u64> = std::thread::scope(|scope| {
        let fill = |key: u64| {
            let (log, value) = (&log, vec![key as u8; VALUE]);
            move || {
                for times in 0.. {
                    match log.append([(key, &value)]) {
                        Ok(()) => {}
                        Err(Error::StoreFull { .. }) => return times,
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("the store has a limit")
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|key| scope.spawn(fill(key))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // No segment has room for another value, whichever slot it belongs to.
    let used = appended.iter().sum::<u64>() * VALUE as u64;
    let fit = SEGMENT / VALUE as u64 * VALUE as u64;
    assert_eq!(used, 8 * fit, "{appended:?}");
    assert!(log.append([(0_u64, vec![0; VALUE])]).is_err());
    for (key, times) in appended.iter().enumerate() {
        let value = log.get(key as u64).unwrap();
        assert_eq!(value.len() as u64, times * VALUE as u64, "key {key}");
        assert!(value.iter().all(|&byte| byte == key as u8));
    }
    // Removals still find room.
    log.delete(0..THREADS).unwrap();
    assert!(log.keys().unwrap().is_empty());
}
