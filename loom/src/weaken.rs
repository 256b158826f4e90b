//! Sites and weakenings: each atomic operation is identified by its location in the source, and
//! either half of its ordering can be removed.
//!
//! Sites are collected while a scenario runs, so the tests also weaken operations that are added to
//! the protocol later, without any list.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

const COMMIT_RS: &str = include_str!("../../src/log/shared/commit.rs");
const WORLD_RS: &str = include_str!("world.rs");

/// The half of an ordering that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// The acquire of a load or of a successful exchange.
    Acquire,
    /// The release of a store or of a successful exchange.
    Release,
    /// The acquire of an exchange that fails.
    Failure,
}

/// One half of the ordering of one operation in the source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    file: &'static str,
    line: u32,
    column: u32,
    /// The half of the ordering.
    pub half: Half,
}

impl Site {
    fn new(at: &'static Location<'static>, half: Half) -> Site {
        Site { file: at.file(), line: at.line(), column: at.column(), half }
    }

    /// The operation's source text, from the name of the method to the end of the line.
    pub fn operation(&self) -> &'static str {
        let text = if self.is_engine() { COMMIT_RS } else { WORLD_RS };
        let line = text.lines().nth(self.line as usize - 1).unwrap_or("");
        // A call's location is the name of its method; the word that it is called on precedes it.
        let method = (self.column as usize - 1).min(line.len());
        let begin = line[..method].rfind([' ', '(']).map_or(0, |at| at + 1);
        &line[begin..]
    }

    /// Whether the operation belongs to the engine rather than to the model around it.
    pub fn is_engine(&self) -> bool {
        self.file.ends_with("commit.rs")
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.is_engine() { "commit.rs" } else { "world.rs" };
        write!(f, "{file}:{} without {:?}: {}", self.line, self.half, self.operation())
    }
}

/// The defects of the protocol in a run, and the sites that the run has executed.
#[derive(Debug, Default)]
pub struct Weakness {
    /// The removed halves of orderings.
    pub missing: BTreeSet<Site>,
    /// Whether the new owner of a slot omits `take_over`.
    pub no_take_over: bool,
    /// Whether a helper does not recheck the commit word.
    pub no_second_look: bool,
    seen: Mutex<BTreeSet<Site>>,
}

impl Weakness {
    /// A protocol without these halves of orderings.
    pub fn without(sites: impl IntoIterator<Item = Site>) -> Weakness {
        Weakness { missing: sites.into_iter().collect(), ..Weakness::default() }
    }

    /// The sites that were executed.
    pub fn seen(&self) -> Vec<Site> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn keeps(&self, at: &'static Location<'static>, half: Half) -> bool {
        let site = Site::new(at, half);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(site);
        !self.missing.contains(&site)
    }

    /// The ordering of a load or a store.
    pub fn order(&self, at: &'static Location<'static>, order: Ordering) -> Ordering {
        let half = match order {
            Acquire => Half::Acquire,
            Release => Half::Release,
            Relaxed => return Relaxed,
            other => panic!("a load or store with {other:?}"),
        };
        if self.keeps(at, half) { order } else { Relaxed }
    }

    /// The orderings of an exchange.
    pub fn orders(
        &self,
        at: &'static Location<'static>,
        success: Ordering,
        failure: Ordering,
    ) -> (Ordering, Ordering) {
        let acquires = matches!(success, AcqRel | Acquire) && self.keeps(at, Half::Acquire);
        let releases = matches!(success, AcqRel | Release) && self.keeps(at, Half::Release);
        let success = match (acquires, releases) {
            (true, true) => AcqRel,
            (true, false) => Acquire,
            (false, true) => Release,
            (false, false) => Relaxed,
        };
        let failure = match failure {
            Acquire if !self.keeps(at, Half::Failure) => Relaxed,
            other => other,
        };
        (success, failure)
    }
}
