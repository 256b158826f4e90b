//! The handles of a store are counted correctly while other locks come and go, both when the list of
//! locks takes several reads and when it fits in one.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_short, flock};
use partd::{Partd, SegmentLog};
use partd_format::control::PRESENCE_LOCK_AT;
use partd_inspect::locks::Locks;

use crate::support::on;

/// One test at a time: the locks of one would make the list of the other long.
static LIST: Mutex<()> = Mutex::new(());

/// Locks or unlocks one byte of a file. Bytes that are not neighbours are separate locks.
fn set(file: &File, byte: i64, kind: i32) {
    let lock = flock {
        l_type: kind as c_short,
        l_whence: SEEK_SET as c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("the lock is free");
}

#[test]
fn handles_are_counted_among_thousands_of_locks() {
    const OPENED: usize = 12;
    const HANDLES: usize = 300;
    let _alone = LIST.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let handles: Vec<_> = (0..OPENED).map(|_| SegmentLog::open(&path).unwrap()).collect();
    handles[0].append([("k", "v")]).unwrap();
    let others = dir.path().join("others");
    let others = File::options().read(true).write(true).create_new(true).open(others).unwrap();
    (0..3000).for_each(|at| set(&others, 2 * at, F_RDLCK));
    assert_eq!(Locks::read().handles(&path), Some(OPENED));
    let document = on(&path, &["--json"]).json();
    assert_eq!(document["open_handles"].as_u64(), Some(OPENED as u64), "{document}");
    // Enough handles that their locks fill several pages of the list.
    let more = (OPENED..HANDLES).map(|_| File::open(path.join("control")).unwrap());
    let more: Vec<File> = more.collect();
    more.iter().for_each(|file| set(file, PRESENCE_LOCK_AT as i64, F_RDLCK));
    assert_eq!(Locks::read().handles(&path), Some(HANDLES));
    // While another thread takes and releases locks, the list misses a few locks or repeats them.
    let is_over = AtomicBool::new(false);
    let counts: Vec<usize> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in (0..3000).cycle().take_while(|_| !is_over.load(Relaxed)) {
                set(&others, 2 * at, F_UNLCK);
                set(&others, 2 * at, F_RDLCK);
            }
        });
        let counts = (0..20).map(|_| Locks::read().handles(&path).unwrap()).collect();
        is_over.store(true, Relaxed);
        counts
    });
    assert!(counts.iter().all(|count| count.abs_diff(HANDLES) <= HANDLES / 20), "{counts:?}");
}

#[test]
fn no_handle_is_missed_in_a_short_list_that_changes() {
    const HANDLES: usize = 4;
    let _alone = LIST.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let handles: Vec<_> = (0..HANDLES).map(|_| SegmentLog::open(&path).unwrap()).collect();
    handles[0].append([("k", "v")]).unwrap();
    let other = File::create(dir.path().join("other")).unwrap();
    let is_over = AtomicBool::new(false);
    let counts: Vec<usize> = std::thread::scope(|scope| {
        // The kernel keeps a list of locks for each processor.
        for byte in [0, 2] {
            let (other, is_over) = (&other, &is_over);
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    set(other, byte, F_WRLCK);
                    set(other, byte, F_UNLCK);
                }
            });
        }
        let counts = (0..2000).map(|_| Locks::read().handles(&path).unwrap()).collect();
        is_over.store(true, Relaxed);
        counts
    });
    let wrong = counts.iter().filter(|count| **count != HANDLES).count();
    assert_eq!(wrong, 0, "of {} readings", counts.len());
}
