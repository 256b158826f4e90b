//! A read beside busy writers ends, with the value or with an error; and the work of an idle handle
//! does not grow with the number of segments that came and went.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::hooked::{Hook, Hooked, open, set};
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{Error, Partd, SegmentLog};

/// More than half a segment: each append starts a new one.
const LONG: usize = 40_000;

/// Runs an event every time.
fn always(hook: &Hook, happens: Arc<dyn Fn() + Send + Sync>) {
    let again = Arc::clone(hook);
    set(hook, move || {
        happens();
        always(&again, Arc::clone(&happens));
    });
}

/// A store of ten segments; a handle that creates another whenever the reader opens or lists; the
/// reader; and a counter of the segments created.
fn busy(disk: &SimDisk) -> (SegmentLog<Hooked>, Arc<AtomicU32>) {
    let writer = open(&disk.new_process());
    for i in 0..10_u64 {
        writer.append([(i, [i as u8; LONG])]).expect("the append succeeds");
    }
    let hooked = Hooked::new(disk.new_process());
    let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    let made = Arc::new(AtomicU32::new(0));
    let (counted, writer) = (Arc::clone(&made), Mutex::new(writer));
    let make = Arc::new(move || {
        let writer = writer.lock().expect("the thread does not panic");
        if counted.fetch_add(1, Relaxed) < 10_000 {
            writer.append([("w", [7; LONG])]).expect("the append succeeds");
        }
    });
    always(&hooked.before_open, make.clone());
    always(&hooked.after_list, make);
    (reader, made)
}

#[test]
fn a_read_without_one_segment_is_an_error_although_others_create_segments() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (reader, made) = busy(&disk);
    disk.remove_name(&Path::new(STORE).join("0000000000000003.seg")).expect("it is there");
    let error = reader.get(0_u64).expect_err("a segment is missing");
    assert!(matches!(error, Error::Missing { first: 3, last: 3, .. }), "{error}");
    let made = made.load(Relaxed);
    println!("{made} segments were made meanwhile");
    let is_bounded = (10..200).contains(&made);
    assert!(is_bounded, "live is violated: {made} segments were made meanwhile");
}

#[test]
fn a_read_returns_beside_writers_that_constantly_create_segments() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (reader, made) = busy(&disk);
    for i in 0..10_u64 {
        assert!(reader.get(i).expect("the read succeeds") == [i as u8; LONG]);
        assert!(reader.len_of("w").expect("the read succeeds").is_multiple_of(LONG as u64));
    }
    let made = made.load(Relaxed);
    println!("{made} segments were made meanwhile");
    assert!((10..2000).contains(&made), "{made} segments were made meanwhile");
}

#[test]
fn a_read_beside_compactions_that_never_pause_returns_or_reports_it() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let writer = Mutex::new(open(&disk.new_process()));
    writer
        .lock()
        .expect("the thread does not panic")
        .append([("k", "v")])
        .expect("the append succeeds");
    let hooked = Hooked::new(disk.new_process());
    let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    let compactions = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&compactions);
    let compact = Arc::new(move || {
        if counted.fetch_add(1, Relaxed) < 2000 {
            let writer = writer.lock().expect("the thread does not panic");
            for _ in 0..2 {
                writer.append([("w", [7; LONG])]).expect("the append succeeds");
            }
            assert!(writer.compact().expect("the compaction succeeds").runs > 0);
        }
    });
    always(&hooked.after_list, compact);
    match reader.get("k") {
        Ok(value) => assert_eq!(value, b"v"),
        Err(Error::Refused { why, .. }) => assert!(why.contains("compact"), "{why}"),
        Err(error) => panic!("{error}"),
    }
    let compactions = compactions.load(Relaxed);
    println!("{compactions} compactions");
    assert!((1..100).contains(&compactions), "{compactions} compactions");
}

#[test]
fn an_idle_handle_lists_the_directory_instead_of_trying_segments_that_are_gone() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (idle, busy) = (open(&disk.new_process()), open(&disk.new_process()));
    idle.append([("k", "v")]).expect("the append succeeds");
    idle.sync().expect("the sync succeeds");
    assert_eq!(idle.get("k").expect("the read succeeds"), b"v");
    for _ in 0..20 {
        for _ in 0..50 {
            busy.append([("w", [7; LONG])]).expect("the append succeeds");
        }
        busy.delete(["w"]).expect("the delete succeeds");
        assert!(busy.compact().expect("the compaction succeeds").runs > 0);
    }
    busy.append([("k", "w")]).expect("the append succeeds");
    let counts = || {
        let counts = disk.counts();
        (counts.opens.load(Relaxed), counts.lists.load(Relaxed))
    };
    for (what, call) in [
        (
            "a read",
            Box::new(|| assert_eq!(idle.get("k").expect("the read succeeds"), b"vw"))
                as Box<dyn Fn()>,
        ),
        ("a sync", Box::new(|| idle.sync().expect("the sync succeeds"))),
    ] {
        let before = counts();
        call();
        let after = counts();
        let (opens, lists) = (after.0 - before.0, after.1 - before.1);
        println!("{what}: {opens} files opened, {lists} lists");
        assert!(opens < 30 && lists <= 2, "{what}: {opens} files opened, {lists} lists");
    }
}

#[test]
fn a_read_applies_no_entry_of_a_new_output_before_a_batch_with_a_lower_number() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (a, b) = (open(&disk.new_process()), open(&disk.new_process()));
    a.append([("k", "old")]).expect("the append succeeds");
    b.append([("w", [7; LONG])]).expect("the append succeeds");
    let hooked = Hooked::new(disk.new_process());
    let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    // Between the reader's load of the commit word and its listing: a delete in a segment that is
    // still open, then an append that a compaction moves into an output.
    set(&hooked.before_list, move || {
        a.delete(["k"]).expect("the delete succeeds");
        for key in ["k", "w"] {
            b.append([(key, [8; LONG])]).expect("the append succeeds");
        }
        assert_eq!(b.compact().expect("the compaction succeeds").segments_replaced, 2);
        // Keep both segments open.
        std::mem::forget((a, b));
    });
    for _ in 0..2 {
        let value = reader.get("k").expect("the read succeeds");
        assert!(value == [8; LONG], "the value has {} bytes", value.len());
    }
}
