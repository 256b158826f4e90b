//! Damage: every bit of the used bytes of a small store is flipped in turn, and every file is
//! truncated at every byte. Each change is an error that names the file and the damaged part; or
//! harmless, for later appends too; or, after a crash and above the durable sequence number, the
//! end of the history. No read returns wrong bytes.

use std::iter::once;
use std::ops::Range;
use std::path::Path;

use crate::sim::corruption::{in_the_place_of_another, walk};
use crate::sim::damage::{Damage, Store, files, judge_all};
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use crate::sim::oracle::{Op, Oracle, batch};
use crate::sim::{Rng, STORE, options};
use partd::{Error, Partd, SegmentLog};
use partd_format::control::{SLOT_LEN, SLOTS_AT};

/// The store that a process leaves when it writes, compacts and dies: an output that retains
/// another segment, with deletes that it had to keep, and later batches.
fn compacted(what: &'static str, booted: bool) -> Store {
    let disk = SimDisk::boot(&Image::blank(), 6, None);
    let open = || options().open_on(disk.new_process(), STORE).expect("the open succeeds");
    let mut oracle = Oracle::default();
    let mut write = |log: &SegmentLog<SimDisk>, number: u64| {
        log.write(&batch(&ops(number)), partd::Durability::Plain).expect("the write succeeds");
        oracle.push(&ops(number));
    };
    let (first, second) = (open(), open());
    (0..3).for_each(|number| write(&first, number));
    (3..7).for_each(|number| write(&second, number));
    drop(second);
    let report = first.compact().expect("the compaction succeeds");
    assert!(report.runs == 1 && report.deletes_kept > 0, "{report:?}");
    (7..BATCHES).for_each(|number| write(&first, number));
    first.sync().expect("the sync succeeds");
    let mut image = disk.snapshot();
    image.boot += u64::from(booted);
    Store { what, image, oracle, floor: BATCHES, read_only: false }
}

fn ops(number: u64) -> Vec<Op> {
    let mut rng = Rng(number);
    let mut value = |len: usize| rng.next().to_le_bytes().repeat(len);
    let own = format!("own {number}");
    match number {
        4 => vec![Op::Set("s".into(), value(2)), Op::Append("a".into(), vec![])],
        6 => vec![Op::Delete("own 1".into()), Op::Append("b".into(), value(1))],
        7 => vec![Op::Append("long".into(), value(20))],
        _ => vec![Op::Append("a".into(), value(1)), Op::Append(own, value(3))],
    }
}

const BATCHES: u64 = 10;
const SYNCED: u64 = 6;

/// Creates a store with three writers. `durable_seq` batches are synced; `closed` means that the
/// handles are closed, `booted` that the machine was rebooted since.
fn store(what: &'static str, durable_seq: u64, closed: bool, booted: bool) -> Store {
    let disk = SimDisk::boot(&Image::blank(), 5, None);
    let open = || options().open_on(disk.new_process(), STORE).expect("the open succeeds");
    let handles = [open(), open(), open()];
    let mut oracle = Oracle::default();
    for number in 0..BATCHES {
        let handle = &handles[number as usize % 3];
        handle.write(&batch(&ops(number)), partd::Durability::Plain).expect("the write succeeds");
        oracle.push(&ops(number));
        if number + 1 == durable_seq {
            handle.sync().expect("the sync succeeds");
        }
    }
    let left_open = disk.snapshot();
    drop(handles);
    let mut image = if closed { disk.snapshot() } else { left_open };
    image.boot += u64::from(booted);
    // Closed and not rebooted, the control file records the end of the history.
    let floor = if closed && !booted { BATCHES } else { durable_seq };
    Store { what, image, oracle, floor, read_only: false }
}

fn stores() -> Vec<Store> {
    let mut stores = vec![
        store("synced, closed", BATCHES, true, false),
        store("synced, closed, booted", BATCHES, true, true),
        store("synced, killed, booted", BATCHES, false, true),
        store("partly synced, closed", SYNCED, true, false),
        store("partly synced, killed", SYNCED, false, false),
        store("partly synced, killed, booted", SYNCED, false, true),
        store("not synced, closed", 0, true, false),
        store("not synced, killed, booted", 0, false, true),
    ];
    stores.push(compacted("compacted, killed", false));
    stores.push(compacted("compacted, killed, booted", true));
    let read_only = |store: Store| Store { read_only: true, ..store };
    stores.push(read_only(store("synced, closed, read-only", BATCHES, true, false)));
    stores.push(read_only(store("partly synced, booted, read-only", SYNCED, false, true)));
    // Without the control file, the durable sequence number comes from the heads of the batches.
    let mut lost = store("partly synced, control file lost, booted", SYNCED, false, true);
    lost.image.files.remove(&Path::new(STORE).join("control"));
    stores.push(lost);
    stores
}

/// The parts of an undamaged file.
fn parts(path: &Path, image: &Image) -> Vec<Range<u64>> {
    let file = &image.files[path];
    let whole = 0..file.len;
    let Some(walked) = walk(path, &file.bytes()) else { return vec![whole] };
    let batches = walked.batches.iter().map(|&(start, end, ..)| start..end);
    let mut parts: Vec<Range<u64>> = once(0..walked.header.data_start).chain(batches).collect();
    let end = parts[parts.len() - 1].end;
    parts.push(end..file.len);
    parts
}

