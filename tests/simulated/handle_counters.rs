//! The counters of a handle: each counts the work of that handle, and reading them costs no work.

use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{Batch, Counters, Durability, Options, Partd, SegmentLog};

type Log = SegmentLog<SimDisk>;

fn open(disk: &SimDisk, options: &Options) -> Log {
    options.open_on(disk.clone(), STORE).expect("the open succeeds")
}

#[test]
fn writes_reads_and_syncs_are_counted_for_the_handle_that_does_them() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let p = open(&disk.new_process(), &options());
    let q = open(&disk.new_process(), &options());
    assert_eq!(p.counters(), Counters::default());
    p.append([("a", "12"), ("b", "345")]).expect("the append succeeds");
    p.write(Batch::new().set("c", b"6").delete("b"), Durability::Durable).expect("it succeeds");
    p.sync().expect("the sync succeeds");
    let counters = p.counters();
    assert_eq!((counters.batches_written, counters.entries_written), (2, 4));
    assert_eq!(
        (counters.bytes_written, counters.syncs),
        (6, 1),
        "the second sync had nothing to do"
    );
    assert_eq!(
        (counters.reads, counters.index_rebuilds),
        (0, 0),
        "a handle that writes reads nothing"
    );
    assert_eq!(q.counters(), Counters::default());

    assert_eq!(
        q.get_many(["a", "c", "missing"]).expect("the read succeeds"),
        [&b"12"[..], b"6", b""]
    );
    assert_eq!(q.view("a").expect("the view opens").len(), 2);
    assert_eq!(q.pop(["a"]).expect("the pop succeeds"), [b"12"]);
    q.visit(&["c".into()], &mut |_| Ok(())).expect("the visit succeeds");
    let counters = q.counters();
    assert_eq!((counters.reads, counters.bytes_read), (4, 3 + 2 + 2 + 1));
    assert_eq!((counters.batches_written, counters.bytes_written), (1, 0), "the delete of the pop");
    assert_eq!((p.counters().reads, p.counters().batches_written), (0, 2));
}

#[test]
fn a_read_with_an_up_to_date_index_counts_no_refresh() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (p, q) = (open(&disk.new_process(), &options()), open(&disk.new_process(), &options()));
    let index = |q: &Log| (q.counters().index_rebuilds, q.counters().index_refreshes);
    let get = |q: &Log| drop(q.get("k").expect("the read succeeds"));
    p.append([("k", "v")]).expect("the append succeeds");
    get(&q);
    assert_eq!(index(&q), (1, 0), "the first read builds the index");
    get(&q);
    assert_eq!(index(&q), (1, 0));
    p.append([("k", "v")]).expect("the append succeeds");
    get(&q);
    get(&q);
    assert_eq!(index(&q), (1, 1));
    assert_eq!(q.compact().expect("it succeeds").runs, 0, "no segment is sealed");
    assert_eq!(index(&q), (1, 1), "a compaction that finds nothing to do found nothing new");
    // A compaction replaces the segments that the index refers to.
    drop(p);
    let report = open(&disk.new_process(), &options()).compact().expect("it succeeds");
    assert_eq!(report.runs, 1);
    get(&q);
    assert_eq!(q.counters().index_rebuilds, 2);
}

#[test]
fn compactions_and_the_bytes_that_they_reclaim_are_counted() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    for i in 0..8_u64 {
        open(&disk.new_process(), &options()).append([(i, vec![7; 20_000])]).expect("it succeeds");
    }
    let p = open(&disk.new_process(), &options());
    p.delete(1_u64..8).expect("the delete succeeds");
    let report = p.compact().expect("the compaction succeeds");
    let counters = p.counters();
    assert!(report.runs > 0 && report.bytes_freed > 7 * 20_000, "{report:?}");
    assert_eq!((counters.compactions, counters.bytes_reclaimed), (report.runs, report.bytes_freed));
    assert_eq!(p.stats().expect("the count succeeds").counters.compactions, report.runs);
}

#[test]
fn the_last_background_error_is_kept_with_its_time_and_counting_goes_on() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let process = disk.new_process();
    let p = open(&process, &options().compaction_dead_share(0.1));
    for i in 0..20_u64 {
        p.append([(i, vec![7; 40_000])]).expect("the append succeeds");
    }
    process.fail_for_good(0, libc::EIO);
    let since = Instant::now();
    while p.counters().background_errors == 0 {
        assert!(since.elapsed().as_secs() < 60, "no background error within a minute");
        // Deletes need no fallible call until their segment is full.
        let _ = p.delete(0_u64..20);
        std::thread::sleep(Duration::from_millis(10));
    }
    let last = p.counters().last_background_error.expect("an error was counted");
    assert_eq!(last.task, "compaction");
    assert!(last.message.contains(STORE), "{}", last.message);
    assert!(last.at >= UNIX_EPOCH);
    process.watched();
}
