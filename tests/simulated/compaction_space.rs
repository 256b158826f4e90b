//! Compaction frees space whatever the disk and the sizes are: deletes are dropped once they are no
//! longer needed, no segment is skipped for ever, and a full disk can be emptied.

use std::io::ErrorKind;

use crate::hooked::{Hooked, set};
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::log::fs::{Access, Dir, Disk, DiskFile};
use partd::{Error, Options, Partd, SegmentLog};

fn blank() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 1)
}

fn open(disk: &SimDisk, options: &Options) -> SegmentLog<SimDisk> {
    options.open_on(disk.new_process(), STORE).expect("the open succeeds")
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull)
}

/// Appends until the disk is full; returns the number of successful appends.
fn fill_up(p: &SegmentLog<SimDisk>, key: impl Fn(u64) -> u64, len: usize) -> u64 {
    (0..)
        .find(|&i| match p.append([(key(i), vec![i as u8; len])]) {
            Ok(()) => false,
            Err(error) if is_full(&error) => true,
            Err(error) => panic!("{error}"),
        })
        .expect("a full disk")
}

#[test]
fn the_segment_of_a_killed_writer_is_compacted_on_a_quiet_store() {
    let disk = blank();
    let p = open(&disk, &options());
    let process = disk.new_process();
    let q = options().open_on(process.clone(), STORE).expect("the open succeeds");
    q.append([("k", "v")]).expect("the append succeeds");
    assert_eq!(p.get("k").expect("the read succeeds"), b"v");
    process.kill();
    std::mem::forget(q);
    let report = p.compact().expect("the compaction succeeds");
    assert_eq!((report.runs, report.segments_replaced), (1, 1), "{report:?}");
    assert_eq!(p.stats().expect("the count succeeds").segments_open, 0);
    assert_eq!(p.get("k").expect("the read succeeds"), b"v");
}

#[test]
fn deletes_are_dropped_once_no_deleted_data_is_left() {
    let disk = blank();
    let options = options().compaction_run_bytes(200_000);
    let p = open(&disk, &options);
    for i in 0..300_u64 {
        open(&disk, &options).append([(i, vec![i as u8; 1000])]).expect("the append succeeds");
    }
    p.compact().expect("the compaction succeeds");
    // Many keys come and go beside outputs that are too large to be joined.
    for round in 0..5_u64 {
        let q = open(&disk, &options);
        for i in 0..100 {
            q.append([(1000 + i, [7; 100])]).expect("the append succeeds");
        }
        q.delete(1000..1100_u64).expect("the deletes succeed");
        if round == 2 {
            // This delete applies to data in an output, and is needed until the output is
            // rewritten.
            q.delete([17_u64]).expect("the delete succeeds");
        }
        drop(q);
        let report = p.compact().expect("the compaction succeeds");
        let stats = p.stats().expect("the count succeeds");
        assert!(report.runs > 0 && stats.removals <= 1, "round {round}: {report:?}, {stats:?}");
        assert_eq!(stats.keys, 300 - u64::from(round >= 2));
    }
    let fresh = open(&disk, &options);
    assert!(!fresh.contains(17_u64).expect("the lookup succeeds"));
    assert_eq!(fresh.get(18_u64).expect("the read succeeds"), vec![18; 1000]);
}

#[test]
fn a_clear_is_kept_while_older_data_exists_elsewhere_and_dropped_with_it() {
    let disk = blank();
    let (p, q) = (open(&disk, &options()), open(&disk, &options()));
    p.append([("k", "old")]).expect("the append succeeds");
    q.append([("l", "old")]).expect("the append succeeds");
    q.clear().expect("the clear succeeds");
    q.append([("l", "new")]).expect("the append succeeds");
    drop(q);
    let q = open(&disk, &options());
    assert_eq!(
        q.compact().expect("the compaction succeeds").deletes_kept,
        1,
        "for the key in an open segment"
    );
    assert!(!open(&disk, &options()).contains("k").expect("the lookup succeeds"));
    drop(p);
    assert_eq!(q.compact().expect("the compaction succeeds").deletes_kept, 0);
    let fresh = open(&disk, &options());
    assert!(!fresh.contains("k").expect("the lookup succeeds"));
    assert_eq!(fresh.get("l").expect("the read succeeds"), b"new");
}

#[test]
fn an_output_without_dead_bytes_does_not_hide_the_segments_after_it() {
    let disk = blank();
    let options = options().compaction_run_bytes(64 << 10);
    let p = open(&disk, &options);
    open(&disk, &options).append([("a", vec![1; 20_000])]).expect("the append succeeds");
    assert_eq!(p.compact().expect("the compaction succeeds").runs, 1);
    for _ in 0..3 {
        let q = open(&disk, &options);
        for i in 0..50_u8 {
            q.append([("b", vec![i; 1000])]).expect("the append succeeds");
        }
    }
    let report = p.compact().expect("the compaction succeeds");
    assert_eq!((report.runs, report.segments_replaced), (3, 3), "{report:?}");
    assert_eq!(p.stats().expect("the count succeeds").extents, 4);
    let report = p.compact().expect("the compaction succeeds");
    assert_eq!(report.runs, 0, "nothing is left to do: {report:?}");
}

