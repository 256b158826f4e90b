//! A store, or a single segment, read as a whole: the files that are there, walked in parallel, and
//! the history that they make.
//!
//! Under live writers the commit word is read first, so that everything it counts can be found, and all
//! files are opened before the first is read, as many as may be open; when files came or went meanwhile, it
//! is done again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use partd_format::{Error, Evidence};
use rayon::prelude::*;

use super::repair;
use crate::control::{Control, Slot, boot_id};
use crate::history::{Around, History, Rule};
use crate::locks::{Life, Locks};
use crate::names::Name;
use crate::path::shown;
use crate::problem::{Problem, Severity};
use crate::source::Source;
use crate::walk::Segment;

/// How often a store is read again because it changed its files meanwhile.
const ATTEMPTS: u32 = 5;
/// How long to wait for the end of a compaction.
const PAUSE: Duration = Duration::from_millis(2);

/// Everything that was read.
#[derive(Debug)]
pub struct Store {
    /// The directory, or the file of a single segment.
    pub path: PathBuf,
    /// Whether it is a single segment.
    pub is_segment: bool,
    /// The control file: `None` if there is none.
    pub control: Option<Result<Control, Error>>,
    /// The segments, by id.
    pub segments: Vec<Segment>,
    /// What they make up.
    pub history: History,
    /// What was known beside the files.
    pub around: Around,
    /// How many dead segments it keeps to write them again, as temporary stores do.
    pub recycled: u64,
    /// Files that were not finished or are set aside, and those that do not belong to a store.
    pub other_files: Vec<String>,
}

/// Why a path cannot be read as a store.
#[derive(Debug)]
pub enum Refusal {
    /// The operating system refuses.
    Io(PathBuf, io::Error),
    /// There is no store.
    NoStore(PathBuf, &'static str),
    /// The file has another version of the format.
    Version(PathBuf, Error),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Io(path, error) => write!(f, "cannot read {}: {error}", shown(path)),
            Refusal::NoStore(path, why) => write!(f, "{}: {why}", shown(path)),
            Refusal::Version(path, error) => {
                let (path, found, known) = (shown(path), &error.found, &error.expected);
                write!(
                    f,
                    "{path}: this file has format version {found}, and this partd-inspect reads \
                     version {known}; use one that is as new as the program that wrote the store"
                )
            }
        }
    }
}

impl Store {
    /// Reads the store, or the one segment, at `path`.
    ///
    /// # Errors
    ///
    /// If there is no store or segment at `path`, or if it cannot be read.
    pub fn read(path: &Path) -> Result<Store, Refusal> {
        Ok(Store::read_with(path, |_| ())?.0)
    }

