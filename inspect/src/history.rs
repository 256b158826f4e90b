//! Which batches make up the history, and what is wrong with it: the rules of SPEC.md, "The
//! history", applied to segments that were walked.
//!
//! It decides, and reads nothing but the values that the recovery rule asks for. A broken piece is
//! damage when it takes something from the history or lies where the store is known to be on
//! stable storage; otherwise it is the scar of a power cut.

use std::collections::BTreeMap;
use std::path::Path;

use partd_format::segment::Retained;
use partd_format::{Ending, Salt, State};

use crate::control::Control;
use crate::problem::{Problem, Severity};
use crate::select::{Selected, select, store_of};
use crate::source::Source;
use crate::walk::{BatchInfo, EntryInfo, Segment};

/// How the end of the history was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The commit word says it: the store is open, or was closed by its last handle.
    CommitWord,
    /// The numbers themselves say it: the writers died, but the machine has not been booted since,
    /// so that everything they stored is there.
    Numbers,
    /// The recovery rule says it: the machine was booted since, or the control file is no help.
    Recovery,
    /// Nothing does: a single segment holds some numbers of a history, and all of them count.
    Alone,
}

/// What is known beside the files: it decides which rule holds.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// The boot id of the running system.
    pub running: Option<[u8; 16]>,
    /// Whether anybody has the store open.
    pub is_open: bool,
    /// Whether this is a single segment.
    pub is_segment: bool,
}

impl Around {
    fn rule(self, segments: &[Segment], control: Option<&Control>) -> Rule {
        let Some(control) = control.filter(|_| !self.is_segment) else {
            return if self.is_segment { Rule::Alone } else { Rule::Recovery };
        };
        let closed = control.clean
            && segments.iter().filter_map(|s| s.name_id).all(|id| id < control.next_segment);
        // What a copy says of its boot is about the store that it was copied from.
        match Some(control.fixed.boot) == self.running && !control.is_copy {
            true if self.is_open || closed => Rule::CommitWord,
            true => Rule::Numbers,
            false => Rule::Recovery,
        }
    }
}

/// A batch of the history, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its sequence number.
    pub sequence: u64,
    /// The segment, among those of the store.
    pub segment: usize,
    /// The batch, among those of the segment.
    pub batch: usize,
}

