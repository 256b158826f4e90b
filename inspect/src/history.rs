//! Applies the rules of SPEC.md, "The history", to walked segments: which batches make up the
//! history, and what is wrong with it.
//!
//! It reads only the values that the recovery rule must check. A broken part is damage if the
//! history loses something by it, or if the store was durable there; otherwise it is the scar of a
//! power cut.

use std::collections::BTreeMap;
use std::path::Path;

use partd_format::segment::Retained;
use partd_format::{Ending, Salt, State};

use crate::control::Control;
use crate::problem::{Problem, Severity};
use crate::select::{Selected, select, store_of};
use crate::source::Source;
use crate::text::range;
use crate::walk::{BatchInfo, EntryInfo, Segment};

/// The rule that gave the end of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The commit word: the store is open, or its last handle closed it.
    CommitWord,
    /// The largest committed number: the writers died, but the machine has not been rebooted since,
    /// so everything they stored is still in memory.
    Numbers,
    /// The recovery rule: the machine was rebooted since, or the control file is missing, unusable
    /// or a copy.
    Recovery,
    /// None: a single segment holds part of a history, and all of it is shown.
    Alone,
}

/// The facts, besides the files, that decide which rule applies.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// The boot id of the running system.
    pub running: Option<[u8; 16]>,
    /// Whether any process has the store open.
    pub is_open: bool,
    /// Whether this is a single segment.
    pub is_segment: bool,
}

impl Environment {
    fn rule(self, segments: &[Segment], control: Option<&Control>) -> Rule {
        let Some(control) = control.filter(|_| !self.is_segment) else {
            return if self.is_segment { Rule::Alone } else { Rule::Recovery };
        };
        let closed = control.clean
            && segments.iter().filter_map(|s| s.name_id).all(|id| id < control.next_segment);
        // The boot id in a copy belongs to the store that it was copied from.
        match Some(control.fixed.boot) == self.running && !control.is_copy {
            true if self.is_open || closed => Rule::CommitWord,
            true => Rule::Numbers,
            false => Rule::Recovery,
        }
    }
}

/// Refers to a committed batch by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchRef {
    /// Its sequence number.
    pub sequence: u64,
    /// Index of the segment in the store.
    pub segment: usize,
    /// Index of the batch in the segment.
    pub batch: usize,
}

/// The one history of a store.
#[derive(Debug)]
pub struct History {
    /// The rule that gave its end.
    pub rule: Rule,
    /// Its last sequence number.
    pub last: u64,
    /// The sequence number up to which it is known to be durable.
    pub durable_seq: u64,
    /// The largest `max_seq` of any output. Numbers up to it may be missing: a compaction dropped
    /// them.
    pub max_seq: u64,
    /// The batches with numbers up to `last` whose headers are good, in order; without those of
    /// outputs.
    pub batches: Vec<BatchRef>,
    /// The batches with numbers above `last`, in order. Under the recovery rule these are the whole
    /// ones; under the commit word those with good headers, which are being committed right now.
    pub beyond: Vec<BatchRef>,
    /// The missing numbers, as the first and last of each gap.
    pub missing: Vec<(u64, u64)>,
    /// For each segment: whether it belongs to the store and no output replaces it.
    pub included: Vec<bool>,
    /// For each segment: whether an output replaces it.
    pub replaced: Vec<bool>,
    /// The list `retained` of the newest output.
    pub retained: Vec<Retained>,
    /// All problems found.
    pub problems: Vec<Problem>,
}

