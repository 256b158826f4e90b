//! A process that uses stores while another one tampers with them, and compares everything that it
//! reads with what it wrote.
//!
//! Every value consists of pieces that record their writer, their number, and which numbers of that
//! writer were deleted before. So any reader can tell whether a piece is torn, doubled, out of
//! order, or resurrected. Each handle also has a key that no one else writes to: a get of that key
//! must return exactly what the handle wrote, or an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use partd::{Error, Options, Partd, SegmentLog};
use partd_testkit::children::pieces::{Tag, parse, piece};
use partd_testkit::children::{Random, report};

use super::asked_to_end;

/// The key that all processes write to.
const ALL: &str = "all";
/// The number of handles that a process keeps open.
const HANDLES: usize = 2;

/// An open store, and what the process has recorded about it.
#[derive(Debug)]
struct Handle {
    log: SegmentLog,
    /// The key that only this handle writes to, and its contents.
    own: String,
    own_floor: u64,
    pieces: Vec<(u64, IsSure)>,
    /// This process has deleted all of its pieces up to this number from the shared key.
    all_floor: u64,
}

/// Whether a piece must be present, because the call that wrote it succeeded and no failed call
/// could have deleted it.
type IsSure = bool;

/// A process that uses stores.
#[derive(Debug)]
pub(crate) struct Worker {
    base: PathBuf,
    number: u64,
    random: Random,
    handles: Vec<Handle>,
    pieces: u64,
    counts: BTreeMap<String, u64>,
    said: Instant,
}

/// The role of the process.
pub(crate) fn play(arguments: &[String]) {
    let end = asked_to_end();
    let number = |i: usize| arguments[i].parse::<u64>().expect("a number");
    let mut worker = Worker::new(Path::new(&arguments[0]), number(1), number(2));
    while !end.load(Ordering::Relaxed) {
        worker.work();
    }
    worker.counts.iter().for_each(|(name, count)| report(&format!("{count} {name}")));
}

/// Parses a value and checks each piece against the others.
#[track_caller]
fn check(key: &str, value: &[u8]) -> Vec<Tag> {
    let tags = parse(value).unwrap_or_else(|why| panic!("wrong bytes under {key}: {why}"));
    // The first and the last number of each writer so far.
    let mut seen: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for tag in &tags {
        let (first, last) = seen.entry(tag.writer).or_insert((tag.number, 0));
        assert!(*last < tag.number, "{key}: {tag:?} follows number {last}: {tags:?}");
        let floor = u64::from(tag.life);
        assert!(floor < *first, "{key}: number {first} was deleted before {tag:?}: {tags:?}");
        *last = tag.number;
    }
    tags
}

impl Handle {
    /// Checks that the handle's own key holds what it wrote.
    #[track_caller]
    fn check_own(&self, value: &[u8]) {
        let found = check(&self.own, value);
        let mut written = self.pieces.iter();
        for tag in &found {
            let passed = written.by_ref().take_while(|(number, _)| *number != tag.number);
            let lost = passed.filter(|(_, is_sure)| *is_sure).count();
            assert_eq!(lost, 0, "{}: {lost} pieces are lost before {tag:?}", self.own);
        }
        let lost = written.filter(|(_, is_sure)| *is_sure).count();
        let last = found.last();
        assert_eq!(
            lost, 0,
            "{}: {lost} pieces are lost after {last:?}: {:?}",
            self.own, self.pieces
        );
    }

    fn deleted_own(&mut self, up_to: u64) {
        self.pieces.clear();
        self.own_floor = up_to;
    }

    /// A deleting call has failed: the pieces may be present or not.
    fn may_have_deleted_own(&mut self) {
        self.pieces.iter_mut().for_each(|(_, is_sure)| *is_sure = false);
    }
}

impl Worker {
    pub(crate) fn new(base: &Path, number: u64, seed: u64) -> Worker {
        Worker {
            base: base.to_owned(),
            number,
            random: Random(seed ^ number << 32),
            handles: Vec::new(),
            pieces: 0,
            counts: BTreeMap::new(),
            said: Instant::now(),
        }
    }

    fn count(&mut self, name: String) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// Counts the outcome of an operation.
    #[track_caller]
    fn note<T>(&mut self, operation: &str, since: Instant, result: &Result<T, Error>) {
        let longest = self.counts.entry(format!("ms of the longest {operation}")).or_default();
        *longest = (*longest).max(since.elapsed().as_millis() as u64);
        match result {
            Ok(_) => self.count(format!("ok {operation}")),
            Err(error) => {
                let kind = self.kind_of(error);
                self.count(format!("error {kind}"));
            }
        }
        if self.said.elapsed() > Duration::from_millis(200) {
            self.said = Instant::now();
            report("alive");
        }
    }

    /// The text of an error without its names and numbers.
    #[track_caller]
    fn kind_of(&self, error: &Error) -> String {
        let text = error.to_string();
        let base = &*self.base.to_string_lossy();
        assert!(text.contains(base), "an error that does not name the store: {text}");
        // The file or directory may be the live data of another store.
        let advice =
            ["remove it", "remove the", "remove this", "move it", "move the", "delete the"];
        let is_risky = advice.iter().any(|advice| text.contains(advice));
        assert!(!is_risky, "an error that advises to remove or move files: {text}");
        let words = text.replace(base, "");
        let words = words
            .split(' ')
            .filter(|word| !word.contains(|c: char| c == '/' || c.is_ascii_digit()));
        let mut text: String = words.collect::<Vec<_>>().join(" ");
        let end = (0..=100).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        let kind = format!("{error:?}");
        let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
        format!("{kind}: {text}")
    }

