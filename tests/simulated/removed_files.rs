//! Files of a live store are removed, replaced by a copy, or copied elsewhere at any moment. The
//! result is an error at worst, and never two histories, wrong bytes, or an unreported loss.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use partd::{Error, Partd, SegmentLog};

use crate::hooked::{Hooked, open, set, stopped};
use crate::sim::disk::{Fate, SimDisk};
use crate::sim::image::{FileImage, Image};
use crate::sim::{Rng, STORE, options};

type Log = SegmentLog<SimDisk>;

/// A call of a process; an append with the number of its piece.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u32),
    Durable(u32),
    Large(u32),
    Sync,
    Compact,
    Read,
}

/// The bytes of an appended piece.
fn piece(number: u32, len: usize) -> Vec<u8> {
    let mut piece = format!("<{number}:").into_bytes();
    piece.resize(len.max(piece.len() + 1) - 1, b'.');
    piece.push(b'>');
    piece
}

/// The numbers of the pieces in a value, if it consists of whole pieces.
fn pieces(value: &[u8]) -> Option<Vec<u32>> {
    let text = std::str::from_utf8(value).ok()?;
    let body = text.split_inclusive('>');
    body.map(|one| one.strip_prefix('<')?.split_once(':')?.0.parse().ok()).collect()
}

fn call(log: &Log, step: Step) -> Result<Option<u32>, Error> {
    match step {
        Step::Append(n) => log.append([("k", piece(n, 20))]).map(|()| Some(n)),
        Step::Durable(n) => log.append_durable([("k", piece(n, 20))]).map(|()| Some(n)),
        Step::Large(n) => log.append([("k", piece(n, 40_000))]).map(|()| Some(n)),
        Step::Sync => log.sync().map(|()| None),
        Step::Compact => log.compact().map(|_| None),
        Step::Read => log.get("k").map(|value| {
            check_value(&value);
            None
        }),
    }
}

#[track_caller]
fn check_value(value: &[u8]) -> Vec<u32> {
    let Some(found) = pieces(value) else {
        panic!("live is violated: {} bytes are not whole pieces", value.len());
    };
    let distinct: BTreeSet<u32> = found.iter().copied().collect();
    assert_eq!(distinct.len(), found.len(), "live is violated: a piece occurs twice: {found:?}");
    found
}

/// Accepts any error but the one that reports two batches under one number.
#[track_caller]
fn check_error(error: &Error) {
    let text = error.to_string();
    let twice = text.contains("one that no other batch has");
    assert!(!twice, "live is violated: there are two histories: {text}");
}

/// Removes some files of the store, or replaces them with copies. Returns whether a segment and
/// whether the control file was among them.
fn vandalize(disk: &SimDisk, rng: &mut Rng) -> (bool, bool) {
    let (mut segment, mut control) = (false, false);
    for _ in 0..1 + rng.below(2) {
        let names = disk.names_in(Path::new(STORE));
        if names.is_empty() {
            break;
        }
        let victim = match rng.below(3) {
            0 => Path::new(STORE).join("control"),
            _ => names[rng.below(names.len() as u64) as usize].clone(),
        };
        segment |= victim.extension().is_some_and(|extension| extension == "seg");
        control |= victim.ends_with("control");
        if rng.below(2) == 0 {
            let _ = disk.remove_name(&victim);
        } else {
            disk.replace_with_copy(&victim);
        }
    }
    (segment, control)
}

