//! Wholly dead segments are removed at once, and stores of any size are removed quickly.

use std::path::Path;
use std::time::{Duration, Instant};

use partd::{Error, Partd, SegmentLog};

/// Appends until the store is full; returns the number of appends.
fn fill(p: &SegmentLog) -> usize {
    let value = vec![7; 10_000];
    for number in 0.. {
        match p.append([("k", &value)]) {
            Ok(()) => {}
            Err(Error::StoreFull { .. }) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("there is a limit")
}

#[test]
fn a_store_of_two_or_three_segments_is_filled_cleared_and_filled_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for segments in [2, 3] {
        let len = 1 << 20;
        let options = SegmentLog::options().segment_len_bytes(len).max_store_bytes(segments * len);
        let path = dir.path().join(format!("store-{segments}"));
        let stores = [options.open(&path).unwrap(), options.temporary_in(dir.path()).unwrap()];
        for p in stores {
            let first = fill(&p);
            assert!(first as u64 * 10_000 > (segments - 1) * len, "{first} values");
            for round in 0..3 {
                p.clear().unwrap();
                let again = fill(&p);
                assert!(again * 10 >= first * 9 - 20, "{first}, round {round} {again} values");
                assert_eq!(p.len_of("k").unwrap(), again as u64 * 10_000);
            }
        }
    }
}

fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries =
        std::fs::read_dir(path).unwrap().filter_map(|entry| entry.unwrap().metadata().ok());
    entries.map(|metadata| metadata.blocks() * 512).sum()
}

#[test]
fn wholly_dead_segments_are_removed_whatever_the_dead_share_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    // The dead share of the store never reaches 100%.
    let options = SegmentLog::options().segment_len_bytes(256 << 10).compaction_dead_share(1.0);
    let p = options.open(dir.path().join("store")).unwrap();
    let value = vec![7; 50_000];
    for part in 0..20_u32 {
        for _ in 0..10 {
            p.append([(part, &value)]).unwrap();
        }
    }
    p.append([("kept", "this")]).unwrap();
    let full = bytes_on_disk(p.path());
    for part in 0..19_u32 {
        p.delete([part]).unwrap();
    }
    let since = Instant::now();
    while bytes_on_disk(p.path()) > full / 4 {
        assert!(since.elapsed() < Duration::from_secs(30), "{} of {full}", bytes_on_disk(p.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(p.get("kept").unwrap(), b"this");
    assert_eq!(p.get(19_u32).unwrap(), value.repeat(10));
    drop(p);
    let p = SegmentLog::open_read_only(dir.path().join("store")).unwrap();
    assert_eq!(p.keys().unwrap().len(), 2);
}

/// A temporary store of 320 MiB, or of `PARTD_TEST_TEMPORARY_MIB`.
fn large(dir: &Path) -> SegmentLog {
    let p = SegmentLog::options().temporary_in(dir).unwrap();
    let asked = std::env::var("PARTD_TEST_TEMPORARY_MIB").ok();
    let mib: u64 = asked.map_or(320, |mib| mib.parse().unwrap());
    let value = vec![7; 4 << 20];
    for _ in 0..mib / 4 {
        p.append([("k", &value)]).unwrap();
    }
    p
}

#[test]
fn a_dropped_large_temporary_store_loses_its_names_at_once_and_its_space_soon() {
    let dir = tempfile::tempdir().unwrap();
    let p = large(dir.path());
    let mapped = |what: &str| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(what)).count()
    };
    let name = p.path().file_name().unwrap().to_str().unwrap().to_owned();
    p.len_of("k").unwrap();
    assert!(mapped(&name) > 0);
    let start = Instant::now();
    drop(p);
    println!("dropped in {:.3} s", start.elapsed().as_secs_f64());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // The mapping of a removed file holds its space.
    let since = Instant::now();
    while mapped(&name) > 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "it is still mapped");
        std::thread::sleep(Duration::from_millis(5));
    }
}
