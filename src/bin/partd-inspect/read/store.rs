//! A store, or a single segment, read as a whole: the files that are there, walked in parallel, and
//! the history that they make.
//!
//! Under live writers the commit word is read first, so that everything it counts can be found; when
//! files came or went meanwhile, the reading is done again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use partd_format::Error;
use partd_format::segment::id_of_file_name;
use rayon::prelude::*;

use super::control::{Control, Life, Locks, boot_id};
use super::history::{Around, History, Rule};
use super::problem::{Problem, Severity};
use super::source::Source;
use super::walk::Segment;

/// How often a store is read again because it changed its files meanwhile.
const ATTEMPTS: u32 = 5;

/// Everything that was read.
#[derive(Debug)]
pub(crate) struct Store {
    /// The directory, or the file of a single segment.
    pub(crate) path: PathBuf,
    /// Whether it is a single segment.
    pub(crate) is_segment: bool,
    /// The control file: `None` if there is none.
    pub(crate) control: Option<Result<Control, Error>>,
    /// The segments, by id.
    pub(crate) segments: Vec<Segment>,
    /// What they make up.
    pub(crate) history: History,
    /// Files that were not finished, and those that do not belong to a store.
    pub(crate) other_files: Vec<String>,
}

/// Why a path cannot be read as a store.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The operating system refuses.
    Io(PathBuf, io::Error),
    /// There is no store.
    NoStore(PathBuf, &'static str),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Io(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Refusal::NoStore(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl Store {
    /// Reads the store, or the one segment, at `path`.
    pub(crate) fn read(path: &Path) -> Result<Store, Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        if !fs::metadata(path).map_err(io)?.is_dir() {
            return Store::read_segment(path);
        }
        let mut attempt = 1;
        loop {
            let store = Store::read_once(path)?;
            let generation = |control: &Option<Result<Control, Error>>| {
                control.as_ref()?.as_ref().ok().map(|control| control.generation)
            };
            let before = generation(&store.control);
            let complete = store.history.missing.is_empty();
            let after = || Control::read(path).ok().map(|control| generation(&control));
            if complete || attempt == ATTEMPTS || after() == Some(before) {
                return Ok(store);
            }
            attempt += 1;
        }
    }

    fn read_once(path: &Path) -> Result<Store, Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let control =
            Control::read(path).map_err(|error| Refusal::Io(path.join("control"), error))?;
        let (mut names, mut other_files) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let text = name.to_string_lossy();
            if id_of_file_name(name.as_encoded_bytes()).is_some() {
                names.push(path.join(&name));
            } else if text != "control" && !text.ends_with(".lock") {
                other_files.push(text.into_owned());
            }
        }
        if names.is_empty() && control.is_none() {
            let why = "there is no store here: neither a control file nor a segment \
                       (0000000000000001.seg); give the directory of a store or a segment file";
            return Err(Refusal::NoStore(path.to_owned(), why));
        }
        names.sort();
        other_files.sort();
        let walk = |path: &PathBuf| match Source::open(path) {
            Ok(source) => Some(Ok(Segment::walk(source))),
            // Compacted away since the directory was listed: numbers will tell if it mattered.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(Refusal::Io(path.clone(), error))),
        };
        let segments = names.par_iter().filter_map(walk).collect::<Result<Vec<_>, _>>()?;
        let is_open = Locks::read().holds(&path.join("store.lock")) != Life::Dead;
        let around = Around { running: boot_id().ok(), is_open, is_segment: false };
        Ok(Store::assemble(path, control, segments, other_files, around))
    }

    fn read_segment(path: &Path) -> Result<Store, Refusal> {
        let io = |error| Refusal::Io(path.to_owned(), error);
        let segment = Segment::walk(Source::open(path).map_err(io)?);
        if let Err(error) = &segment.header
            && matches!(error.what, "magic" | "length of segment file")
        {
            let why = "this is no segment of a store: it does not begin with PARTDSEG; give the \
                       directory of a store or a segment file";
            return Err(Refusal::NoStore(path.to_owned(), why));
        }
        let around = Around { running: None, is_open: false, is_segment: true };
        Ok(Store::assemble(path, None, vec![segment], Vec::new(), around))
    }

    /// Makes a store of parts that were read.
    pub(crate) fn assemble(
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
        if let Some(Err(error)) = good.map(|control| &control.synced) {
            let path = path.join("control");
            history.problems.push(Problem::format(Severity::Scar, &path, error));
        }
        history
            .problems
            .sort_by(|a, b| (b.severity, &a.path, a.offset).cmp(&(a.severity, &b.path, b.offset)));
        Store { path: path.to_owned(), is_segment, control, segments, history, other_files }
    }

    /// The control file, if it is good.
    pub(crate) fn control(&self) -> Option<&Control> {
        self.control.as_ref()?.as_ref().ok()
    }

    /// The uuid of the store, if any file says it.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        let segments = self.segments.iter().zip(&self.history.counts);
        let counted = segments.filter(|(_, counts)| **counts);
        let mut headers = counted.filter_map(|(segment, _)| segment.header.as_ref().ok());
        headers.next().map(|header| header.store).or(self.control().map(|c| c.fixed.store))
    }

    /// Whether the next to open it for writing will have to recover it.
    pub(crate) fn needs_recovery(&self) -> bool {
        matches!(self.history.rule, Rule::Recovery | Rule::Numbers)
    }

    /// Whether anything acknowledged is known to be lost.
    pub(crate) fn is_damaged(&self) -> bool {
        self.history.problems.iter().any(|problem| problem.severity == Severity::Damage)
    }
}