#[test]
fn on_a_full_disk_a_clear_and_a_compaction_free_all_space() {
    let disk = blank();
    let options = options().segment_len_bytes(1 << 20);
    let p = open(&disk, &options);
    // Six segments, and the reserves.
    disk.limit(7 << 20);
    let first = fill_up(&p, |i| i % 10, 5000);
    p.clear().expect("the clear succeeds");
    disk.limit(0);
    let report = p.compact().expect("the compaction succeeds");
    assert!(report.segments_replaced >= 5, "{report:?}");
    assert_eq!(p.keys().expect("the read succeeds"), []);
    let second = fill_up(&p, |i| i % 10, 5000);
    // Everything but the reserves, which are allocated again, and the rounding to whole segments.
    assert!(second >= first * 3 / 5, "{second} after {first}");
    assert!(!disk.died_of_sigbus());
    assert_eq!(
        p.len_of(3_u64).expect("the read succeeds"),
        (0..second).filter(|i| i % 10 == 3).count() as u64 * 5000
    );
}

#[test]
fn on_a_full_disk_a_compaction_starts_with_segments_that_free_more_than_they_need() {
    let disk = blank();
    let options = options().segment_len_bytes(1 << 20);
    let p = open(&disk, &options);
    disk.limit(8 << 20);
    // Each segment has other keys, so that some segments are dead and some half live.
    let count = fill_up(&p, |i| i / 50, 5000);
    let keys = count.div_ceil(50);
    p.delete((0..keys).filter(|key| key % 4 != 0)).expect("the deletes succeed");
    let live = p.stats().expect("the count succeeds").live_bytes;
    disk.limit(300 << 10);
    let report = p.compact().expect("the compaction succeeds");
    assert!(report.runs > 1 && report.bytes_freed > 3 << 20, "{report:?}");
    assert_eq!(p.stats().expect("the count succeeds").live_bytes, live);
    let value = |key: u64| {
        (0..count)
            .filter(move |i| i / 50 == key && key.is_multiple_of(4))
            .flat_map(|i| vec![i as u8; 5000])
    };
    for key in 0..keys {
        assert!(value(key).eq(p.get(key).expect("the read succeeds")), "key {key}");
    }
}

#[test]
fn a_compaction_stopped_by_a_full_disk_leaves_the_store_unchanged() {
    let disk = blank();
    let options = options().segment_len_bytes(1 << 20);
    let p = open(&disk, &options);
    for i in 0..500_u64 {
        p.append([(i % 7, vec![i as u8; 5000])]).expect("the append succeeds");
    }
    let before = p.stats().expect("the count succeeds");
    disk.limit(0);
    for _ in 0..3 {
        let error = p.compact().expect_err("all of it is alive and nothing fits");
        assert!(is_full(&error), "{error}");
    }
    let after = p.stats().expect("the count succeeds");
    assert_eq!((after.live_bytes, after.segments()), (before.live_bytes, before.segments()));
    p.append([("more", "x")]).expect("there is room in the segment");
    p.delete([3_u64]).expect("the delete succeeds");
    disk.limit(64 << 20);
    assert!(p.compact().expect("the compaction succeeds").runs > 0);
    assert_eq!(p.get("more").expect("the read succeeds"), b"x");
    assert_eq!(p.len_of(2_u64).expect("the read succeeds"), before.live_bytes / 500 * 72);
}

#[test]
fn damage_from_a_power_cut_beside_the_inputs_stops_no_compaction() {
    let disk = blank();
    let (p, q) = (open(&disk, &options()), open(&disk, &options()));
    p.append([("k", "v")]).expect("the append succeeds");
    // After the last batch of a segment, half a word.
    let dir = disk.open_dir(std::path::Path::new(STORE)).expect("the open succeeds");
    let file = dir.open("0000000000000001.seg", Access::Write).expect("the open succeeds");
    let mut at = 256;
    let order = std::sync::atomic::Ordering::Relaxed;
    let mut bytes = vec![0; 256];
    file.mapping().copy_out(0, &mut bytes);
    let len = file.mapping().len();
    let header = partd_format::SegmentHeader::decode(&bytes, len).expect("it is one");
    while let Ok(partd_format::Link::Batch(len)) =
        partd_format::Link::decode(header.salt, at, file.mapping().load(at, order), len)
    {
        at += len;
    }
    file.mapping().store(at, 0xDEAD_0000, order);
    file.stored(at, 8);
    q.append([("k", "w"), ("gone", "x")]).expect("the append succeeds");
    q.delete(["gone"]).expect("the delete succeeds");
    drop(q);
    let r = open(&disk, &options());
    let report = r.compact().expect("the compaction succeeds");
    assert_eq!((report.runs, report.segments_replaced, report.deletes_kept), (1, 1, 0));
    assert_eq!(open(&disk, &options()).get("k").expect("the read succeeds"), b"vw");
}

#[test]
fn a_disk_that_is_full_right_after_an_output_is_published_loses_none_of_its_inputs() {
    let disk = blank();
    for key in 0..4_u8 {
        let segment = open(&disk, &options());
        segment.append([(u32::from(key), vec![key; 10_000])]).expect("there is space");
        segment.append([("dead", vec![0; 30_000])]).expect("there is space");
    }
    let process = disk.new_process();
    let hooked = Hooked::new(process.clone());
    let p = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    p.delete(["dead"]).expect("there is space");
    set(&hooked.before_rename, move || process.fail_next_reserve());
    let error = p.compact().expect_err("the control file has no space");
    assert!(is_full(&error), "{error}");
    for compactions in 0..3 {
        let reopened = open(&disk, &options());
        for key in 0..4_u8 {
            for value in [p.get(u32::from(key)), reopened.get(u32::from(key))] {
                let value = value.expect("the read succeeds");
                assert_eq!(value.len(), 10_000, "key {key} after {compactions} more compactions");
            }
        }
        p.compact().expect("there is space again");
        p.append([("dead", vec![0; 30_000])]).expect("there is space");
        p.delete(["dead"]).expect("there is space");
    }
}
