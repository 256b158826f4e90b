//! Reads a whole store, or a single segment: walks the segment files in parallel and finds their
//! history.
//!
//! Under live writers it reads the commit word first, so that everything it covers can be found. It
//! opens the files before it reads the first, as many as the limit allows. If files were published
//! or unlinked meanwhile, it starts again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use partd_format::{Error, Evidence};
use rayon::prelude::*;

use crate::control::{Control, WriterSlot, boot_id};
use crate::history::{Environment, History, Rule};
use crate::locks::{Liveness, Locks};
use crate::names::Name;
use crate::path::shown;
use crate::problem::{Problem, Severity};
use crate::repair;
use crate::source::Source;
use crate::walk::Segment;

/// How many times to read a store before giving up if its files change meanwhile.
const ATTEMPTS: u32 = 5;
/// A quarter of the pause before the second reading; the pause doubles each time.
const PAUSE: Duration = Duration::from_millis(2);

/// A store, as it was read.
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
    /// The history that they hold.
    pub history: History,
    /// The facts, besides the files, that decided the rule.
    pub environment: Environment,
    /// The number of recycled segments: dead ones that a temporary store keeps to reuse.
    pub recycled: u64,
    /// Unfinished and torn files, and files that do not belong to a store.
    pub other_files: Vec<String>,
}

/// The reason why a path cannot be read as a store.
#[derive(Debug)]
pub enum Refusal {
    /// The operating system reported an error.
    Io(PathBuf, io::Error),
    /// There is no store at the path.
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
                    "{path}: this file has format version {found}, but this partd-inspect reads \
                     version {known}; use one as new as the program that wrote the store"
                )
            }
        }
    }
}

impl Store {
    /// Reads the store, or the single segment, at `path`.
    ///
    /// # Errors
    /// If there is no store, its format version is newer, or it cannot be read.
    pub fn read(path: &Path) -> Result<Store, Refusal> {
        Ok(Store::read_with(path, |_| ())?.0)
    }