/// The one history of a store.
#[derive(Debug)]
pub struct History {
    /// How its end was found.
    pub rule: Rule,
    /// Its last number.
    pub last: u64,
    /// Up to where it is known to be on stable storage.
    pub mark: u64,
    /// Numbers up to this one may be missing: a compaction has dropped them.
    pub max_seq: u64,
    /// The batches with numbers up to `last` whose headers are good, in order; outputs have none.
    pub batches: Vec<Place>,
    /// Batches with numbers above `last`, in order: those that are whole under the recovery rule, under
    /// the commit word those whose headers are good, which are being committed just now.
    pub beyond: Vec<Place>,
    /// Numbers that should be there and are not, as first and last of each gap.
    pub missing: Vec<(u64, u64)>,
    /// For each segment: whether it belongs to the store and no output replaces it.
    pub counts: Vec<bool>,
    /// For each segment: whether an output replaces it.
    pub replaced: Vec<bool>,
    /// What the newest output asks of the segments beside it.
    pub retained: Vec<Retained>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl History {
    /// Works the history out, under the rule that `around` asks for.
    pub fn find(
        dir: &Path,
        segments: &[Segment],
        control: Option<&Control>,
        around: Around,
    ) -> History {
        let mut problems = Vec::new();
        let store = store_of(segments, control);
        let control = control.filter(|control| store.is_none_or(|s| s == control.fixed.store));
        let header_severity = if around.is_segment { Severity::Damage } else { Severity::Scar };
        let Selected { counts, replaced, newest } =
            select(segments, store, header_severity, &mut problems);
        let counted = || segments.iter().zip(&counts).filter(|(_, counts)| **counts);
        let outputs = counted().filter_map(|(segment, _)| segment.header.as_ref().ok()?.output);
        let max_seq = outputs.map(|output| output.max_seq).max().unwrap_or(0);
        let noted = |control: &Control| control.durable_seq.as_ref().ok().copied();
        let heads =
            counted().flat_map(|(segment, _)| &segment.batches).filter_map(|b| b.good_head());
        let repeated = heads.map(|head| head.durable_seq).max().unwrap_or(0);
        let mark = control.and_then(noted).unwrap_or(0).max(repeated).max(max_seq);

        let all = places(segments, &counts, &mut problems);
        let rule = around.rule(segments, control);
        let is_good =
            |place: &Place| segments[place.segment].batches[place.batch].good_head().is_some();
        let highest = all.last().map_or(0, |place| place.sequence);
        let visible = control.map_or(0, |control| control.commit.visible());
        let last = match rule {
            Rule::Alone => highest,
            Rule::CommitWord => visible,
            Rule::Numbers => highest.max(mark),
            Rule::Recovery => recovered(segments, &all, mark),
        };
        let split = all.partition_point(|place| place.sequence <= last);
        let missing = match rule {
            Rule::Alone => Vec::new(),
            _ => gaps(all[..split].iter().map(|place| place.sequence), max_seq, last),
        };
        let batches: Vec<Place> = all[..split].iter().copied().filter(is_good).collect();
        let beyond = match rule {
            Rule::Alone | Rule::Numbers => Vec::new(),
            Rule::CommitWord => all[split..].iter().copied().filter(is_good).collect(),
            Rule::Recovery => {
                all[split..].iter().copied().filter(|p| whole(segments, *p)).collect()
            }
        };
        for place in &all[..split] {
            let segment = &segments[place.segment];
            if let Some(Err(error)) = &segment.batches[place.batch].head {
                let problem = Problem::format(Severity::Damage, segment.path(), error);
                problems.push(problem.costs(format!("batch {} is lost", place.sequence)));
            }
        }
        for &(first, last) in &missing {
            let mut problem = Problem::file(
                Severity::Damage,
                dir,
                "history",
                range(first, last),
                "no such batch",
            );
            problem.consequence = hint(segments, &counts, &replaced);
            problems.push(problem);
        }
        // A writer that died between its last two steps leaves a number that is taken and not done.
        let counted = |control: &Control| [visible, control.commit.sequence].contains(&last);
        if rule == Rule::Numbers && !control.is_some_and(counted) {
            problems.push(commit_word(dir, segments, visible, last));
        }
        let mut history = History {
            rule,
            last,
            mark,
            max_seq,
            batches,
            beyond,
            missing,
            counts,
            replaced,
            retained: newest,
            problems,
        };
        history.check_chains(dir, segments);
        history
    }

    /// Holds each chain against the note of its segment and against what the newest output asks.
    fn check_chains(&mut self, dir: &Path, segments: &[Segment]) {
        let mut retained: BTreeMap<u64, u64> =
            self.retained.iter().map(|keep| (keep.id, keep.end)).collect();
        for (i, segment) in segments.iter().enumerate() {
            let kept = retained.remove(&segment.id());
            let path = segment.path();
            if !self.counts[i] {
                if let (Some(end), Err(error)) =
                    (kept.filter(|_| !self.replaced[i]), &segment.header)
                {
                    // Numbers need not tell of its loss: those that it holds may be missing.
                    let problem = Problem::format(Severity::Damage, path, error);
                    let consequence = format!("an output needs its batches up to offset {end}");
                    self.problems.push(Problem { consequence: Some(consequence), ..problem });
                }
                continue;
            }
            if let Err(error) = &segment.durable_end {
                self.problems.push(Problem::format(Severity::Scar, path, error));
            }
            let note = segment.durable_end.as_ref().copied().unwrap_or(0);
            let is_output = segment.is_output();
            let reach = if is_output { u64::MAX } else { note.max(kept.unwrap_or(0)) };
            if segment.io.is_none() {
                self.check_end(segment, reach, is_output);
            }
            for batch in &segment.batches {
                let inside = batch.offset + batch.len <= reach;
                let severity = if inside { Severity::Damage } else { Severity::Scar };
                match (&batch.state, &batch.head) {
                    (Err(error), _) => {
                        self.problems.push(Problem::format(severity, path, error));
                    }
                    (Ok(State::Committed(sequence)), Some(Err(error)))
                        if is_output || *sequence > self.last && self.rule == Rule::Recovery =>
                    {
                        self.problems.push(Problem::format(severity, path, error));
                    }
                    _ => {}
                }
            }
        }
        for (id, end) in retained {
            if self.rule != Rule::Alone && !self.is_replaced(segments, id) {
                let name = partd_format::segment::file_name(id);
                let path = dir.join(String::from_utf8_lossy(&name).into_owned());
                let expected = format!("a chain of batches up to offset {end}");
                let problem =
                    Problem::file(Severity::Damage, &path, "segment", expected, "no such file");
                self.problems.push(problem);
            }
        }
    }

    fn is_replaced(&self, segments: &[Segment], id: u64) -> bool {
        let lists = segments.iter().filter_map(|segment| segment.lists.as_ref().ok());
        lists.flat_map(|lists| &lists.inputs).any(|&replaced| replaced == id)
    }

    fn check_end(&mut self, segment: &Segment, reach: u64, is_output: bool) {
        let path = segment.path();
        let is_short = !is_output && segment.end < reach;
        match &segment.ending {
            Ending::Broken(error) => {
                let severity =
                    if is_output || is_short { Severity::Damage } else { Severity::Scar };
                self.problems.push(Problem::format(severity, path, error));
            }
            Ending::Open | Ending::Sealed if is_short => {
                let mut problem = Problem::file(
                    Severity::Damage,
                    path,
                    "chain of batches",
                    format!("at least {reach}"),
                    "its end",
                );
                problem.offset = Some(segment.end);
                self.problems.push(problem);
            }
            Ending::Open if is_output => {
                let what = "link word at the end of an output";
                let mut problem =
                    Problem::file(Severity::Damage, path, what, "the seal", "free space");
                problem.offset = Some(segment.end);
                self.problems.push(problem);
            }
            Ending::Open | Ending::Sealed => {}
        }
    }
}

/// The commit word of a store whose writers died does not fit what is there. Where something in
/// the segments cannot be read, that is what it counted; else the word itself is wrong, and no loss.
fn commit_word(dir: &Path, segments: &[Segment], visible: u64, last: u64) -> Problem {
    let unreadable = segments.iter().any(|segment| {
        matches!(segment.ending, Ending::Broken(_))
            || segment.batches.iter().any(|batch| batch.state.is_err())
    });
    let is_loss = visible > last && unreadable;
    let severity = if is_loss { Severity::Damage } else { Severity::Scar };
    let path = dir.join("control");
    let found = format!("{last}, the last of all segments");
    let mut problem = Problem::file(severity, &path, "commit word", visible, found);
    problem.offset = Some(partd_format::control::COMMIT_AT);
    problem
}

/// Every committed batch that has a number of the history, in order, each number once.
fn places(segments: &[Segment], counts: &[bool], problems: &mut Vec<Problem>) -> Vec<Place> {
    let mut places = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        if !counts[number] || segment.is_output() {
            continue;
        }
        let committed = segment.batches.iter().enumerate().filter_map(|(batch, info)| {
            Some(Place { sequence: info.sequence()?, segment: number, batch })
        });
        places.extend(committed);
    }
    places.sort_unstable();
    places.dedup_by(|second, first| {
        let twice = second.sequence == first.sequence;
        if twice {
            let path = segments[second.segment].path();
            let mut problem = Problem::file(
                Severity::Damage,
                path,
                "sequence number of batch",
                "one that no other batch has",
                format!(
                    "{}, which a batch in {} has too",
                    second.sequence,
                    segments[first.segment].name()
                ),
            );
            problem.offset = Some(segments[second.segment].batches[second.batch].offset);
            problems.push(problem);
        }
        twice
    });
    places
}

