//! Handles that use segments while a compaction of another process replaces them: a sync succeeds,
//! files can still be lent, and no file of another store is removed with them. The compaction may
//! be killed at any operation and finished by a third process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::hooked::{Hooked, has_fired, open, set, set_at, stopped};
use crate::lent_files::read_extents;
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::{Partd, SegmentLog};

/// A handle that has synced two segments, to which batches have been appended since; their writers
/// are closed, so that a compaction can replace them. The history of `k` is `1234`.
fn leader_of_two_segments(disk: &SimDisk) -> (Hooked, SegmentLog<Hooked>) {
    let hooked = Hooked::new(disk.new_process());
    let leader = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    let writers = [open(&disk.new_process()), open(&disk.new_process())];
    for (writer, piece) in writers.iter().zip(["1", "2"]) {
        writer.append([("k", piece)]).expect("the append succeeds");
    }
    writers[0].sync().expect("the sync succeeds");
    // The leader finds the two segments synced, and does not open them to sync them.
    leader.append_durable([("own", "o")]).expect("the append succeeds");
    for (writer, piece) in writers.iter().zip(["3", "4"]) {
        writer.append([("k", piece)]).expect("the append succeeds");
    }
    assert_eq!(leader.get("k").expect("the read succeeds"), b"1234");
    (hooked, leader)
}

#[test]
fn a_sync_succeeds_although_a_compaction_replaces_a_segment_right_before_it_is_synced() {
    for moment in [|it: &Hooked| it.before_id_of.clone(), |it: &Hooked| it.before_open.clone()] {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let (hooked, leader) = leader_of_two_segments(&disk);
        let compactor = open(&disk.new_process());
        let hook = moment(&hooked);
        set(&hook, move || {
            let report = compactor.compact().expect("the compaction succeeds");
            assert_eq!((report.runs, report.segments_replaced), (1, 2));
        });
        leader.sync().unwrap_or_else(|error| panic!("live is violated: {error}"));
        assert!(has_fired(&hook), "the sync did not reach the segment");
        assert_eq!(leader.get("k").expect("the read succeeds"), b"1234");
    }
}

/// Stops a compaction of another process after its operation `at`, and kills it.
fn killed_compaction(disk: &SimDisk, at: u64, then: impl FnOnce()) -> Fate {
    let dead = disk.new_process();
    let victim = open(&dead);
    let (fate, thread) = stopped(&dead, at, move || {
        let _ = catch_unwind(AssertUnwindSafe(|| victim.compact().map(|_| victim)));
    });
    dead.kill();
    then();
    dead.bury();
    drop(thread.join());
    fate
}

#[test]
fn a_handle_syncs_and_lends_files_after_another_process_finished_a_killed_compaction() {
    let mut operations = 0;
    for at in 1.. {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let (_, user) = leader_of_two_segments(&disk);
        let fate = killed_compaction(&disk, at, || {
            open(&disk.new_process()).compact().expect("the compaction succeeds");
            let used = user.extents("k").and_then(|before| {
                user.sync()?;
                user.append_durable([("k", "5")])?;
                user.compact()?;
                Ok([before, user.extents("k")?])
            });
            match used {
                Ok(used) => assert_eq!(used.map(|it| read_extents(&it)), [&b"1234"[..], b"12345"]),
                Err(error) => panic!("live is violated: {error}; operation {at}"),
            }
        });
        if fate == Fate::Finished {
            break;
        }
        operations = at;
    }
    assert!(operations > 10, "only {operations} operations");
}

#[test]
fn a_file_of_another_store_in_place_of_an_input_survives_when_a_killed_compaction_is_finished() {
    let (input, theirs) =
        (Path::new(STORE).join("0000000000000001.seg"), Path::new("/other/0000000000000001.seg"));
    let mut moments = 0;
    for at in 1.. {
        for open_at in 1.. {
            let disk = SimDisk::unlogged(&Image::blank(), 1);
            let other = options().open_on(disk.new_process(), "/other").expect("the open succeeds");
            other.append([("o", "theirs")]).expect("the append succeeds");
            for piece in ["1", "2"] {
                open(&disk.new_process()).append([("k", piece)]).expect("the append succeeds");
            }
            let hooked = Hooked::new(disk.new_process());
            let heir = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
            let mut has_fired_yet = false;
            let fate = killed_compaction(&disk, at, || {
                let names = disk.names_in(Path::new(STORE));
                let segments = names.iter().filter(|name| name.extension().is_some()).count();
                if segments < 3 {
                    // Either the output or the input is not there.
                    return;
                }
                let (vandal, to) = (disk.clone(), input.clone());
                set_at(&hooked.before_open, open_at, move || vandal.put_in_place(theirs, &to));
                let _ = heir.compact();
                has_fired_yet = has_fired(&hooked.before_open);
                let is_there = disk.names_in(Path::new(STORE)).contains(&input);
                assert!(
                    !has_fired_yet || is_there,
                    "live is violated: a file of another store was removed; operation {at}, open {open_at}"
                );
            });
            if has_fired_yet {
                moments += 1;
                continue;
            }
            if fate == Fate::Finished {
                println!("{moments} moments");
                assert!(moments > 10, "only {moments} moments");
                return;
            }
            break;
        }
    }
}
