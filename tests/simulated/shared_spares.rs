//! Spares belong to nobody: two handles that know the same one, of which one dies, closes, or is
//! quicker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::hooked::{Hooked, open, set, stopped};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::timeline::{Choice, Timeline};
use crate::sim::{STORE, options};
use partd::log::disk::Disk;
use partd::{Partd, SegmentLog};

/// Leaves dead segments behind, of which a handle makes spares; it knows of those that are there, too.
fn make_spares<D: Disk>(disk: &SimDisk, log: &SegmentLog<D>) {
    for value in [vec![1; 60_000], vec![2; 60_000]] {
        open(&disk.new_process()).append([("x", value)]).expect("it is appended");
    }
    open(&disk.new_process()).delete(["x"]).expect("it is deleted");
    log.compact().expect("it compacts");
    assert!(
        log.stats().expect("stats").segments_spare > 0,
        "it knows of no spare, {:?}",
        log.stats()
    );
}

/// What may be left after a power cut: of one page or length each of its versions, of all others the
/// last or none; and all changes of names or none.
fn power_cuts(disk: &SimDisk) -> Vec<Image> {
    let records = disk.log();
    let mut timeline = Timeline::new(disk, &records, 4096, 0);
    while let Some(passed) = timeline.pass() {
        passed.expect("no violation");
    }
    let units = timeline.units();
    let mut images = Vec::new();
    for all in [true, false] {
        let names: Arc<[bool]> = vec![all; timeline.pending_names()].into();
        let rest: Vec<usize> =
            units.iter().map(|unit| if all { unit.versions } else { 0 }).collect();
        for (i, unit) in units.iter().enumerate() {
            for version in 0..=unit.versions {
                let mut versions = rest.clone();
                versions[i] = version;
                let choice = Choice { versions: versions.into(), names: names.clone() };
                images.push(timeline.image(&units, &choice));
            }
        }
    }
    images
}

#[test]
fn a_spare_in_which_a_dead_writer_had_begun_is_a_spare_like_any_other() {
    let mut operations = 0;
    for at in 1.. {
        let disk = SimDisk::boot(&Image::blank(), at, None);
        let process = disk.new_process();
        let (victim, other) = (open(&process), open(&disk.new_process()));
        make_spares(&disk, &victim);
        make_spares(&disk, &other);
        let (fate, thread) = stopped(&process, at, move || {
            let append = || victim.append([("v", "victim")]).map(|()| victim);
            let _ = catch_unwind(AssertUnwindSafe(append));
        });
        process.kill();
        // It fills spares until it comes to that one.
        for i in 0..5 {
            other.append([("o", vec![i; 60_000])]).expect("it is appended");
        }
        let unsynced = power_cuts(&disk);
        other.sync().expect("it is synced");
        let synced = power_cuts(&disk);
        let images = unsynced.iter().map(|image| (image, 0));
        for (image, durable) in images.chain(synced.iter().map(|image| (image, 300_000))) {
            let log = options().open_on(SimDisk::boot(image, 7, None), STORE);
            let log =
                log.unwrap_or_else(|error| panic!("I1 is violated at operation {at}: {error}"));
            let len = log.get("o").expect("it is read").len();
            assert!(len >= durable && len.is_multiple_of(60_000), "operation {at}: {len} bytes");
        }
        process.bury();
        drop(thread.join());
        if fate == Fate::Finished {
            operations = at - 1;
            break;
        }
    }
    assert!(operations > 10, "only {operations} operations");
}

#[test]
fn a_spare_that_another_removes_while_it_is_taken_fails_no_append() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let hooked = Hooked::new(disk.new_process());
    let log = options().open_on(hooked.clone(), STORE).expect("it opens");
    let other = Mutex::new(Some(open(&disk.new_process())));
    make_spares(&disk, &log);
    make_spares(&disk, other.lock().expect("no panic").as_ref().expect("it is there"));
    // It closes, and takes the spares with it that it knows.
    set(&hooked.before_rename, move || drop(other.lock().expect("no panic").take()));
    log.append([("k", "v")]).expect("it is appended");
    assert!(hooked.before_rename.lock().expect("no panic").is_none(), "nothing was renamed");
    assert_eq!(open(&disk.new_process()).get("k").expect("it is read"), b"v");
}
