//! The disk reads of a store that is not in memory: the requested bytes, without their neighbours.
//!
//! The kernel counts the reads (`/proc/self/io`), so the counts include the device's read-ahead,
//! which would load the neighbours.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use partd::{Batch, Key, Op, Partd, SegmentLog};
use partd_testkit::children;
use rustix::fs::Advice;

use crate::alone;

const KEYS: usize = 64;
const BATCHES: usize = 40;
/// The tolerance of a count: other threads of the process, and the file system's own blocks.
const SLACK: u64 = 96 << 10;
const PAGE: u64 = 4096;

/// The number of bytes that this process has read from disk so far.
fn read_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let field = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    field.unwrap().parse().unwrap()
}

/// The value of a key in a batch.
fn value(len: usize, batch: usize, key: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..256).map(|i| (i * 31 + batch * 7 + key * 13) as u8).collect();
    let mut value = period.repeat(len.div_ceil(256));
    value.truncate(len);
    value
}

/// A closed store with values of this length for each key, one after the other in each batch.
fn filled(path: &Path, len: usize) {
    let p = SegmentLog::options().segment_len_bytes(16 << 20).open(path).unwrap();
    for number in 0..BATCHES {
        let values: Vec<_> = (0..KEYS).map(|key| value(len, number, key)).collect();
        let mut batch = Batch::with_capacity(KEYS);
        for (key, value) in values.iter().enumerate() {
            batch.push(Op::Append(Key::from(key as u64), value));
        }
        p.write(&batch, partd::Durability::Plain).unwrap();
    }
    p.sync().unwrap();
}