/// The end of the history by the recovery rule: the last number such that all above the mark up to
/// it are whole. Never below the mark.
fn recovered(segments: &[Segment], all: &[Place], mark: u64) -> u64 {
    let above = &all[all.partition_point(|place| place.sequence <= mark)..];
    let mut last = mark;
    for place in above {
        if place.sequence != last + 1 || !whole(segments, *place) {
            break;
        }
        last = place.sequence;
    }
    last
}

/// The numbers in (`max_seq`, `last`] that are not among `present`, which is in order.
pub(super) fn gaps(present: impl Iterator<Item = u64>, max_seq: u64, last: u64) -> Vec<(u64, u64)> {
    let (mut gaps, mut next) = (Vec::new(), max_seq.saturating_add(1));
    for sequence in present {
        if sequence < next {
            continue;
        }
        if sequence > next {
            gaps.push((next, sequence - 1));
        }
        next = sequence + 1;
    }
    if next <= last {
        gaps.push((next, last));
    }
    gaps
}

/// Whether a batch is whole: its header good and every value right.
pub fn whole(segments: &[Segment], place: Place) -> bool {
    let segment = &segments[place.segment];
    whole_batch(segment, &segment.batches[place.batch])
}

/// The same of a batch of a segment.
pub fn whole_batch(segment: &Segment, batch: &BatchInfo) -> bool {
    let Some(head) = batch.good_head() else { return false };
    let Some(salt) = segment.salt() else { return false };
    segment.entries_of(head).iter().all(|entry| value_is_right(&segment.source, salt, entry))
}