/// The bytes of a file that carry information, and some that do not.
fn places(path: &Path, image: &Image) -> (Vec<u64>, Vec<u64>) {
    let bytes = image.files[path].bytes();
    let last = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1);
    let used = last.next_multiple_of(8) + 16;
    let mut rng = Rng(last);
    let beyond = (0..64).map(|_| used + rng.below(bytes.len() as u64 - used)).collect();
    // Of the control file, the fixed fields and the words in use, each on its cache line.
    let is_word = |at: &u64| match *at {
        at if at < SLOTS_AT => at < 64 || at % 64 < 8,
        at => at < SLOTS_AT + 3 * SLOT_LEN && at % SLOT_LEN < 40,
    };
    let is_control = path.ends_with("control");
    let used: Vec<u64> = (0..used).filter(|at| !is_control || is_word(at)).collect();
    (used, beyond)
}

#[test]
fn every_flipped_bit_is_detected_harmless_or_ends_the_history_where_the_model_allows_it() {
    let stores = stores();
    let sums = judge_all(&stores, |path, image| {
        let (used, beyond) = places(path, image);
        let mut rng = Rng(used.len() as u64);
        let exhaustive = used.iter().flat_map(|&at| (0..8).map(move |bit| (at, bit)));
        let sampled = beyond.into_iter().map(|at| (at, rng.below(8)));
        let flips = exhaustive.chain(sampled.collect::<Vec<_>>());
        let parts = parts(path, image);
        let flip = |(at, bit): (u64, u64)| {
            let mut image = image.clone();
            image.files.get_mut(path).expect("a file").flip(at, 1 << bit);
            let part = parts.iter().find(|part| part.contains(&at)).expect("a part").clone();
            // Append to the damaged store for every bit of the header, which an append reads again,
            // and for one bit per byte of a batch.
            let goes_on = part.start == 0 || (at + bit).is_multiple_of(8);
            Damage { what: format!("bit {bit} at {at}"), path, part, goes_on, image }
        };
        flips.map(flip).collect()
    });
    let dead: u64 = sums.iter().map(|[.., dead]| dead).sum();
    assert!(dead > 0, "no dead value was damaged");
    for (store, [detected, one_key, harmless, prefixes, _]) in stores.iter().zip(sums) {
        assert!(detected > 0 || store.floor == 0, "{}: nothing was detected", store.what);
        assert!(harmless > 0, "{}: nothing was harmless", store.what);
        assert!(one_key > 0 || store.floor == 0, "{}: no value was damaged", store.what);
        assert!(prefixes == 0 || store.floor < BATCHES, "{}: synced bytes were cut", store.what);
    }
}

#[test]
fn a_file_cut_at_any_byte_is_detected_harmless_or_ends_the_history_where_the_model_allows_it() {
    let stores = stores();
    let sums = judge_all(&stores, |path, image| {
        let len = image.files[path].len;
        let (used, _) = places(path, image);
        let pages = (1..len / 4096).map(|page| page * 4096).chain([len - 1]);
        let cut = |at: u64| {
            let mut image = image.clone();
            image.files.get_mut(path).expect("a file").truncate(at);
            // The header records how long the file must be.
            let goes_on = at.is_multiple_of(8);
            Damage { what: format!("a cut at {at}"), path, part: 0..128, goes_on, image }
        };
        used.into_iter().chain(pages).map(cut).collect()
    });
    for (store, [detected, one_key, _, prefixes, dead]) in stores.iter().zip(sums) {
        // A segment's header records its length, and a shorter file is rejected.
        assert!(detected > 0 || store.floor == 0, "{}: nothing was detected", store.what);
        assert_eq!((one_key, dead), (0, 0), "{}: a part of a file was read", store.what);
        assert!(prefixes == 0 || store.floor < BATCHES, "{}: synced bytes were cut", store.what);
        // Without a reboot, memory holds everything that was stored, and either every segment has a
        // synced part or none has. So missing data is noticed, or it was never meant to be durable.
        let may_end_earlier = store.floor == 0 && store.what.contains("booted");
        assert!(prefixes > 0 || !may_end_earlier, "{}: no history was cut", store.what);
    }
}

#[test]
fn stale_bytes_from_earlier_files_are_never_taken_for_batches() {
    let (written, found) = in_the_place_of_another(None);
    let found = found.expect("the open succeeds");
    assert_eq!(found, written, "I4 is violated: {written} batches were written, {found} are there");
}

#[test]
fn a_missing_segment_is_an_error_if_it_held_synced_batches() {
    for store in stores() {
        for path in files(&store.image) {
            let mut image = store.image.clone();
            image.files.remove(&path);
            let disk = SimDisk::unlogged(&image, 9);
            let found = options().open_on(disk, STORE).and_then(|log| {
                let sequence = log.stats()?.sequence;
                Ok((sequence, log))
            });
            match found {
                Ok((found, log)) => {
                    assert!(found >= store.floor, "{}: {}", store.what, path.display());
                    let content = store.oracle.after(found).expect("a prefix");
                    content.compare(&log).expect("its bytes");
                }
                Err(Error::Missing { .. }) => assert!(store.floor > 0, "{}", store.what),
                // The output of a compaction requires the segments that it retains.
                Err(Error::Damage { path: named, .. }) if store.what.starts_with("compacted") => {
                    assert_eq!(named, path, "{}", store.what);
                }
                Err(error) => panic!("{}: {error}", store.what),
            }
        }
    }
}