fn one_life(seed: u64) {
    let mut rng = Rng(seed);
    let disk = SimDisk::unlogged(&Image::blank(), seed);
    let mut processes: Vec<(SimDisk, Option<Log>)> =
        (0..2).map(|_| (disk.new_process(), None)).collect();
    let (mut acknowledged, mut number) = (Vec::new(), 0);
    let (mut lost_segment, mut lost_control) = (false, false);
    let mut refused = 0;
    for _ in 0..10 {
        let by = rng.below(2) as usize;
        let is_other_open = processes[1 - by].1.is_some();
        let (process, log) = &mut processes[by];
        // Three are enough: a refusal takes up to two seconds while the other process has the store open.
        if log.is_none() && (refused < 3 || !is_other_open) {
            match options().open_on(process.clone(), STORE) {
                Ok(opened) => *log = Some(opened),
                Err(error) => {
                    check_error(&error);
                    refused += 1;
                }
            }
        }
        let Some(log) = processes[by].1.take() else { continue };
        number += 1;
        let step = match rng.below(8) {
            0 => Step::Sync,
            1 => Step::Compact,
            2 => Step::Read,
            3 => Step::Durable(number),
            4 | 5 => Step::Large(number),
            _ => Step::Append(number),
        };
        let process = processes[by].0.clone();
        let (fate, thread) = stopped(&process, 1 + rng.below(24), move || {
            let result = call(&log, step);
            (log, result)
        });
        if fate == Fate::Stopped || rng.below(3) == 0 {
            let (segment, control) = vandalize(&disk, &mut rng);
            lost_segment |= segment;
            lost_control |= control;
        }
        if fate == Fate::Stopped {
            // The other process continues beside it.
            let other = &processes[1 - by].1;
            if let Some(log) = other {
                number += 1;
                match call(log, Step::Append(number)) {
                    Ok(appended) => acknowledged.extend(appended),
                    Err(error) => check_error(&error),
                }
            }
            process.resume();
        }
        let (log, result) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match result {
            Ok(appended) => acknowledged.extend(appended),
            Err(error) => check_error(&error),
        }
        // Close a handle now and then.
        if rng.below(6) > 0 {
            processes[by].1 = Some(log);
        }
        disk.pass(200);
    }
    drop(processes);
    match options().open_on(disk.new_process(), STORE).and_then(|log| log.get("k")) {
        Err(error) => check_error(&error),
        Ok(value) => {
            let found = check_value(&value);
            let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
            // If a segment is gone, and the control file that recorded it too, nothing is left to
            // report the loss; the writers got errors.
            let is_told = lost_segment && lost_control;
            assert!(
                lost.is_empty() || is_told,
                "live is violated: {lost:?} were acknowledged but are missing"
            );
        }
    }
}

