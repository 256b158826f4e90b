//! Damaged stores: whether each is an error that names the file and the damaged part, is harmless, or
//! ends the history where the model allows it (I9).

use std::ops::Range;
use std::path::{Path, PathBuf};

use partd::{Error, Partd, SegmentLog};

use super::cuts::Mode;
use super::disk::SimDisk;
use super::image::Image;
use super::oracle::{Op, Oracle, batch};
use super::power::in_parallel;
use super::timeline::{Choice, Timeline, Unit};
use super::{STORE, options};

/// A small store, closed or abandoned.
pub struct Store {
    pub what: &'static str,
    pub image: Image,
    /// Its history.
    pub oracle: Oracle,
    /// The number of batches that must be present, unless there is an error.
    pub floor: u64,
    pub read_only: bool,
}

/// The outcome of opening and reading a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An error of the whole store.
    Detected,
    /// An error of one key; the other keys read correctly.
    OneKey,
    Harmless,
    /// The history ends earlier.
    Prefix,
    /// An error of `verify` only: the damaged value is deleted but still in the file.
    DeadValue,
}

/// A damaged file, and its damaged part: the header with its lists, a batch, or the bytes after the
/// last batch.
pub struct Damage<'a> {
    pub what: String,
    pub path: &'a Path,
    pub part: Range<u64>,
    /// Whether to append to the store if it opens.
    pub goes_on: bool,
    pub image: Image,
}

/// Checks that an error locates the damage: its file, and an offset in the damaged part.
fn names_the_place(error: &Error, damage: &Damage<'_>) -> Result<(), String> {
    let text = error.to_string();
    let name = damage.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !text.contains(name) {
        return Err(format!("the error does not name the file: {text}"));
    }
    let at = text.split_once("offset ").map_or("", |(_, at)| at);
    let digits = at.find(|c: char| !c.is_ascii_digit()).unwrap_or(at.len());
    let at = match at[..digits].parse() {
        Ok(at) => at,
        // A segment that appears to have a newer version is refused because of that version, which
        // is in the header.
        Err(_) if text.contains("has format version") => 8,
        Err(_) => return Err(format!("the error names no offset: {text}")),
    };
    match damage.part.contains(&at) {
        true => Ok(()),
        false => Err(format!(
            "the damage is in {:?}, but the error points elsewhere: {text}",
            damage.part
        )),
    }
}

/// Opens a damaged image and checks everything in it.
fn judge(store: &Store, damage: &Damage<'_>) -> Result<Outcome, String> {
    let goes_on_later = damage.goes_on && !store.read_only;
    let disk = match goes_on_later {
        true => SimDisk::boot(&damage.image, 9, None),
        false => SimDisk::unlogged(&damage.image, 9),
    };
    let opened = match store.read_only {
        true => options().open_read_only_on(disk.clone(), STORE),
        false => options().open_on(disk.clone(), STORE),
    };
    let found = opened.and_then(|log| Ok((log.stats()?.sequence, log)));
    let (found, log) = match found {
        Ok(found) => found,
        Err(error) => return names_the_place(&error, damage).map(|()| Outcome::Detected),
    };
    let is_control = damage.path.ends_with("control");
    let floor = if is_control { store.oracle.len() } else { store.floor };
    let Some(content) = store.oracle.after(found).filter(|_| found >= floor) else {
        return Err(format!("{found} batches are there, of {floor} that must be"));
    };
    let keys = log.keys().map_err(|error| format!("keys: {error}"))?;
    let expected: Vec<&str> = content.keys().collect();
    let names: Vec<&[u8]> = keys.iter().map(partd::Key::as_bytes).collect();
    if names != expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>() {
        return Err(format!("keys are {keys:?}, not {expected:?}"));
    }
    let mut damaged_keys = 0;
    for key in expected {
        match log.get(key) {
            Ok(value) if value == content.get(key) => {}
            Ok(value) => return Err(format!("{key} has {} wrong bytes", value.len())),
            Err(error) => {
                names_the_place(&error, damage)?;
                damaged_keys += 1;
            }
        }
    }
    let outcome = match (damaged_keys, log.verify()) {
        (0, Ok(_)) if found == store.oracle.len() => Outcome::Harmless,
        (0, Ok(_)) => Outcome::Prefix,
        (1, Err(error)) => return names_the_place(&error, damage).map(|()| Outcome::OneKey),
        (0, Err(error)) if error.to_string().contains("checksum of value") => {
            return names_the_place(&error, damage).map(|()| Outcome::DeadValue);
        }
        (keys, verified) => {
            return Err(format!("{keys} keys are damaged, and verify says {verified:?}"));
        }
    };
    match goes_on_later {
        true => goes_on(&store.oracle.cut(found), &disk, log).map(|()| outcome),
        false => Ok(outcome),
    }
}