    /// The same, with a look at each segment as soon as it is walked, while others still are: what
    /// `look` returns, in the order of the segments. Some it may see that turn out not to count, and
    /// where the store has to be read again, it looks once more, when that is done.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Store::read).
    pub fn read_with<T: Send>(
        path: &Path,
        look: impl Fn(&Segment) -> T + Sync,
    ) -> Result<(Store, Vec<T>), Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        if !fs::metadata(path).map_err(io)?.is_dir() {
            return Store::read_segment(path, false, look);
        }
        let (mut attempt, mut moves, mut is_again) = (1, false, false);
        loop {
            let is_last = attempt == ATTEMPTS;
            attempt += 1;
            let once = |segment: &Segment| (!is_again).then(|| look(segment));
            let Some((store, looks)) = Store::read_once(path, moves, is_last, &once)? else {
                thread::sleep(PAUSE * (1 << attempt));
                continue;
            };
            let words = |control: &Option<Result<Control, Error>>| {
                let control = control.as_ref()?.as_ref().ok()?;
                Some((control.generation, control.commit.encode()))
            };
            let before = words(&store.control);
            let after = Control::read(path).map_or(before, |control| words(&control));
            // Its writers may be where this process cannot see them, as in another container.
            let unseen = !store.around.is_open && after != before;
            // A compaction may have published and unlinked since the directory was listed.
            let rearranged = after.map(|(generation, _)| generation) != before.map(|(g, _)| g);
            let again = unseen || store.is_damaged() && rearranged;
            if !again || is_last {
                let looks = looks.into_par_iter().zip(&store.segments);
                let looks = looks.map(|(looked, segment)| looked.unwrap_or_else(|| look(segment)));
                let looks = looks.collect();
                // What is not kept open may have gone while it was looked at.
                if is_last || !store.has_gone() {
                    return Ok((store, looks));
                }
            }
            (moves, is_again) = (moves || unseen, true);
        }
    }

    /// Reads the file of one segment, whatever is in it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn read_any_segment(path: &Path) -> Result<Store, Refusal> {
        Ok(Store::read_segment(path, true, |_| ())?.0)
    }

    /// Reads it once. `None` if a file was gone before it could be opened, but for the last attempt.
    /// Of a store that moves it is known that somebody has it open.
    fn read_once<T: Send>(
        path: &Path,
        moves: bool,
        is_last: bool,
        look: &(impl Fn(&Segment) -> T + Sync),
    ) -> Result<Option<(Store, Vec<T>)>, Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let file = path.join("control");
        let control = match Control::read(path) {
            Err(error) => return Err(Refusal::Io(file, error)),
            Ok(Some(Err(error))) if is_later_version(&error) => {
                let bytes = fs::read(&file).map_err(|error| Refusal::Io(file.clone(), error))?;
                if !repair::is_control(&bytes) {
                    return Err(Refusal::Version(file, error));
                }
                Some(Err(error))
            }
            Ok(control) => control,
        };
        let (mut names, mut recycled, mut other_files) = (Vec::new(), 0, Vec::new());
        for entry in fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            match Name::of(name.as_encoded_bytes()) {
                Name::Segment(_) => names.push(path.join(&name)),
                Name::Control | Name::Reserve => {}
                Name::Recycled => recycled += 1,
                Name::Unfinished | Name::Torn | Name::Strange => other_files.push(shown(&name)),
            }
        }
        if names.is_empty() && control.is_none() {
            let why = "there is no store here: neither a control file nor a segment \
                       (0000000000000001.seg); give the directory of a store or a segment file";
            return Err(Refusal::NoStore(path.to_owned(), why));
        }
        names.sort();
        other_files.sort();
        let mut opened = Vec::new();
        for path in names {
            match Source::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_last => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                source => opened.push((path, source)),
            }
        }
        let walk = |(path, source): (PathBuf, io::Result<Source>)| {
            let segment = match source {
                Ok(source) => Segment::walk(source),
                Err(error) => Segment::unreadable(&path, &error),
            };
            let look = look(&segment);
            (segment, look)
        };
        // The system may take some milliseconds to list its locks.
        let (locks, (segments, looks)) = thread::scope(|scope| {
            let locks = thread::Builder::new().spawn_scoped(scope, Locks::read);
            let walked: (Vec<Segment>, Vec<T>) = opened.into_par_iter().map(walk).unzip();
            let locks = locks.ok().and_then(|locks| locks.join().ok());
            (locks.unwrap_or_else(Locks::read), walked)
        });
        if !is_last && segments.iter().any(|segment| segment.source.has_gone()) {
            return Ok(None);
        }
        segments.iter().try_for_each(same_version)?;
        let is_open = moves || is_open(path, control.as_ref(), &locks);
        let around = Around { running: boot_id().ok(), is_open, is_segment: false };
        let store = Store::assemble(path, control, segments, other_files, around);
        Ok(Some((Store { recycled, ..store }, looks)))
    }

    fn read_segment<T>(
        path: &Path,
        any: bool,
        look: impl Fn(&Segment) -> T,
    ) -> Result<(Store, Vec<T>), Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let segment = Segment::walk(Source::open(path).map_err(io)?);
        same_version(&segment)?;
        if let Err(error) = &segment.header
            && matches!(error.what, "magic" | "length of segment file")
            && !any
            && segment.name_id.is_none()
            && !segment.is_right_but_for_one_bit()
        {
            let why = "this is no segment of a store: it does not begin with PARTDSEG; give the \
                       directory of a store or a segment file";
            return Err(Refusal::NoStore(path.to_owned(), why));
        }
        let around = Around { running: None, is_open: false, is_segment: true };
        let look = look(&segment);
        Ok((Store::assemble(path, None, vec![segment], Vec::new(), around), vec![look]))
    }

    /// Makes a store of parts that were read.
    #[must_use]
    pub fn assemble(
        path: &Path,
        control: Option<Result<Control, Error>>,
        segments: Vec<Segment>,
        other_files: Vec<String>,
        around: Around,
    ) -> Store {
        let is_segment = around.is_segment;
        let good = control.as_ref().and_then(|control| control.as_ref().ok());
        let mut history = History::find(path, &segments, good, around);
        if let Some(Err(error)) = &control {
            let path = path.join("control");
            history.problems.push(Problem::format(Severity::Scar, &path, error));
        }
        if let Some(Err(error)) = good.map(|control| &control.durable_seq) {
            let path = path.join("control");
            history.problems.push(Problem::format(Severity::Scar, &path, error));
        }
        history
            .problems
            .sort_by(|a, b| (b.severity, &a.path, a.offset).cmp(&(a.severity, &b.path, b.offset)));
        let path = path.to_owned();
        let recycled = 0;
        Store { path, is_segment, control, segments, history, around, recycled, other_files }
    }

    /// The control file, if it is good.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.control.as_ref()?.as_ref().ok()
    }

    /// The uuid of the store, if any file says it.
    #[must_use]
    pub fn uuid(&self) -> Option<[u8; 16]> {
        let segments = self.segments.iter().zip(&self.history.counts);
        let counted = segments.filter(|(_, counts)| **counts);
        let mut headers = counted.filter_map(|(segment, _)| segment.header.as_ref().ok());
        headers.next().map(|header| header.store).or(self.control().map(|c| c.fixed.store))
    }

    /// Whether the next to open it for writing will have to recover it.
    #[must_use]
    pub fn needs_recovery(&self) -> bool {
        matches!(self.history.rule, Rule::Recovery | Rule::Numbers)
    }

    /// Whether the writer in a slot lives. Of one that cannot be seen, and whose store moves all the
    /// same, it is not known.
    #[must_use]
    pub fn life(&self, locks: &Locks, slot: &Slot) -> Life {
        let is_seen = || {
            let held = [locks.store(&self.path), locks.presence(&self.path)];
            held.iter().any(|life| *life != Life::Dead)
        };
        match locks.writer(&self.path, slot) {
            Life::Dead if self.around.is_open && !is_seen() => Life::Unknown,
            life => life,
        }
    }

    /// Whether its files are written again while they are read: it is temporary, and its process lives.
    pub fn recycles(&self) -> bool {
        self.around.is_open && self.control().is_some_and(Control::is_temporary)
    }

    /// The version of the format, if any file says it.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        let known = self.control().is_some() || self.segments.iter().any(|s| s.header.is_ok());
        // A file of another version is refused.
        known.then_some(partd_format::VERSION)
    }

    /// Whether a file of it cannot be opened, or could not be opened once more, or what looks like damage may
    /// be that files were written again meanwhile.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| segment.is_unreadable || segment.source.has_gone())
            || self.is_damaged() && self.has_gone()
    }

    /// Whether a file went away before it was read as far as it was to be, or may have been written again: what
    /// is then missing or wrong says nothing about the store.
    #[must_use]
    pub fn has_gone(&self) -> bool {
        let recycles = self.recycles();
        let has_gone = |source: &Source| source.has_gone() || recycles && !source.is_in_place();
        self.segments.iter().any(|segment| has_gone(&segment.source))
    }

    /// Whether anything acknowledged is known to be lost.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.history.problems.iter().any(|problem| problem.severity == Severity::Damage)
    }
}

/// Whether the handles that are open use this control file: one is present on it, or the store is temporary and
/// its handle holds the lock of the store.
fn is_open(path: &Path, control: Option<&Result<Control, Error>>, locks: &Locks) -> bool {
    let is_temporary = matches!(control, Some(Ok(control)) if control.is_temporary());
    let held = if is_temporary { locks.store(path) } else { locks.presence(path) };
    held != Life::Dead
}

/// Refuses a segment of another version of the format; one flipped bit does not make it one.
fn same_version(segment: &Segment) -> Result<(), Refusal> {
    match &segment.header {
        Err(error) if is_later_version(error) && !segment.is_right_but_for_one_bit() => {
            Err(Refusal::Version(segment.path().to_owned(), *error))
        }
        _ => Ok(()),
    }
}

/// Whether the version that was found is one that may come; a larger one is damage.
fn is_later_version(error: &Error) -> bool {
    let later = u64::from(partd_format::VERSION) + 1..256;
    error.what == "format version"
        && matches!(error.found, Evidence::Number(found) if later.contains(&found))
}
