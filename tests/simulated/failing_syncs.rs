//! A failed sync promises nothing: of a segment that could not be opened, of a writeback that
//! failed earlier, or of a leader that was superseded meanwhile.

use std::path::Path;

use crate::failing_calls::{Before, Store, World, append, store};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::faults::Call;
use crate::sim::image::Image;
use crate::sim::oracle::batch;
use crate::sim::{STORE, options};
use partd::{Batch, Buffer, Dict, Durability, Error, Partd};

#[test]
fn a_segment_that_failed_to_open_when_published_is_synced_by_the_next_sync() {
    let mut faults = 0;
    for at in 1.. {
        let Store { mut world, mine, other } = store(Before::Writes);
        let (maker, log) = {
            let disk = world.disk.new_process();
            let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
            (disk, log)
        };
        mine.1.sync().expect("the disk has no faults");
        // Its first append creates a segment, and is stopped during that.
        let ops = vec![append("late", 100)];
        maker.begin(Some(world.batches.len()));
        world.batches.push(ops.clone());
        maker.stop_at(at);
        let appending = maker.clone();
        let thread = std::thread::spawn(move || {
            log.write(&batch(&ops), Durability::Plain).expect("the disk has no faults");
            appending.finished();
            log
        });
        let is_stopped = maker.wait() == Fate::Stopped;
        // Another segment appears, which starts a discovery; the late one may not exist yet.
        world
            .write(&other.0, &other.1, vec![append("c", 70_000)], false)
            .expect("the disk has no faults yet");
        world
            .write(&mine.0, &mine.1, vec![append("mine", 5)], true)
            .expect("the disk has no faults yet");
        maker.resume();
        drop(thread.join().expect("the append succeeds"));
        if !is_stopped {
            break;
        }
        mine.0.fail_first(Call::Open, libc::EIO);
        let failed = world.call(&mine.0, None, true, || mine.1.sync());
        if !mine.0.watched().contains(&Call::Open) {
            // The late segment was already open.
            continue;
        }
        failed.expect_err("the file could not be opened");
        faults += 1;
        world.call(&mine.0, None, true, || mine.1.sync()).expect("now it can be");
        let now = world.disk.log_len();
        world.cut_power(&[now], at).unwrap_or_else(|why| panic!("stopped at {at}: {why}"));
        drop(other);
    }
    assert!(faults > 5, "only {faults} syncs met a segment that they could not open");
}

#[test]
fn a_full_segment_whose_writeback_failed_is_not_reported_durable() {
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let mut world = World::on(disk.clone());
    let writer = disk.new_process();
    let log = options().open_on(writer.clone(), STORE).expect("the disk has no faults");
    for _ in 0..3 {
        world
            .write(&writer, &log, vec![append("a", 40_000)], false)
            .expect("the disk has no faults yet");
    }
    let first = Path::new(STORE).join("0000000000000001.seg");
    disk.fail_writeback(&first);
    let syncer = disk.new_process();
    let other = options().open_on(syncer.clone(), STORE).expect("the disk has no faults yet");
    let failed = other.sync().expect_err("the first segment is lost").to_string();
    assert!(failed.contains("0000000000000001.seg"), "{failed}");
    assert!(matches!(log.sync(), Err(Error::SyncFailed { .. })));
    world.cut_power(&[world.disk.log_len()], 1).expect("nothing was promised");
    // Once they are synced, full segments are closed.
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults");
    for _ in 0..4 {
        log.append([("a", [7; 40_000])]).expect("the disk has no faults");
        log.sync().expect("the disk has no faults");
    }
    log.append([("a", [7; 40_000])]).expect("the disk has no faults");
    assert!(!disk.is_open(&first), "a segment that is synced stays open");
}

#[test]
fn batches_durable_before_a_failed_sync_are_still_reported_as_durable() {
    let disk = SimDisk::boot(&Image::blank(), 3, None);
    let log = options().open_on(disk.clone(), STORE).expect("the disk has no faults yet");
    let append = |durability| log.commit(Batch::new().append("a", b"1"), durability);
    let first = append(Durability::Durable).expect("the disk has no faults yet");
    let last = append(Durability::Plain).expect("the disk has no faults yet");
    disk.fail_first(Call::Sync, libc::EIO);
    log.sync().expect_err("the sync failed");
    log.sync_to(first).expect("it is on stable storage since before the failure");
    assert!(matches!(log.sync_to(last), Err(Error::SyncFailed { .. })));
}

#[test]
fn a_superseded_sync_leader_promises_nothing_after_a_failed_sync() {
    // Side by side, since each leader is superseded after half a second.
    std::thread::scope(|scope| {
        for call in [Call::Sync, Call::SyncDir] {
            scope.spawn(move || supersede_leader_and_fail(call));
        }
    });
}

/// Stops a leader at each of its operations, and lets `call` fail for the process that supersedes it.
fn supersede_leader_and_fail(call: Call) {
    let mut failures = 0;
    for at in 1.. {
        let Store { mine: (disk, log), other: (passer, other), .. } = store(Before::Writes);
        // It is stopped during its sync and superseded after a while.
        disk.stop_at(at);
        let syncing = disk.clone();
        let thread = std::thread::spawn(move || {
            let synced = log.sync();
            syncing.finished();
            synced
        });
        let is_stopped = disk.wait() == Fate::Stopped;
        passer.fail_first(call, libc::EIO);
        let failed = other.sync();
        disk.resume();
        let synced = thread.join().expect("it returns");
        if !is_stopped {
            break;
        }
        let Err(failed) = failed else {
            synced.expect("the durable sequence number advanced without a failure");
            continue;
        };
        failures += 1;
        let why = format!("stopped at {at}, superseded by one whose {call:?} failed: {failed}");
        assert!(synced.is_err(), "I1 is violated: {why}; but a sync succeeded");
        assert!(matches!(other.sync(), Err(Error::SyncFailed { .. })), "{why}");
        // A layer must not write anything that it could not make durable either.
        let before = other.len_of("a").expect("reads continue");
        let buffer = Buffer::new(Dict::new(), other, 1 << 20);
        let appended = buffer.append_durable([("a", "again")]);
        assert!(matches!(appended, Err(Error::SyncFailed { .. })), "{why}: {appended:?}");
        assert_eq!(buffer.len_of("a").expect("reads continue"), before);
        buffer.append([("a", "plain")]).expect("plain appends continue");
    }
    assert!(failures > 1, "{failures} times {call:?} failed");
}