/// Appends durably to a store that appears to have its history. The batch must be there at the next
/// opening, and after a power cut that loses everything pending except the control file. The
/// control file holds the durable sequence number; without it, damage above the newest recorded one
/// would be the end of the history.
fn goes_on(oracle: &Oracle, disk: &SimDisk, log: SegmentLog<SimDisk>) -> Result<(), String> {
    let ops = [Op::Append("after".into(), vec![7; 20])];
    let durable = partd::Durability::Durable;
    log.write(&batch(&ops), durable).map_err(|error| format!("an append: {error}"))?;
    let mut oracle = oracle.clone();
    oracle.push(&ops);
    let there = oracle.len();
    let is_there = |what: &str, disk: SimDisk| {
        let log = options().open_on(disk, STORE).map_err(|error| format!("{what}: {error}"))?;
        oracle.judge(&log, there, there).map_err(|v| format!("{what}: {}", v.text))
    };
    let records = disk.take_log();
    drop(log);
    is_there("closed and opened", disk.new_process())?;
    let mut timeline = Timeline::new(disk, &records, Mode::Pages.unit_len(), 0);
    // Only the last moment matters, and the promises of the store are known.
    while timeline.pass().is_some() {}
    let units = timeline.units();
    let control = disk.base().files.keys().position(|path| path.ends_with("control"));
    let is_control = |unit: &Unit| {
        timeline.is_control(unit) || control.is_some_and(|control| control as u32 == unit.inode)
    };
    let kept = |unit: &Unit| if is_control(unit) { unit.versions } else { 0 };
    let names = vec![false; timeline.pending_names()].into();
    let lost = Choice { versions: units.iter().map(kept).collect(), names };
    let image = timeline.image(&units, &lost);
    is_there("after a power cut", SimDisk::unlogged(&image, 10)).map(drop)
}

/// The files with contents, without the locks.
pub fn files(image: &Image) -> Vec<PathBuf> {
    image.files.iter().filter(|(_, file)| file.len > 0).map(|(path, _)| path.clone()).collect()
}

/// Judges each damaged image of each store; returns the number of each outcome.
pub fn judge_all(
    stores: &[Store],
    damage: impl for<'a> Fn(&'a Path, &Image) -> Vec<Damage<'a>> + Sync,
) -> Vec<[u64; 5]> {
    let jobs: Vec<(usize, PathBuf)> = stores
        .iter()
        .enumerate()
        .flat_map(|(i, store)| files(&store.image).into_iter().map(move |path| (i, path)))
        .collect();
    let results = in_parallel(&jobs, |(number, path)| {
        let store = &stores[*number];
        let mut counts = [0; 5];
        for damage in damage(path, &store.image) {
            let outcome = judge(store, &damage).unwrap_or_else(|why| {
                let (what, path) = (&damage.what, path.display());
                panic!("I9 is violated: {}: {what} of {path}: {why}", store.what)
            });
            counts[outcome as usize] += 1;
        }
        (*number, counts)
    });
    let mut sums = vec![[0; 5]; stores.len()];
    for (number, counts) in results {
        sums[number].iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    println!("store: errors, errors of one key, harmless, prefixes, errors of dead values");
    for (store, sums) in stores.iter().zip(&sums) {
        println!("{}: {sums:?}", store.what);
    }
    sums
}
