//! A compaction requests writeback of its output as it copies, so that its sync has little left to
//! wait for.

use partd_testkit::sim::disk::lock;

use crate::sim::STORE;
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use partd::{Options, Partd, SegmentLog};

/// Writeback is requested once this much is waiting; a group of values or a short batch may come on
/// top.
const STEP_BYTES: u64 = 4 << 20;
const EXCESS_BYTES: u64 = 1 << 20;

fn options() -> Options {
    Options::default()
        .segment_len_bytes(8 << 20)
        .compaction_dead_share(None)
        .write_back_after_bytes(None)
}

fn blank() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 1)
}

/// Two keys of 20 MiB, which need two batches in an output, beside as many dead bytes.
fn write_long_values(log: &SegmentLog<SimDisk>) {
    for i in 0..20_u8 {
        let value = vec![i; 1 << 20];
        let dead = ("dead", &value);
        log.append([("a", &value), ("b", &value), dead]).expect("the append succeeds");
    }
    log.delete(["dead"]).expect("the delete succeeds");
}

/// Compacts, and checks that the requests cover all of the output but its last step, one after
/// another, and each only what was stored by then.
fn check_requests(disk: &SimDisk, log: &SegmentLog<SimDisk>) {
    assert!(lock(&disk.counts().write_backs).is_empty(), "appends request nothing");
    let report = log.compact().expect("the compaction succeeds");
    assert_eq!(report.runs, 1, "{report:?}");
    let mut end = 0;
    for (range, stored_end) in &*lock(&disk.counts().write_backs) {
        assert_eq!(range.start, end, "a gap or an overlap");
        let len = range.end - range.start;
        assert!((STEP_BYTES - 4096..STEP_BYTES + EXCESS_BYTES).contains(&len), "{len} bytes");
        assert!(range.end <= *stored_end, "{} of {stored_end} stored bytes", range.end);
        end = range.end;
    }
    let written = report.bytes_rewritten;
    assert!(end + STEP_BYTES + EXCESS_BYTES > written, "{end} of {written} bytes and more");
}

#[test]
fn a_compaction_requests_writeback_of_long_values_step_by_step() {
    let disk = blank();
    let log = options().open_on(disk.new_process(), STORE).expect("the open succeeds");
    write_long_values(&log);
    check_requests(&disk, &log);
    assert_eq!(log.get("b").expect("the read succeeds").len(), 20 << 20);
}

#[test]
fn a_compaction_requests_writeback_of_short_values_batch_by_batch() {
    let disk = blank();
    let log = options().open_on(disk.new_process(), STORE).expect("the open succeeds");
    for first in (0..240_000_u64).step_by(8_000) {
        let values = (first..first + 8_000).map(|key| (key, [7; 40]));
        log.append(values).expect("the append succeeds");
    }
    log.delete((0..240_000_u64).step_by(2)).expect("the delete succeeds");
    check_requests(&disk, &log);
    assert!(!lock(&disk.counts().write_backs).is_empty());
    assert_eq!(log.get(1_u64).expect("the read succeeds"), [7; 40]);
}

#[test]
fn a_compaction_of_a_temporary_store_requests_no_writeback() {
    let disk = blank();
    let log = options().temporary_in_on(disk.new_process(), "/").expect("the open succeeds");
    write_long_values(&log);
    assert_eq!(log.compact().expect("the compaction succeeds").runs, 1);
    assert!(lock(&disk.counts().write_backs).is_empty());
}
