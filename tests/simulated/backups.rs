//! Backups on the simulated disk: killed at any operation, with any call failing, and with a power
//! cut at any moment. The directory is then a complete backup, or it is refused with the reason, or
//! it holds nothing; and the store is as it was.

use std::path::Path;

use crate::hooked::{open, stopped};
use crate::sim::backups::is_unfinished;
use crate::sim::cuts::{Choices, Mode};
use crate::sim::disk::{Event, Fate, Record, SimDisk};
use crate::sim::image::Image;
use crate::sim::oracle::{Content, Op, batch};
use crate::sim::script::run;
use crate::sim::timeline::Timeline;
use crate::sim::workloads::ALL;
use crate::sim::{Rng, STORE, options};
use partd::log::fs::Disk;
use partd::{Durability, Error, Partd, SegmentLog};

const COPY: &str = "/copy";
/// The name of the file that marks a backup as unfinished.
const UNFINISHED_BACKUP: &str = "unfinished-backup";

/// A store with an output, a sealed and an open segment, two of them with a batch that is not
/// visible to everyone; and its contents.
fn worn(process: &SimDisk) -> (SegmentLog<SimDisk>, Content) {
    let append = |key: &str, byte: u8, len| Op::Append(key.to_owned(), vec![byte; len]);
    let batches = [
        vec![append("a", 1, 500), append("b", 2, 700)],
        vec![append("c", 3, 40_000)],
        vec![Op::Delete("b".to_owned()), append("a", 4, 300)],
        vec![append("d", 5, 40_000)],
        vec![append("a", 6, 100), Op::Set("s".to_owned(), vec![7; 50])],
    ];
    let (log, mut content) = (open(process), Content::default());
    for (number, ops) in batches.iter().enumerate() {
        log.write(&batch(ops), Durability::Plain).expect("the append succeeds");
        content.apply(ops);
        if number == 3 {
            assert_eq!(log.compact().expect("the compaction succeeds").runs, 1);
        }
    }
    (log, content)
}

fn compare(log: &SegmentLog<SimDisk>, content: &Content, at: &str) {
    content.compare(log).unwrap_or_else(|difference| panic!("{at}: {difference}"));
    log.verify().unwrap_or_else(|error| panic!("{at}: {error}"));
}

/// Opens what a backup left behind, and checks it. Returns whether it is complete.
fn is_complete(disk: &SimDisk, content: &Content, at: &str) -> bool {
    if disk.names_in(Path::new(COPY)).is_empty() {
        return false;
    }
    match options().open_on(disk.clone(), COPY) {
        Ok(copy) => compare(&copy, content, at),
        Err(error) => {
            assert!(is_unfinished(&error), "{at}: {error}");
            return false;
        }
    }
    true
}

#[test]
fn a_backup_killed_at_any_operation_is_refused_until_it_is_complete() {
    let (mut refused, mut complete) = (0, 0);
    for at in 1.. {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let process = disk.new_process();
        let (log, content) = worn(&process);
        let (fate, thread) = stopped(&process, at, move || {
            let made = log.backup(COPY).map(|made| made.seq.get());
            std::mem::forget(log);
            made
        });
        let when = format!("operation {at}");
        if fate == Fate::Finished {
            assert_eq!(thread.join().expect("it does not panic").expect("it succeeds"), 5);
            assert!(is_complete(&disk.new_process(), &content, &when));
            break;
        }
        process.kill();
        let next = disk.new_process();
        *(if is_complete(&next, &content, &when) { &mut complete } else { &mut refused }) += 1;
        compare(&open(&next), &content, &when);
        process.bury();
        let _ = thread.join();
    }
    println!("{refused} refused, {complete} complete");
    assert!(refused > 20 && complete > 0, "{refused} refused, {complete} complete");
}

#[test]
fn a_backup_in_which_any_call_fails_is_complete_or_an_error_that_leaves_nothing() {
    let (mut errors, mut successes) = (0, 0);
    let calls = {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let (log, _) = worn(&disk);
        disk.watch(None);
        log.backup(COPY).expect("the backup succeeds");
        disk.watched()
    };
    assert!(calls.len() > 20, "{calls:?}");
    for (number, call) in calls.iter().enumerate() {
        for &errno in call.errors() {
            let disk = SimDisk::unlogged(&Image::blank(), 1);
            let process = disk.new_process();
            let (log, content) = worn(&process);
            process.watch(Some((number, errno)));
            let made = log.backup(COPY);
            process.watch(None);
            let when = format!("call {number}, {call:?}, error {errno}");
            let other = disk.new_process();
            match made {
                Ok(_) => {
                    assert!(is_complete(&other, &content, &when), "{when}");
                    successes += 1;
                }
                Err(error) => {
                    let is_named =
                        matches!(&error, Error::Io { path, .. } if path.starts_with(COPY));
                    let is_of_store = error.to_string().contains(STORE);
                    assert!(is_named || is_of_store, "{when}: {error}");
                    // The last sync of the directory fails when everything is in place.
                    let left = disk.names_in(Path::new(COPY));
                    assert!(left.is_empty(), "{when}: {error} left {left:?}");
                    errors += 1;
                    log.backup(COPY).unwrap_or_else(|error| panic!("{when}, again: {error}"));
                    assert!(is_complete(&other, &content, &when), "{when}, again");
                }
            }
            compare(&log, &content, &when);
        }
    }
    println!("{errors} errors, {successes} successes");
    assert!(errors > 50, "{errors} errors, {successes} successes");
}