    /// Performs one operation and checks the result.
    fn work(&mut self) {
        if self.handles.is_empty() || self.handles.len() < HANDLES && self.random.below(40) == 0 {
            return self.open();
        }
        let chosen = self.random.below(self.handles.len() as u64) as usize;
        let mut handle = self.handles.swap_remove(chosen);
        let since = Instant::now();
        let (operation, result) = self.operate(&mut handle);
        self.note(operation, since, &result);
        // Sometimes continue with a handle that returns errors.
        let closes = if result.is_err() { 4 } else { 200 };
        if self.random.below(closes) > 0 {
            self.handles.push(handle);
        } else {
            let since = Instant::now();
            drop(handle);
            self.note::<()>("close", since, &Ok(()));
        }
    }

    fn open(&mut self) {
        let share = [None, Some(0.5)][self.random.below(2) as usize];
        let options: Options =
            SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(share);
        let store = self.base.join("store");
        let since = Instant::now();
        let (operation, opened) = match self.random.below(12) {
            0 => ("open read-only", options.open_read_only(store)),
            1 => ("open temporary", options.temporary_in(&self.base)),
            2 => {
                let swept = SegmentLog::sweep(&self.base).map(drop);
                return self.note("sweep", since, &swept);
            }
            _ => ("open", options.open(store)),
        };
        self.note(operation, since, &opened);
        if let Ok(log) = opened {
            self.pieces += 1;
            let own = format!("own {} {}", self.number, self.pieces);
            let pieces = Vec::new();
            self.handles.push(Handle { log, own, own_floor: self.pieces, pieces, all_floor: 0 });
        }
    }

    fn piece(&mut self, floor: u64) -> Vec<u8> {
        let filler = match self.random.below(40) {
            0 => 10_000 + self.random.below(90_000),
            1..4 => 2000 + self.random.below(8000),
            _ => self.random.below(300),
        };
        let tag = Tag { writer: self.number as u32, life: floor as u32, number: self.pieces };
        piece(tag, filler as usize)
    }

    fn operate(&mut self, handle: &mut Handle) -> (&'static str, Result<(), Error>) {
        let own = handle.own.clone();
        match self.random.below(100) {
            0..50 => {
                self.pieces += 1;
                let (mine, alls) = (self.piece(handle.own_floor), self.piece(handle.all_floor));
                let pairs = [(&*own, mine), (ALL, alls)];
                let (name, appended) = match self.random.below(8) {
                    0 => ("append durable", handle.log.append_durable(pairs)),
                    _ => ("append", handle.log.append(pairs)),
                };
                handle.pieces.push((self.pieces, appended.is_ok()));
                (name, appended)
            }
            50..64 => ("get", handle.log.get(&*own).map(|value| handle.check_own(&value))),
            64..70 => ("get", handle.log.get(ALL).map(|value| drop(check(ALL, &value)))),
            70..74 => {
                let viewed = handle.log.view(&*own);
                let seen = |view: &partd::View| {
                    handle.check_own(&view.chunks().collect::<Vec<_>>().concat());
                };
                ("view", viewed.map(|view| seen(&view)))
            }
            74..77 => {
                let values = handle.log.get_many([ALL, &*own]);
                let seen = values.map(|values| {
                    check(ALL, &values[0]);
                    handle.check_own(&values[1]);
                });
                ("get many", seen)
            }
            77..80 => ("get all", look_at_all(&handle.log)),
            80..84 => {
                let popped = handle.log.pop([&*own]);
                match &popped {
                    Ok(values) => {
                        handle.check_own(&values[0]);
                        handle.deleted_own(self.pieces);
                    }
                    Err(_) => handle.may_have_deleted_own(),
                }
                ("pop", popped.map(drop))
            }
            84..87 => {
                let popped = handle.log.pop([ALL]);
                if let Ok(values) = &popped {
                    check(ALL, &values[0]);
                    handle.all_floor = self.pieces;
                }
                ("pop", popped.map(drop))
            }
            87..90 => {
                let deleted = handle.log.delete([&*own]);
                match deleted {
                    Ok(()) => handle.deleted_own(self.pieces),
                    Err(_) => handle.may_have_deleted_own(),
                }
                ("delete", deleted)
            }
            90..95 => ("compact", handle.log.compact().map(drop)),
            95..97 => ("sync", handle.log.sync()),
            97..98 => ("verify", handle.log.verify().map(drop)),
            _ => ("stats", handle.log.stats().map(drop)),
        }
    }

    /// Opens the store in each way, and reads everything in it.
    pub(crate) fn look_around(&mut self) {
        let options = SegmentLog::options().segment_len_bytes(64 << 10);
        let store = self.base.join("store");
        for opened in [options.open_read_only(&store), options.open(&store)] {
            let read = opened.and_then(|log| look_at_all(&log));
            self.note("look", Instant::now(), &read);
        }
    }
}

/// Checks every value of a store.
fn look_at_all(log: &SegmentLog) -> Result<(), Error> {
    for key in log.keys()? {
        let name = String::from_utf8_lossy(key.as_bytes()).into_owned();
        assert!(name == ALL || name.starts_with("own "), "a key that no process wrote: {name}");
        check(&name, &log.get(key)?);
    }
    Ok(())
}