    /// Reads the store and calls `visit` on each segment as soon as it is walked, while other
    /// segments are still being walked. Returns the results in the order of the segments.
    ///
    /// `visit` also sees segments that turn out not to be part of the store. If the store has to be
    /// read again, `visit` runs again on the final segments.
    ///
    /// # Errors
    /// Those of [`read`](Store::read).
    pub fn read_with<T: Send>(
        path: &Path,
        visit: impl Fn(&Segment) -> T + Sync,
    ) -> Result<(Store, Vec<T>), Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        if !fs::metadata(path).map_err(io)?.is_dir() {
            return Store::read_segment(path, false, visit);
        }
        let (mut attempt, mut is_changing, mut is_again) = (1, false, false);
        loop {
            let is_last = attempt == ATTEMPTS;
            attempt += 1;
            let once = |segment: &Segment| (!is_again).then(|| visit(segment));
            let Some((store, visits)) = Store::read_once(path, is_changing, is_last, &once)? else {
                thread::sleep(PAUSE * (1 << attempt));
                continue;
            };
            let words = |control: &Option<Result<Control, Error>>| {
                let control = control.as_ref()?.as_ref().ok()?;
                Some((control.directory_epoch, control.commit.encode()))
            };
            let before = words(&store.control);
            let after = Control::read(path).map_or(before, |control| words(&control));
            // This process may be unable to see its writers, which may run in another container.
            let unseen = !store.environment.is_open && after != before;
            // A compaction may have published and unlinked since the directory was listed.
            let rearranged =
                after.map(|(directory_epoch, _)| directory_epoch) != before.map(|(g, _)| g);
            // An output that was published after the commit word was read has entries of later batches.
            let history = &store.history;
            let ahead = history.rule == Rule::CommitWord && history.max_seq > history.last;
            let again = unseen || (store.is_damaged() || ahead) && rearranged;
            if !again || is_last {
                let visits = visits.into_par_iter().zip(&store.segments);
                let visits =
                    visits.map(|(visited, segment)| visited.unwrap_or_else(|| visit(segment)));
                let visits = visits.collect();
                // A file that is not kept open may have been removed while it was visited.
                if is_last || !store.has_gone() {
                    return Ok((store, visits));
                }
            }
            (is_changing, is_again) = (is_changing || unseen, true);
        }
    }

    /// Reads the file of one segment, whatever it contains.
    ///
    /// # Errors
    /// If its format version is newer or it cannot be read.
    pub fn read_any_segment(path: &Path) -> Result<Store, Refusal> {
        Ok(Store::read_segment(path, true, |_| ())?.0)
    }

    /// Reads the store once. Returns `None` if a file was removed before it was read, except on the
    /// last attempt. `is_changing` says that the commit word was seen to change: the store is open.
    fn read_once<T: Send>(
        path: &Path,
        is_changing: bool,
        is_last: bool,
        visit: &(impl Fn(&Segment) -> T + Sync),
    ) -> Result<Option<(Store, Vec<T>)>, Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let file = path.join("control");
        let control = match Control::read(path) {
            Err(error) => return Err(Refusal::Io(file, error)),
            Ok(Some(Err(error))) if is_newer_version(&error) => {
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
                Name::UnfinishedBackup => {
                    let why = "this is an unfinished backup: it is still being made, or it was \
                               interrupted. If nobody is making it any more, remove the directory and \
                               make the backup again";
                    return Err(Refusal::NoStore(path.to_owned(), why));
                }
                Name::Unfinished | Name::Torn | Name::Foreign => other_files.push(shown(&name)),
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
            let visit = visit(&segment);
            (segment, visit)
        };
        // Listing the locks may take some milliseconds, so it runs in parallel.
        let (locks, (segments, visits)) = thread::scope(|scope| {
            let locks = thread::Builder::new().spawn_scoped(scope, Locks::read);
            let walked: (Vec<Segment>, Vec<T>) = opened.into_par_iter().map(walk).unzip();
            let locks = locks.ok().and_then(|locks| locks.join().ok());
            (locks.unwrap_or_else(Locks::read), walked)
        });
        if !is_last && segments.iter().any(|segment| segment.source.has_gone()) {
            return Ok(None);
        }
        segments.iter().try_for_each(check_version)?;
        let is_open = is_changing || is_open(path, control.as_ref(), &locks);
        let environment = Environment { running: boot_id().ok(), is_open, is_segment: false };
        let store = Store::assemble(path, control, segments, other_files, environment);
        Ok(Some((Store { recycled, ..store }, visits)))
    }

    fn read_segment<T>(
        path: &Path,
        any: bool,
        visit: impl Fn(&Segment) -> T,
    ) -> Result<(Store, Vec<T>), Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let segment = Segment::walk(Source::open(path).map_err(io)?);
        check_version(&segment)?;
        if let Err(error) = &segment.header
            && matches!(error.what, "magic" | "length of segment file")
            && !any
            && segment.name_id.is_none()
            && !segment.has_one_wrong_bit()
        {
            let why = "this is not a segment: it does not begin with PARTDSEG; give the \
                       directory of a store or a segment file";
            return Err(Refusal::NoStore(path.to_owned(), why));
        }
        let environment = Environment { running: None, is_open: false, is_segment: true };
        let visit = visit(&segment);
        Ok((Store::assemble(path, None, vec![segment], Vec::new(), environment), vec![visit]))
    }

    /// Builds a store from its parts.
    #[must_use]
    pub fn assemble(
        path: &Path,
        control: Option<Result<Control, Error>>,
        segments: Vec<Segment>,
        other_files: Vec<String>,
        environment: Environment,
    ) -> Store {
        let is_segment = environment.is_segment;
        let good = control.as_ref().and_then(|control| control.as_ref().ok());
        let mut history = History::find(path, &segments, good, environment);
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
        Store { path, is_segment, control, segments, history, environment, recycled, other_files }
    }

    /// The control file, if it is good.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.control.as_ref()?.as_ref().ok()
    }

    /// The uuid of the store, if a file holds one.
    #[must_use]
    pub fn uuid(&self) -> Option<[u8; 16]> {
        let segments = self.segments.iter().zip(&self.history.included);
        let counted = segments.filter(|(_, included)| **included);
        let mut headers = counted.filter_map(|(segment, _)| segment.header.as_ref().ok());
        headers.next().map(|header| header.store).or(self.control().map(|c| c.fixed.store))
    }

    /// Whether the next handle that opens it for writing will have to recover it.
    #[must_use]
    pub fn needs_recovery(&self) -> bool {
        matches!(self.history.rule, Rule::Recovery | Rule::Numbers)
    }

    /// Whether the writer that leased a slot is alive. `Unknown` if no lock on the store is visible
    /// although the store is open.
    #[must_use]
    pub fn liveness(&self, locks: &Locks, slot: &WriterSlot) -> Liveness {
        let is_seen = || {
            let held = [locks.store(&self.path), locks.presence(&self.path)];
            held.iter().any(|liveness| *liveness != Liveness::Dead)
        };
        match locks.writer(&self.path, slot) {
            Liveness::Dead if self.environment.is_open && !is_seen() => Liveness::Unknown,
            liveness => liveness,
        }
    }

    /// Whether its files may be reused while they are read: it is temporary and its process is
    /// alive.
    pub fn recycles(&self) -> bool {
        self.environment.is_open && self.control().is_some_and(Control::is_temporary)
    }

    /// The format version, if a file holds one.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        let known = self.control().is_some() || self.segments.iter().any(|s| s.header.is_ok());
        // Files of other versions are refused.
        known.then_some(partd_format::VERSION)
    }

    /// Whether a file could not be opened, was removed before it was read, or may look damaged only
    /// because it was reused meanwhile.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| segment.is_unreadable || segment.source.has_gone())
            || self.is_damaged() && self.has_gone()
    }

    /// Whether a file was removed, or may have been reused, before it was read completely. Bytes
    /// that are missing or wrong then prove nothing about the store.
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

/// Whether open handles use this control file: one holds the presence lock on it, or the store is
/// temporary and its handle holds the lock of the store.
fn is_open(path: &Path, control: Option<&Result<Control, Error>>, locks: &Locks) -> bool {
    let is_temporary = matches!(control, Some(Ok(control)) if control.is_temporary());
    let held = if is_temporary { locks.store(path) } else { locks.presence(path) };
    held != Liveness::Dead
}

/// Refuses a segment of a newer format version, unless a flipped bit explains the version.
fn check_version(segment: &Segment) -> Result<(), Refusal> {
    match &segment.header {
        Err(error) if is_newer_version(error) && !segment.has_one_wrong_bit() => {
            Err(Refusal::Version(segment.path().to_owned(), *error))
        }
        _ => Ok(()),
    }
}

/// Whether the version found may be a future one. A version above 255 is damage.
fn is_newer_version(error: &Error) -> bool {
    let newer = u64::from(partd_format::VERSION) + 1..256;
    error.what == "format version"
        && matches!(error.found, Evidence::Number(found) if newer.contains(&found))
}
