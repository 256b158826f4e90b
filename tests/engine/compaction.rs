//! A compaction leaves live data unchanged and removes dead data, beside any other activity.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use partd::{Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// The disk usage of the files in a directory.
fn disk_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

fn contents<P: Partd>(p: &P) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let keys = p.keys().unwrap();
    let values = p.get_many(&keys).unwrap();
    keys.iter().map(|key| key.as_bytes().to_vec()).zip(values).collect()
}

/// Appends, sets and deletes from several handles, so that segments interleave.
fn fill(handles: &[SegmentLog], rounds: u32) {
    let mut seed = 1_u32;
    let mut random = |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % n
    };
    for i in 0..rounds {
        let p = &handles[random(handles.len() as u32) as usize];
        let key = random(20);
        match random(12) {
            0 => p.delete([key]).unwrap(),
            1 => p.iset(key, format!("set {i} ")).unwrap(),
            2 if random(40) == 0 => p.clear().unwrap(),
            _ => {
                let value = vec![i as u8; random(700) as usize];
                p.append([(key, &value), (random(20), &value)]).unwrap();
            }
        }
    }
}

#[test]
fn a_compaction_changes_nothing_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let handles: Vec<_> = (0..3).map(|_| options().open(&path).unwrap()).collect();
    for round in 0..20 {
        fill(&handles, 500);
        let before = contents(&handles[0]);
        let report = handles[round % 3].compact().unwrap();
        assert!(report.runs == 1 && report.segments_replaced > 0, "{report:?}");
        for p in &handles {
            assert!(contents(p) == before, "round {round}");
            p.verify().unwrap();
        }
        assert!(contents(&SegmentLog::open_read_only(&path).unwrap()) == before);
    }
    let before = contents(&handles[0]);
    drop(handles);
    assert!(contents(&SegmentLog::open(&path).unwrap()) == before);
    fs::remove_file(path.join("control")).unwrap();
    assert!(contents(&SegmentLog::open(&path).unwrap()) == before, "without the control file");
}

#[test]
fn a_view_outlives_the_compaction_of_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let p = options().open(dir.path().join("store")).unwrap();
    for i in 0..200_u32 {
        p.append([("k", vec![i as u8; 1000])]).unwrap();
    }
    let view = p.view("k").unwrap();
    p.compact().unwrap();
    p.clear().unwrap();
    p.compact().unwrap();
    let expected: Vec<u8> = (0..200_u32).flat_map(|i| vec![i as u8; 1000]).collect();
    assert!(view.chunks().collect::<Vec<_>>().concat() == expected);
    assert_eq!(view.chunks().len(), 200);
    assert_eq!(p.get("k").unwrap(), b"");
}

#[test]
fn after_a_clear_a_compaction_frees_all_space_and_copies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    for i in 0..2000_u32 {
        p.append([(i % 10, vec![7; 1000])]).unwrap();
    }
    assert!(disk_bytes(&path) > 2_000_000);
    p.clear().unwrap();
    let report = p.compact().unwrap();
    assert_eq!((report.bytes_rewritten, report.deletes_kept), (0, 0), "{report:?}");
    assert!(p.stats().unwrap().segments() <= 2, "{:?}", p.stats());
    // One segment, the control file and two reserves.
    assert!(disk_bytes(&path) < 64 * 1024 * 5, "{}", disk_bytes(&path));
    p.append([("again", "x")]).unwrap();
    assert_eq!(p.get("again").unwrap(), b"x");
}

#[test]
fn a_handle_that_deletes_compacts_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().compaction_dead_share(0.5).open(&path).unwrap();
    for round in 0..5 {
        for i in 0..1000_u32 {
            p.append([(i % 10, vec![round; 1000])]).unwrap();
        }
        p.clear().unwrap();
    }
    let since = std::time::Instant::now();
    while p.stats().unwrap().compactions == 0 || disk_bytes(&path) > 1_000_000 {
        assert!(since.elapsed().as_secs() < 60, "no compaction: {:?}", p.stats());
        p.delete(["nudge"]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(p.keys().unwrap().is_empty());
}

#[test]
fn deletes_are_kept_while_older_data_exists_in_other_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let q = options().open(&path).unwrap();
    // The first handle's segment stays open, so its old bytes cannot be compacted.
    p.append([("k", "old"), ("l", "stays")]).unwrap();
    q.delete(["k"]).unwrap();
    for i in 0..100 {
        q.append([("m", vec![i; 1000])]).unwrap();
    }
    let report = q.compact().unwrap();
    assert_eq!(report.deletes_kept, 1, "{report:?}");
    for handle in [&p, &q, &SegmentLog::open_read_only(&path).unwrap()] {
        assert!(!handle.contains("k").unwrap());
        assert_eq!(handle.get("l").unwrap(), b"stays");
    }
    drop(p);
    let report = q.compact().unwrap();
    assert_eq!((report.runs, report.deletes_kept), (1, 0), "{report:?}");
    assert!(!SegmentLog::open_read_only(&path).unwrap().contains("k").unwrap());
}

