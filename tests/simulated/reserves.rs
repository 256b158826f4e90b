//! A reserve is used and replaced only if it is what the store made: a file of zeros with disk space.

use std::path::{Path, PathBuf};

use crate::hooked::open;
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::log::fs::DiskFile;
use partd::{ErrorKind, Partd};

const OTHER: &str = "/other/0000000000000001.seg";

/// The paths of both reserves.
fn reserves() -> [PathBuf; 2] {
    ["reserve", "reserve-output"].map(|name| Path::new(STORE).join(name))
}

/// A closed store with a few segments and its reserves.
fn store_with_reserves() -> SimDisk {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let writer = open(&disk.new_process());
    for key in 0..4_u64 {
        writer.append([(key, vec![1; 40_000])]).expect("the append succeeds");
    }
    drop(writer);
    let names = disk.names_in(Path::new(STORE));
    assert!(reserves().iter().all(|reserve| names.contains(reserve)), "{names:?}");
    disk
}

/// Deletes, clears and compacts in new processes on a full disk with unusable reserves. The
/// removals must fail, and no value is lost.
fn remove_on_a_full_disk(disk: &SimDisk) {
    disk.limit(0);
    for removal in 0..2 {
        let log = open(&disk.new_process());
        let removed = match removal {
            0 => log.delete([0_u64]),
            _ => log.clear(),
        };
        match removed {
            Ok(()) => panic!("live is violated: a removal was written where there is no space"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}"),
        }
        let _ = log.compact();
        assert_eq!(log.get(0_u64).expect("the read succeeds").len(), 40_000);
    }
    let names = disk.names_in(Path::new(STORE));
    assert!(reserves().iter().all(|reserve| names.contains(reserve)), "{names:?}");
}

#[test]
fn a_sparse_reserve_of_a_copied_store_is_not_used_on_a_full_disk() {
    let disk = store_with_reserves();
    for reserve in reserves() {
        let file = disk.open_path(&reserve).expect("it is there");
        file.punch(0, file.mapping().len()).expect("the disk can do it");
    }
    remove_on_a_full_disk(&disk);
    assert!(!disk.stored_in_hole(), "live is violated: a store without space");
}

#[test]
fn a_file_of_another_store_under_the_name_of_a_reserve_is_never_overwritten_or_removed() {
    let disk = store_with_reserves();
    // Longer than a reserve has to be.
    let options = options().segment_len_bytes(256 << 10);
    let other = options.open_on(disk.new_process(), "/other").expect("the open succeeds");
    other.append([("o", "theirs")]).expect("the append succeeds");
    let bytes = || {
        let [first, second] = reserves();
        [Path::new(OTHER), &first, &second].map(|path| {
            let file = disk.open_path(path).expect("it is there");
            let mut bytes = vec![0; file.mapping().len() as usize];
            file.mapping().copy_out(0, &mut bytes);
            bytes
        })
    };
    let right = {
        reserves().iter().for_each(|reserve| disk.put_in_place(Path::new(OTHER), reserve));
        bytes()
    };
    assert!(right.iter().all(|bytes| *bytes == right[0]));
    // With space, a new segment and a compaction make reserves where there are none.
    let log = open(&disk.new_process());
    log.append([("k", "v")]).expect("the append succeeds");
    log.delete([1_u64]).expect("the delete succeeds");
    log.compact().expect("the compaction succeeds");
    drop(log);
    assert!(bytes() == right, "live is violated: a file of another store was replaced");
    remove_on_a_full_disk(&disk);
    assert!(bytes() == right, "live is violated: a file of another store was overwritten");
    assert_eq!(other.get("o").expect("the read succeeds"), b"theirs");
}
