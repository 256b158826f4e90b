//! A segment that is published between any two steps of a handle's first discovery is found by the
//! next discovery, read, and synced; and no other process mistakes it for its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::hooked::{Hooked, has_fired, open, set, stopped};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::timeline::{Choice, Timeline};
use crate::sim::{STORE, options};
use partd::{Partd, SegmentLog};

type Log = SegmentLog<SimDisk>;
/// Writes, and returns the handle unless it was closed.
type Write = fn(Log) -> Option<Log>;

/// Longer than a segment.
const LONG: usize = 70_000;

/// Writes after which no reserved segment id is left in the control file.
const WRITES: [(&str, Write); 2] = [
    ("a batch beyond a segment", |log| {
        log.append([("w", vec![7; LONG])]).expect("the append succeeds");
        Some(log)
    }),
    ("an append and the end of its handle", |log| {
        log.append([("w", vec![7; LONG / 2])]).expect("the append succeeds");
        None
    }),
];

/// The image of a power cut that loses everything pending.
pub(crate) fn power_cut(disk: &SimDisk) -> Image {
    let records = disk.log();
    let mut timeline = Timeline::new(disk, &records, 4096, 0);
    while let Some(passed) = timeline.pass() {
        passed.expect("no violation");
    }
    let units = timeline.units();
    let names = vec![false; timeline.pending_names()].into();
    timeline.image(&units, &Choice { versions: vec![0; units.len()].into(), names })
}

/// Stops a writer after each of its operations. Resumes it during another handle's first discovery,
/// right after that has listed the directory, and passes the disk to `check`.
fn beside_a_first_look(look: fn(&SegmentLog<Hooked>), check: fn(&SimDisk, &SegmentLog<Hooked>)) {
    for (what, write) in WRITES {
        let mut published = 0;
        for at in 1.. {
            let disk = SimDisk::boot(&Image::blank(), at, None);
            let process = disk.new_process();
            let keeper = open(&disk.new_process());
            keeper.append([("o", "old")]).expect("the append succeeds");
            let hooked = Hooked::new(disk.new_process());
            let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
            let writer = open(&process);
            let (fate, thread) = stopped(&process, at, move || write(writer));
            let mut rest = Some(thread);
            if fate == Fate::Stopped {
                let (process, thread) = (process.clone(), rest.take().expect("the call succeeds"));
                set(&hooked.after_list, move || {
                    process.resume();
                    drop(thread.join().expect("the thread does not panic"));
                });
            }
            println!("{what}, operation {at}");
            look(&reader);
            check(&disk, &reader);
            assert!(has_fired(&hooked.after_list), "nothing was listed");
            if let Some(thread) = rest {
                drop(thread.join().expect("the thread does not panic"));
                break;
            }
            published += 1;
        }
        assert!(published > 5, "{what}: only {published} operations");
    }
}

#[test]
fn a_segment_published_during_a_first_discovery_is_read() {
    beside_a_first_look(
        |reader| assert_eq!(reader.get("o").expect("the read succeeds"), b"old"),
        |_, reader| {
            let len = reader.get("w").expect("the read succeeds").len();
            assert!(len == LONG || len == LONG / 2, "live is violated: {len} bytes");
        },
    );
}

#[test]
fn a_segment_published_during_a_sync_leaders_first_discovery_is_synced() {
    beside_a_first_look(
        |reader| reader.sync().expect("the sync succeeds"),
        |disk, reader| {
            reader.sync().expect("the sync succeeds");
            let after = SimDisk::boot(&power_cut(disk), 5, None);
            let len = open(&after).get("w").expect("the read succeeds").len();
            assert!(len == LONG || len == LONG / 2, "I1 is violated: {len} bytes");
        },
    );
}