/// Whether the value of an entry matches its checksum; reads it piece by piece.
pub fn value_is_right(source: &Source, salt: Salt, entry: &EntryInfo) -> bool {
    value_checksum(source, salt, entry).is_ok_and(|found| found == entry.value_checksum)
}

/// How far ahead of its reading a long value is asked for.
const VALUE_AHEAD: u64 = 2 << 20;

/// The checksum that the value of an entry has now; 0 for an entry without a value.
///
/// # Errors
///
/// If the value cannot be read.
pub fn value_checksum(source: &Source, salt: Salt, entry: &EntryInfo) -> std::io::Result<u32> {
    if !entry.kind.has_value() {
        return Ok(0);
    }
    let mut hasher = salt.value_hasher();
    let mut buffer = vec![0; entry.value_len.min(256 << 10) as usize];
    let (mut at, end) = (entry.value_offset, entry.value_offset + entry.value_len);
    while at < end {
        let take = (end - at).min(buffer.len() as u64) as usize;
        if at == entry.value_offset && end - at > take as u64 {
            source.will_read(at, VALUE_AHEAD.min(end - at));
        }
        source.will_read(at + VALUE_AHEAD, (take as u64).min(end.saturating_sub(at + VALUE_AHEAD)));
        source.read_exact(&mut buffer[..take], at)?;
        hasher.update(&buffer[..take]);
        at += take as u64;
    }
    Ok(hasher.finalize())
}

/// Where a chain was seen to break, for the report of a missing number.
fn hint(segments: &[Segment], counts: &[bool], replaced: &[bool]) -> Option<String> {
    let present = segments.iter().zip(counts).zip(replaced).filter(|(_, replaced)| !**replaced);
    let broken = present.map(|(both, _)| both).find_map(|(segment, counts)| {
        let error = match (&segment.header, &segment.ending) {
            (Err(error), _) => error,
            (_, Ending::Broken(error)) if *counts => error,
            _ => segment.batches.iter().find_map(|batch| batch.state.as_ref().err())?,
        };
        // The error itself is told of beside this.
        Some(format!("{}: {} at offset {}", segment.name(), error.what, error.offset))
    });
    broken.map(|at| format!("perhaps in {at}"))
}

/// "batch 3" or "batches 3 to 5".
#[must_use]
pub fn range(first: u64, last: u64) -> String {
    if first == last { format!("batch {first}") } else { format!("batches {first} to {last}") }
}

/// A uuid in its usual form.
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