#[test]
fn short_lived_writers_take_little_space_and_one_compaction_joins_their_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let count = 200;
    for i in 0..count {
        let p = SegmentLog::open(&path).unwrap();
        p.append([("k", vec![i as u8; 1024])]).unwrap();
    }
    let reserves = ["reserve", "reserve-output"].map(|name| fs::metadata(path.join(name)).unwrap());
    let reserved: u64 = reserves.iter().map(|metadata| metadata.blocks() * 512).sum();
    // The reserves are a sixteenth and a sixty-fourth of a segment, plus some slack.
    assert!(reserved <= 6 << 20, "{reserved} bytes of reserves");
    let used = disk_bytes(&path) - reserved;
    assert!(used < count * (1024 + 16 * 1024), "{used} bytes on disk");
    let p = options().open(&path).unwrap();
    assert_eq!(p.len_of("k").unwrap(), count * 1024);
    assert_eq!(p.compact().unwrap().runs, 1);
    let stats = p.stats().unwrap();
    assert_eq!((stats.segments(), stats.extents), (1, 1), "{stats:?}");
    let expected: Vec<u8> = (0..count).flat_map(|i| vec![i as u8; 1024]).collect();
    assert!(p.get("k").unwrap() == expected);
}

#[test]
fn a_segment_whose_writer_has_closed_is_compacted_on_a_quiet_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let q = options().open(&path).unwrap();
    q.append([("k", "v")]).unwrap();
    let open_and_sealed = || {
        let stats = p.stats().unwrap();
        (stats.segments_open, stats.segments_sealed)
    };
    assert_eq!(open_and_sealed(), (1, 0));
    // Closing changes neither the history nor the set of files.
    drop(q);
    assert_eq!(open_and_sealed(), (0, 1));
    let q = options().open(&path).unwrap();
    q.append([("k", "w")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"vw");
    drop(q);
    let report = p.compact().unwrap();
    assert_eq!((report.runs, report.segments_replaced), (1, 2), "{report:?}");
    assert_eq!(p.get("k").unwrap(), b"vw");
}

#[test]
fn a_compaction_makes_progress_under_pops_that_never_pause() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = options().segment_len_bytes(4 << 20);
    let handles: Vec<_> = (0..2).map(|_| options.open(&path).unwrap()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (handle, key) in [(0, "a"), (0, "b"), (1, "c"), (1, "d")] {
            let (p, done) = (&handles[handle], &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    p.append([(key, [7; 100])]).unwrap();
                    assert_eq!(p.pop([key]).unwrap(), [vec![7; 100]]);
                }
            });
        }
        let q = options.open(&path).unwrap();
        let mut runs = 0;
        for round in 0..6_u8 {
            drop(options.open(&path).map(|p| p.append([("kept", [round])])));
            runs += q.compact().unwrap().runs;
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(runs, 6);
        assert_eq!(q.get("kept").unwrap(), (0..6).collect::<Vec<u8>>());
    });
}

#[test]
fn a_damaged_head_in_an_output_fails_the_opening_for_writers_and_readers_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append([("k", "v")]).unwrap();
    drop(p);
    let p = options().open(&path).unwrap();
    assert_eq!(p.compact().unwrap().segments_replaced, 1);
    drop(p);
    // Without the control file, opening scans the segments.
    fs::remove_file(path.join("control")).unwrap();
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "seg");
    let files = || fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let output = files().find(is_segment).expect("the output");
    assert_eq!(files().filter(is_segment).count(), 1);
    let mut bytes = fs::read(&output).unwrap();
    let header = partd_format::SegmentHeader::decode(&bytes[..128], bytes.len() as u64).unwrap();
    // After the link and state words.
    let head = header.data_start as usize + 16;
    bytes[head] ^= 1;
    fs::write(&output, &bytes).unwrap();
    for opened in [options().open(&path), options().open_read_only(&path)] {
        match opened.map(drop) {
            Err(partd::Error::Damage { path, damage, .. }) => {
                assert_eq!((path, damage.offset), (output.clone(), head as u64));
            }
            opened => panic!("{opened:?}"),
        }
    }
    assert!(fs::read(&output).unwrap() == bytes, "the attempts have changed the file");
}

#[test]
fn damage_inside_or_beside_an_output_leaves_other_keys_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let beside = options().open(&path).unwrap();
    beside.append([("beside", "1")]).unwrap();
    drop(options().open(&path).map(|p| p.append([("old", "2")])));
    assert_eq!(beside.compact().unwrap().segments_replaced, 1);
    beside.append([("later", "3")]).unwrap();
    drop(beside);
    fs::remove_file(path.join("control")).unwrap();
    let around = |what: &str, expected: [&str; 3]| {
        let reading = options().open_read_only(&path);
        assert!(reading.is_err(), "{what}: the damage goes unnoticed");
        let around = options().ignore_damage(true).open_read_only(&path);
        let around = around.unwrap_or_else(|error| panic!("{what}: {error}"));
        let values = around.get_many(["old", "beside", "later"]).unwrap();
        assert_eq!(values, expected.map(|value| value.as_bytes().to_vec()), "{what}");
    };
    let segments: Vec<_> = (1..9)
        .map(|id| path.join(format!("{id:016x}.seg")))
        .filter(|segment| segment.exists())
        .collect();
    assert_eq!(segments.len(), 2);
    for (segment, expected) in segments.iter().zip([["2", "", "3"], ["", "1", "3"]]) {
        let whole = fs::read(segment).unwrap();
        let header = partd_format::SegmentHeader::decode(&whole, whole.len() as u64).unwrap();
        let mut damaged = whole.clone();
        damaged[header.data_start as usize + 16] ^= 1;
        fs::write(segment, &damaged).unwrap();
        around(&format!("the first batch of {}", segment.display()), expected);
        fs::write(segment, &whole).unwrap();
    }
    fs::remove_file(&segments[0]).unwrap();
    around("a segment that is gone", ["2", "", ""]);
}