/// Drops the cached pages of every file in a directory.
fn drop_pages(path: &Path) {
    // A page that another processor has just handled stays until that processor releases it.
    for _ in 0..20 {
        for entry in fs::read_dir(path).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the files of a directory are on a disk.
fn is_on_disk(path: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    let on_disk = rustix::fs::statfs(path).unwrap().f_type != TMPFS;
    if !on_disk {
        children::skip("temporary files live in memory here");
    }
    on_disk
}

/// Reads key 7 of an uncached store, and compares the bytes read from disk with those needed.
fn one_key(len: usize, read: impl Fn(&SegmentLog, Key) -> Vec<u8>) {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    if !is_on_disk(dir.path()) {
        return;
    }
    let path = dir.path().join("store");
    filled(&path, len);
    drop_pages(&path);
    let p = SegmentLog::open(&path).unwrap();
    let before = read_bytes();
    assert_eq!(p.len_of(7_u64).unwrap(), (len * BATCHES) as u64);
    let indexing = read_bytes() - before;
    // The head of a batch: 48 bytes, 16 for each entry, and the keys; it starts anywhere in a page.
    // The same amount can be prefetched in vain at the end of a segment.
    let head_pages = (48 + 16 * KEYS as u64 + 2 * KEYS as u64).div_ceil(PAGE) + 1;
    let most = (BATCHES as u64 + 2 * 16) * head_pages * PAGE + SLACK;
    assert!(indexing <= most, "indexing has read {indexing} bytes, {most} would do");
    let before = read_bytes();
    let found = read(&p, Key::from(7_u64));
    let bytes = read_bytes() - before;
    let expected: Vec<u8> = (0..BATCHES).flat_map(|batch| value(len, batch, 7)).collect();
    assert!(found == expected, "other bytes");
    let pages_of_value = (len as u64).div_ceil(PAGE) + 1;
    let most = BATCHES as u64 * pages_of_value * PAGE + SLACK;
    println!("{len} bytes each: indexing read {indexing}, the key {bytes} of {}", expected.len());
    assert!(bytes <= most, "the key has read {bytes} bytes for {}", expected.len());
    assert!(bytes >= expected.len() as u64 / 2, "only {bytes} bytes: the store was in memory");
}

#[test]
fn a_get_of_one_key_reads_its_pages_and_no_neighbours() {
    for len in [4096, 40_000] {
        one_key(len, |p, key| p.get(key).unwrap());
    }
}

#[test]
fn a_view_of_one_key_reads_its_pages_and_no_neighbours() {
    one_key(4096, |p, key| p.view(key).unwrap().chunks().collect::<Vec<_>>().concat());
    one_key(40_000, |p, key| p.view(key).unwrap().pieces(7000).collect::<Vec<_>>().concat());
}

#[test]
fn a_visit_of_one_key_reads_its_pages_and_no_neighbours() {
    one_key(4096, |p, key| {
        let mut all = Vec::new();
        p.visit(&[key], &mut |values| {
            all = values[0].concat();
            Ok(())
        })
        .unwrap();
        all
    });
}

#[test]
fn an_unverified_visit_of_one_key_reads_its_pages_and_no_neighbours() {
    one_key(4096, |p, key| unverified(p, key).unwrap());
}

/// Copies a value in an unverified visit.
fn unverified(p: &SegmentLog, key: Key) -> partd::Result<Vec<u8>> {
    p.visit_unverified(&[key], |values| {
        let mut copy = Vec::new();
        for chunk in &values[0] {
            chunk.verify(|bytes| copy.extend_from_slice(bytes))?;
        }
        Ok(copy)
    })
}

#[test]
fn an_unverified_visit_reads_damage_from_disk_and_finds_that_of_later_too() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    if !is_on_disk(dir.path()) {
        return;
    }
    let path = dir.path().join("store");
    // Only pages wholly inside a value are released.
    const LEN: usize = 20_000;
    filled(&path, LEN);
    let extents = SegmentLog::open(&path).unwrap().extents(7_u64).unwrap();
    let at = extents.iter().nth(3).unwrap().offset() + 5;
    drop(extents);
    let segment = path.join("0000000000000001.seg");
    let file = File::options().read(true).write(true).open(&segment).unwrap();
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    for (release, verify) in [(false, true), (true, true), (false, false), (true, false)] {
        let case = format!("release {release}, verify {verify}");
        let options = SegmentLog::options().release_after_read(release).verify_on_read(verify);
        let len = |p: &SegmentLog, key: u64| {
            unverified(p, key.into()).map(|value| value.len()).map_err(|error| error.kind())
        };
        let all = Ok(LEN * BATCHES);
        let damaged = if verify { Err(partd::ErrorKind::Corrupt) } else { all };
        // Damaged before the visit reads it.
        flip();
        drop_pages(&path);
        let p = options.clone().open(&path).unwrap();
        assert_eq!([len(&p, 8), len(&p, 7)], [all, damaged], "{case}");
        drop(p);
        // Damaged once the visit has read it.
        flip();
        drop_pages(&path);
        let p = options.open(&path).unwrap();
        let later = p.visit_unverified(&[7_u64.into()], |values| {
            flip();
            values[0].iter().try_for_each(|chunk| chunk.verify(|_| {}))
        });
        assert_eq!(later.map_err(|error| error.kind()), damaged.map(drop), "{case}");
        flip();
        // A read of what was read before reads the disk again only if the pages were released.
        drop_pages(&path);
        assert_eq!(len(&p, 9), all, "{case}");
        let before = read_bytes();
        assert_eq!(len(&p, 9), all, "{case}");
        let again = (read_bytes() - before) as usize;
        assert_eq!(again >= LEN * BATCHES / 2, release, "{case}: read {again} bytes again");
    }
}

#[test]
fn a_pop_of_one_key_reads_its_pages_and_no_neighbours() {
    one_key(4096, |p, key| p.pop([key]).unwrap().remove(0));
}

#[test]
fn a_reader_of_one_key_reads_its_pages_and_no_neighbours() {
    use std::io::Read;
    for len in [4096, 40_000] {
        one_key(len, |p, key| {
            let mut value = Vec::new();
            p.reader(key).unwrap().release_behind().read_to_end(&mut value).unwrap();
            value
        });
    }
}

#[test]
fn a_follower_of_one_key_reads_its_pages_and_no_neighbours() {
    one_key(40_000, |p, key| {
        let (mut follower, mut value) = (p.follow(key, 0), Vec::new());
        while follower.read_into(&mut value).unwrap() {}
        value
    });
}
