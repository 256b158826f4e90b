//! `verify` walks every segment of the store, and checks values that no read reaches any more.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::hooked::open;
use crate::sim::STORE;
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use partd::log::fs::DiskFile;
use partd::{Error, Partd};

fn segment(id: u64) -> PathBuf {
    Path::new(STORE).join(format!("{id:016x}.seg"))
}

/// Changes a byte of a file beneath its readers.
fn flip(disk: &SimDisk, path: &Path, offset: u64) {
    let file = disk.open_path(path).expect("it is there");
    let mut byte = [0];
    file.mapping().copy_out(offset, &mut byte);
    file.write_at(&mut [IoSlice::new(&[byte[0] ^ 1])], offset).expect("the write succeeds");
}

/// The offset of some bytes in a file.
fn find(disk: &SimDisk, path: &Path, bytes: &[u8]) -> u64 {
    let file = disk.open_path(path).expect("it is there");
    let mut all = vec![0; file.mapping().len() as usize];
    file.mapping().copy_out(0, &mut all);
    all.windows(bytes.len()).position(|found| found == bytes).expect("it is there") as u64
}

/// Finds the byte to damage.
type Place = fn(&SimDisk) -> u64;

#[test]
fn verify_on_an_open_handle_finds_damage_in_headers_dead_values_and_live_values() {
    let places: [(&str, Place); 4] = [
        ("the header", |_| 20),
        ("a dead value", |disk| find(disk, &segment(1), &[1; 300]) + 5),
        ("a live value", |disk| find(disk, &segment(1), &[2; 300]) + 5),
        ("a key", |disk| find(disk, &segment(1), b"a dead key")),
    ];
    for (what, place) in places {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let p = open(&disk.new_process());
        p.append([("a dead key", [1; 300]), ("live", [2; 300])]).expect("the append succeeds");
        p.delete(["a dead key"]).expect("the delete succeeds");
        assert!(p.get("live").expect("the read succeeds") == [2; 300]);
        let verified = p.verify().expect("the store is whole");
        assert_eq!((verified.segments, verified.batches), (1, 2));
        assert_eq!((verified.extents, verified.bytes), (2, 600));
        flip(&disk, &segment(1), place(&disk));
        match p.verify() {
            Err(Error::Damage { path, .. }) => assert_eq!(path, segment(1), "{what}"),
            other => panic!("{what} is damaged, but verify does not notice: {other:?}"),
        }
    }
}

#[test]
fn segments_replaced_by_a_compaction_are_not_counted() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (p, q) = (open(&disk.new_process()), open(&disk.new_process()));
    for i in 0..5_u8 {
        q.append([(u64::from(i), [i; 40_000])]).expect("the append succeeds");
    }
    assert_eq!(p.verify().expect("the store is whole").segments, 5);
    assert_eq!(q.compact().expect("the compaction succeeds").segments_replaced, 4);
    for log in [&p, &q] {
        let verified = log.verify().expect("the store is whole");
        assert_eq!(verified.segments, log.stats().expect("the count succeeds").segments());
        assert_eq!((verified.segments, verified.extents), (2, 5));
    }
}