#[test]
fn a_segment_published_right_after_a_sync_leader_did_not_find_its_file_is_synced() {
    for (what, write) in WRITES {
        let mut published = 0;
        for at in 1.. {
            let disk = SimDisk::boot(&Image::blank(), at, None);
            let process = disk.new_process();
            let other = open(&disk.new_process());
            let hooked = Hooked::new(disk.new_process());
            let leader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
            leader.append_durable([("o", "old")]).expect("the append succeeds");
            let writer = open(&process);
            let (fate, thread) = stopped(&process, at, move || write(writer));
            // A later segment makes the leader search for all ids up to its own.
            other.append([("o", "new")]).expect("the append succeeds");
            let mut rest = Some(thread);
            if fate == Fate::Stopped {
                let (process, thread) = (process.clone(), rest.take().expect("the call succeeds"));
                set(&hooked.after_failed_open, move || {
                    process.resume();
                    drop(thread.join().expect("the thread does not panic"));
                });
            }
            leader.sync().expect("the sync succeeds");
            let is_finished = fate == Fate::Finished;
            if is_finished || has_fired(&hooked.after_failed_open) {
                // The write is over, and only this sync can have made it durable.
                leader.sync().expect("the sync succeeds");
                let after = SimDisk::boot(&power_cut(&disk), 5, None);
                let len = open(&after).get("w").expect("the read succeeds").len();
                assert!(
                    len == LONG || len == LONG / 2,
                    "I1 is violated: {len} bytes; {what}, operation {at}"
                );
                published += u64::from(!is_finished);
            } else {
                process.resume();
            }
            if is_finished {
                break;
            }
        }
        println!("{what}: published at {published} operations");
        assert!(published >= 2, "{what}: published at only {published} operations");
    }
}

#[test]
fn an_output_published_during_a_first_discovery_is_compacted_once() {
    let mut operations = 0;
    'all: for at in 1.. {
        for then in 1.. {
            let disk = SimDisk::unlogged(&Image::blank(), at);
            let compactor = disk.new_process();
            let first = open(&compactor);
            let keeper = open(&disk.new_process());
            for value in ["1", "2"] {
                open(&disk.new_process()).append([("k", value)]).expect("the append succeeds");
            }
            let hooked = Hooked::new(disk.new_process());
            let reader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
            let (fate, thread) = stopped(&compactor, at, move || {
                let _ = catch_unwind(AssertUnwindSafe(|| first.compact().map(|_| first)));
            });
            let last = Arc::new(Mutex::new(fate));
            if fate == Fate::Stopped {
                let (process, last) = (compactor.clone(), Arc::clone(&last));
                set(&hooked.after_list, move || {
                    process.go_on_until(then);
                    *last.lock().expect("the thread does not panic") = process.wait();
                });
            }
            assert_eq!(reader.get("k").expect("the read succeeds"), b"12", "operation {at}");
            compactor.kill();
            reader.compact().expect("the compaction succeeds");
            for value in [reader.get("k"), keeper.get("k"), open(&disk.new_process()).get("k")] {
                assert_eq!(value.expect("the read succeeds"), b"12", "operations {at} and {then}");
            }
            compactor.bury();
            drop(thread.join());
            if fate == Fate::Finished {
                break 'all;
            }
            operations += 1;
            if *last.lock().expect("the thread does not panic") == Fate::Finished {
                break;
            }
        }
    }
    assert!(operations > 100, "only {operations} pairs of operations");
}

#[test]
fn a_segment_whose_id_a_dead_writer_reserved_still_belongs_to_its_owner() {
    let first_append = |log: &Log| log.append([("v", "1")]).expect("the append succeeds");
    let mut operations = 0;
    for at in 1.. {
        let disk = SimDisk::boot(&Image::blank(), at, None);
        let keeper = open(&disk.new_process());
        keeper.append([("o", "old")]).expect("the append succeeds");
        let (dead, other) = (disk.new_process(), open(&disk.new_process()));
        let victim = open(&dead);
        let (fate, thread) = stopped(&dead, at, move || {
            let append = || victim.append([("d", "dead")]).map(|()| victim);
            let _ = catch_unwind(AssertUnwindSafe(append));
        });
        // While it is stopped, another writer takes the segment id that it was about to take.
        first_append(&other);
        dead.kill();
        // A new writer takes its slot, and seals what it has left.
        let heir = open(&disk.new_process());
        heir.append([("h", "heir")]).expect("the append succeeds");
        keeper.sync().expect("the sync succeeds");
        other.append([("v", "2")]).expect("the append succeeds");
        keeper.sync().expect("the sync succeeds");
        assert_eq!(
            keeper.get("v").expect("the read succeeds"),
            b"12",
            "I1 is violated at operation {at}"
        );
        let after = SimDisk::boot(&power_cut(&disk), 5, None);
        assert_eq!(
            open(&after).get("v").expect("the read succeeds"),
            b"12",
            "I1 is violated at operation {at}"
        );
        keeper.compact().expect("the compaction succeeds");
        other.append([("v", "3")]).expect("the append succeeds");
        assert_eq!(keeper.get("v").expect("the read succeeds"), b"123", "operation {at}");
        assert_eq!(open(&disk.new_process()).get("v").expect("the read succeeds"), b"123");
        dead.bury();
        drop(thread.join());
        if fate == Fate::Finished {
            operations = at - 1;
            break;
        }
    }
    assert!(operations > 10, "only {operations} operations");
}