#[test]
fn any_file_removed_or_replaced_at_any_moment_is_an_error_at_worst() {
    // PARTD_REMOVALS=10000 is the long run.
    let lives = std::env::var("PARTD_REMOVALS").map_or(96, |n| n.parse().expect("a number"));
    let next = AtomicUsize::new(0);
    // Many more threads than cores: opening a store without its control file waits for two seconds.
    std::thread::scope(|scope| {
        for _ in 0..96 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= lives {
                        return;
                    }
                    let life = std::panic::catch_unwind(|| one_life(seed as u64));
                    if let Err(panic) = life {
                        eprintln!("seed {seed}");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

#[test]
fn a_file_of_another_store_under_the_name_of_a_dead_segment_is_never_removed() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let other = options().open_on(disk.new_process(), "/other").expect("the open succeeds");
    other.append([("o", "theirs")]).expect("the append succeeds");
    for _ in 0..3 {
        open(&disk.new_process()).append([("k", vec![7; 40_000])]).expect("the append succeeds");
    }
    let hooked = Hooked::new(disk.new_process());
    let log = options().open_on(hooked.clone(), STORE).expect("the open succeeds");
    log.clear().expect("the clear succeeds");
    let victim = Path::new(STORE).join("0000000000000001.seg");
    let (vandal, to) = (disk.clone(), victim.clone());
    // While its output is being renamed, a file of another store replaces one of its inputs.
    set(&hooked.before_rename, move || {
        vandal.put_in_place(Path::new("/other/0000000000000001.seg"), &to);
    });
    let _ = log.compact();
    drop(log);
    let is_there = disk.names_in(Path::new(STORE)).contains(&victim);
    assert!(is_there, "live is violated: a file of another store was removed");
    assert_eq!(other.get("o").expect("the read succeeds"), b"theirs");
}

#[test]
fn a_segment_restored_after_it_was_compacted_away_resurrects_nothing() {
    let (store, aside) = (Path::new(STORE), Path::new("/aside"));
    // Restore a compacted segment, with and without the control file, with and without an open
    // handle.
    for (returned, is_recovered, stays) in
        [(0, false, false), (1, false, false), (0, true, false), (1, true, false), (0, false, true)]
    {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        let open = || options().open_on(disk.new_process(), STORE).expect("the open succeeds");
        // A segment full of data that will be deleted, and two generations of outputs.
        open()
            .append([("dead", piece(1, 40_000)), ("k", piece(1, 20))])
            .expect("the append succeeds");
        disk.put_in_place(&store.join("0000000000000001.seg"), &aside.join("0"));
        let log = open();
        log.compact().expect("the compaction succeeds");
        let names = disk.names_in(store);
        let output = names.iter().rfind(|name| name.extension().is_some()).expect("an output");
        disk.put_in_place(output, &aside.join("1"));
        log.delete(["dead"]).expect("the delete succeeds");
        log.append([("k", piece(2, 20))]).expect("the append succeeds");
        drop(log);
        let log = open();
        log.compact().expect("the compaction succeeds");
        log.append([("k", piece(3, 20))]).expect("the append succeeds");
        assert!(!disk.names_in(store).contains(output), "it was replaced");
        let (victim, from) = match returned {
            0 => (store.join("0000000000000001.seg"), aside.join("0")),
            _ => (output.clone(), aside.join("1")),
        };
        let kept = stays.then_some(log);
        disk.put_in_place(&from, &victim);
        if is_recovered {
            disk.remove_name(&store.join("control")).expect("it is there");
        }
        let right = [piece(1, 20), piece(2, 20), piece(3, 20)].concat();
        for round in 0..3 {
            let check = |log: &Log| {
                let dead = log.get("dead").expect("the read succeeds");
                assert!(dead.is_empty(), "I5 is violated: deleted data is back, round {round}");
                let live = log.get("k").expect("the read succeeds");
                assert!(live == right, "I5 is violated: round {round}");
            };
            check(
                &options().open_read_only_on(disk.new_process(), STORE).expect("the open succeeds"),
            );
            check(&open());
            kept.iter().for_each(check);
            // The segment is removed for good, and restored again.
            open().compact().expect("the compaction succeeds");
            assert!(!disk.names_in(store).contains(&victim), "a dead segment stays");
            disk.put_in_place(&from, &victim);
        }
    }
}

#[test]
fn a_copy_of_a_live_store_opens_as_a_prefix_or_with_an_error() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (p, q) = (open(&disk.new_process()), open(&disk.new_process()));
    let mut states = vec![disk.snapshot()];
    for number in 1..=6 {
        let log = if number % 2 == 0 { &p } else { &q };
        log.append([("k", piece(number, 20))]).expect("the append succeeds");
        states.push(disk.snapshot());
    }
    let paths: Vec<_> = states[6].files.keys().cloned().collect();
    let mut shorter = 0;
    // Each file in the state of one moment or another, as `cp -r` reads them.
    for choice in 0..7_usize.pow(paths.len() as u32) {
        let mut image = Image { files: Default::default(), ..states[6].clone() };
        let mut rest = choice;
        for path in &paths {
            if let Some(file) = states[rest % 7].files.get(path) {
                image.files.insert(path.clone(), FileImage { identity: None, ..file.clone() });
            }
            rest /= 7;
        }
        let copy = SimDisk::unlogged(&image, 2);
        match options().open_on(copy, STORE).and_then(|log| log.get("k")) {
            Err(error) => panic!("live is violated: nothing was synced, and yet: {error}"),
            Ok(value) => {
                let found = check_value(&value);
                let is_prefix = found.iter().copied().eq(1..=found.len() as u32);
                assert!(is_prefix, "live is violated: {found:?} is no prefix");
                shorter += u32::from(found.len() < 6);
            }
        }
    }
    assert!(shorter > 0, "no copy was torn");
}

#[test]
fn on_a_full_disk_a_new_process_deletes_clears_and_compacts() {
    for ending in 0..3 {
        let disk = SimDisk::unlogged(&Image::blank(), 1);
        disk.limit(1 << 20);
        let writer = open(&disk.new_process());
        let mut written = 0_u32;
        while writer.append([(written, vec![1; 5000])]).is_ok() {
            written += 1;
        }
        drop(writer);
        disk.limit(0);
        let log = open(&disk.new_process());
        let done = match ending {
            0 => {
                log.delete([0_u32]).and_then(|()| log.contains(0_u32)).map(|there| assert!(!there))
            }
            1 => log.clear().and_then(|()| log.keys()).map(|keys| assert!(keys.is_empty())),
            _ => log.clear().and_then(|()| log.compact()).and_then(|_| {
                // Space is free again.
                log.append([("again", vec![2; 5000])])
            }),
        };
        done.unwrap_or_else(|error| panic!("live is violated: on a full disk: {error}"));
        assert!(!disk.died_of_sigbus(), "live is violated: a store without space");
    }
}