impl History {
    /// Finds the history under the rule that `environment` and the control file lead to.
    pub fn find(
        dir: &Path,
        segments: &[Segment],
        control: Option<&Control>,
        environment: Environment,
    ) -> History {
        let mut problems = Vec::new();
        let store = store_of(segments, control);
        let control = control.filter(|control| store.is_none_or(|s| s == control.fixed.store));
        let header_severity =
            if environment.is_segment { Severity::Damage } else { Severity::Scar };
        let Selected { included, replaced, newest } =
            select(segments, store, header_severity, &mut problems);
        let counted = || segments.iter().zip(&included).filter(|(_, included)| **included);
        let outputs = counted().filter_map(|(segment, _)| segment.header.as_ref().ok()?.output);
        let max_seq = outputs.map(|output| output.max_seq).max().unwrap_or(0);
        let durable_seq_of = |control: &Control| control.durable_seq.as_ref().ok().copied();
        let heads =
            counted().flat_map(|(segment, _)| &segment.batches).filter_map(|b| b.good_head());
        let repeated = heads.map(|head| head.durable_seq).max().unwrap_or(0);
        let durable_seq = control.and_then(durable_seq_of).unwrap_or(0).max(repeated).max(max_seq);

        let all = committed_batches(segments, &included, &mut problems);
        let rule = environment.rule(segments, control);
        let is_good = |batch_ref: &BatchRef| {
            segments[batch_ref.segment].batches[batch_ref.batch].good_head().is_some()
        };
        let highest = all.last().map_or(0, |batch_ref| batch_ref.sequence);
        let visible = control.map_or(0, |control| control.commit.visible());
        let last = match rule {
            Rule::Alone => highest,
            Rule::CommitWord => visible,
            Rule::Numbers => highest.max(durable_seq),
            Rule::Recovery => recovered(segments, &all, durable_seq),
        };
        let split = all.partition_point(|batch_ref| batch_ref.sequence <= last);
        let missing = match rule {
            Rule::Alone => Vec::new(),
            _ => gaps(all[..split].iter().map(|batch_ref| batch_ref.sequence), max_seq, last),
        };
        let batches: Vec<BatchRef> = all[..split].iter().copied().filter(is_good).collect();
        let beyond = match rule {
            Rule::Alone | Rule::Numbers => Vec::new(),
            Rule::CommitWord => all[split..].iter().copied().filter(is_good).collect(),
            Rule::Recovery => {
                all[split..].iter().copied().filter(|p| whole(segments, *p)).collect()
            }
        };
        for batch_ref in &all[..split] {
            let segment = &segments[batch_ref.segment];
            if let Some(Err(error)) = &segment.batches[batch_ref.batch].head {
                let problem = Problem::format(Severity::Damage, segment.path(), error);
                problems.push(
                    problem.with_consequence(format!("batch {} is lost", batch_ref.sequence)),
                );
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
            problem.consequence = hint(segments, &included, &replaced);
            problems.push(problem);
        }
        // A writer that died between its last two steps leaves a number that is taken but not done.
        let counted = |control: &Control| [visible, control.commit.sequence].contains(&last);
        if rule == Rule::Numbers && !control.is_some_and(counted) {
            problems.push(commit_word(dir, segments, visible, last));
        }
        let mut history = History {
            rule,
            last,
            durable_seq,
            max_seq,
            batches,
            beyond,
            missing,
            included,
            replaced,
            retained: newest,
            problems,
        };
        history.check_chains(dir, segments);
        history
    }

    /// Checks each chain against the `durable_end` of its segment and `retained` of the newest
    /// output.
    fn check_chains(&mut self, dir: &Path, segments: &[Segment]) {
        let mut retained: BTreeMap<u64, u64> =
            self.retained.iter().map(|keep| (keep.id, keep.end)).collect();
        for (i, segment) in segments.iter().enumerate() {
            let retained_end = retained.remove(&segment.id());
            let path = segment.path();
            if !self.included[i] {
                if let (Some(end), Err(error)) =
                    (retained_end.filter(|_| !self.replaced[i]), &segment.header)
                {
                    // Missing numbers need not reveal the loss: those that it holds may be missing.
                    let problem = Problem::format(Severity::Damage, path, error);
                    let consequence = format!("an output needs its batches up to offset {end}");
                    self.problems.push(Problem { consequence: Some(consequence), ..problem });
                }
                continue;
            }
            if let Err(error) = &segment.durable_end {
                self.problems.push(Problem::format(Severity::Scar, path, error));
            }
            let durable_end = segment.durable_end.as_ref().copied().unwrap_or(0);
            let is_output = segment.is_output();
            let reach =
                if is_output { u64::MAX } else { durable_end.max(retained_end.unwrap_or(0)) };
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

/// Reports a commit word that does not match the segments of a store whose writers died. If a part
/// of the segments is unreadable, it may hold the missing batch, and this is damage. Otherwise only
/// the word itself is wrong.
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

/// All committed batches outside outputs, in order, each sequence number once.
fn committed_batches(
    segments: &[Segment],
    included: &[bool],
    problems: &mut Vec<Problem>,
) -> Vec<BatchRef> {
    let mut batch_refs = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        if !included[number] || segment.is_output() {
            continue;
        }
        let committed = segment.batches.iter().enumerate().filter_map(|(batch, info)| {
            Some(BatchRef { sequence: info.sequence()?, segment: number, batch })
        });
        batch_refs.extend(committed);
    }
    batch_refs.sort_unstable();
    batch_refs.dedup_by(|second, first| {
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
    batch_refs
}

/// The end of the history by the recovery rule: the largest number such that every batch above
/// `durable_seq` up to it is whole. It is never below `durable_seq`.
fn recovered(segments: &[Segment], all: &[BatchRef], durable_seq: u64) -> u64 {
    let above = &all[all.partition_point(|batch_ref| batch_ref.sequence <= durable_seq)..];
    let mut last = durable_seq;
    for batch_ref in above {
        if batch_ref.sequence != last + 1 || !whole(segments, *batch_ref) {
            break;
        }
        last = batch_ref.sequence;
    }
    last
}

/// The numbers in (`max_seq`, `last`] that are missing in `present`, which is sorted.
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

/// Whether a batch is whole: its header is good and every value matches its checksum.
pub fn whole(segments: &[Segment], batch_ref: BatchRef) -> bool {
    let segment = &segments[batch_ref.segment];
    whole_batch(segment, &segment.batches[batch_ref.batch])
}

/// Whether a batch of `segment` is whole, see [`whole`].
pub fn whole_batch(segment: &Segment, batch: &BatchInfo) -> bool {
    let Some(head) = batch.good_head() else { return false };
    let Some(salt) = segment.salt() else { return false };
    segment.entries_of(head).iter().all(|entry| value_is_right(&segment.source, salt, entry))
}

/// Whether the value of an entry matches its checksum; reads it piece by piece.
pub fn value_is_right(source: &Source, salt: Salt, entry: &EntryInfo) -> bool {
    value_checksum(source, salt, entry).is_ok_and(|found| found == entry.value_checksum)
}

/// How many bytes of a long value to request ahead of reading it.
const VALUE_AHEAD: u64 = 2 << 20;

/// Computes the checksum of an entry's value from its bytes; 0 for an entry without a value.
///
/// # Errors
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

/// Names a broken part of a segment that may explain a missing number.
fn hint(segments: &[Segment], included: &[bool], replaced: &[bool]) -> Option<String> {
    let present = segments.iter().zip(included).zip(replaced).filter(|(_, replaced)| !**replaced);
    let broken = present.map(|(both, _)| both).find_map(|(segment, included)| {
        let error = match (&segment.header, &segment.ending) {
            (Err(error), _) => error,
            (_, Ending::Broken(error)) if *included => error,
            _ => segment.batches.iter().find_map(|batch| batch.state.as_ref().err())?,
        };
        // The error itself is a problem of its own.
        Some(format!("{}: {} at offset {}", segment.name(), error.what, error.offset))
    });
    broken.map(|at| format!("perhaps in {at}"))
}