/// The mark is gone by then, so what is removed has to be marked again.
#[test]
fn a_backup_killed_after_its_last_sync_has_failed_is_complete_or_refused() {
    let last = {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let (log, _) = worn(&disk);
        disk.watch(None);
        log.backup(COPY).expect("the backup succeeds");
        disk.watched().len() - 1
    };
    let mut refused = 0;
    for at in 1.. {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let process = disk.new_process();
        let (log, content) = worn(&process);
        process.watch(Some((last, libc::EIO)));
        let (fate, thread) = stopped(&process, at, move || {
            let made = log.backup(COPY).map(drop);
            std::mem::forget(log);
            made
        });
        let when = format!("operation {at}");
        if fate == Fate::Finished {
            thread.join().expect("it does not panic").expect_err("the last sync fails");
            assert!(disk.names_in(Path::new(COPY)).is_empty(), "something is left");
            break;
        }
        process.kill();
        refused += u64::from(!is_complete(&disk.new_process(), &content, &when));
        process.bury();
        let _ = thread.join();
    }
    assert!(refused > 20, "{refused} refused");
}

#[test]
fn a_power_cut_during_or_after_a_backup_leaves_one_that_is_complete_or_refused() {
    // A new directory, and one that its owner has just made.
    cut_power(|_| {});
    cut_power(|disk| disk.create_dir(Path::new(COPY)).expect("the directory is made"));
}

fn cut_power(prepare: impl FnOnce(&SimDisk)) {
    let disk = SimDisk::boot(&Image::blank(), 1, None);
    let (log, content) = worn(&disk);
    prepare(&disk);
    let from = disk.log_len();
    let made = log.backup(COPY).expect("the backup succeeds");
    assert_eq!(made.seq.get(), 5);
    assert!(made.segments_linked > 0 && made.segments_linked < made.segments, "{made:?}");
    let done = disk.log_len();
    // The store changes further, and the backup must show none of it.
    log.append([("a", "more")]).expect("the append succeeds");
    let records = disk.log();
    let (mut refused, mut complete) = (0, 0);
    for mode in Mode::ALL {
        let mut timeline = Timeline::new(&disk, &records, mode.unit_len(), 0);
        let mut rng = Rng(1);
        while let Some(passed) = timeline.pass() {
            let is_changed = passed.unwrap_or_else(|violation| panic!("{}", violation.text));
            let at = timeline.at();
            if at <= from || !is_changed {
                continue;
            }
            let units = timeline.units();
            let mut choices = Choices::new(&timeline, &units, mode, &mut rng);
            choices.retain(|number| number < 12);
            for choice in choices.all(&timeline, &units) {
                let image = timeline.image(&units, &choice);
                let next = SimDisk::unlogged(&image, 2);
                let when = format!("{mode:?}, record {at} of {from} to {done}");
                match is_complete(&next, &content, &when) {
                    true => complete += 1,
                    false => refused += 1,
                }
                assert!(at < done || is_complete(&next, &content, &when), "{when}: it is lost");
            }
        }
    }
    println!("{refused} refused, {complete} complete");
    assert!(refused > 100 && complete > 10, "{refused} refused, {complete} complete");
}

/// The crash workload covers what its name says: some segments are linked and some are copied, and
/// the store is compacted in the middle of a backup.
#[test]
fn the_crash_workload_of_backups_links_and_copies_segments_beside_compactions() {
    let workload = ALL.iter().find(|workload| workload.name == "backups").expect("a workload");
    let (mut links, mut copies, mut backups, mut interrupted) = (0, 0, 0, 0);
    for seed in 1..=8 {
        let steps = (workload.make)(&mut Rng(seed));
        let recording = run(&steps, seed, None).unwrap_or_else(|v| panic!("{}", v.text));
        // The backup that is being made, and the process that makes it.
        let mut current: Option<u32> = None;
        for Record { process, event } in &recording.log {
            match event {
                Event::Create { path, .. } if path.ends_with(UNFINISHED_BACKUP) => {
                    current = Some(*process);
                }
                Event::Create { path, .. } if path.extension().is_some_and(|e| e == "seg") => {
                    copies += u32::from(current == Some(*process));
                }
                Event::Link { .. } => links += 1,
                Event::Rename { to, .. } if to.extension().is_some_and(|e| e == "seg") => {
                    interrupted += u32::from(current.is_some_and(|backup| backup != *process));
                }
                Event::BackedUp { .. } => {
                    backups += 1;
                    current = None;
                }
                _ => {}
            }
        }
    }
    println!("{backups} backups, {links} links, {copies} copies, {interrupted} compactions inside");
    assert!(backups > 8 && links > 8 && copies > 8 && interrupted > 3);
}
