//! Reads what is still readable of damaged chains, headers and tables; used by salvage only.
//!
//! It corrects a single flipped bit (see [`repair`](crate::repair)). After a break in a chain it
//! searches the file for a link word whose batch has a good header. It trusts a segment header
//! beyond repair as long as batches verify with its salt. A batch found this way counts only if its
//! number is missing in the history: nothing that was given up comes back, and nothing counts
//! twice.

mod segment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use partd_format::{Ending, State};

use self::segment::SegmentRescue;
use crate::history::{BatchRef, History, Rule, gaps, whole, whole_batch};
use crate::store::Store;
use crate::walk::Segment;

/// The result of a rescue.
#[derive(Debug, Default)]
pub struct Rescue {
    /// The corrections made: file, what, offset.
    pub repaired: Vec<(PathBuf, &'static str, u64)>,
    /// The number of batches found after a break in a chain.
    pub found: u64,
    /// Damaged outputs whose inputs are all present and whole: the inputs count instead.
    pub set_aside: Vec<PathBuf>,
    /// The numbers that are still missing, as the first and last of each gap.
    pub missing: Vec<(u64, u64)>,
    /// The unreadable parts of segments that no missing number accounts for.
    pub lost: Vec<LostPart>,
}

/// An unreadable part of a segment.
#[derive(Clone, Debug)]
pub struct LostPart {
    /// The file of the segment.
    pub path: PathBuf,
    /// The offset of the part in the file.
    pub offset: u64,
    /// Its length in bytes: up to the next batch found, or to the end of the file.
    pub bytes: u64,
    /// No sequence number above this one is lost with it; `None` if nothing is known about the
    /// numbers.
    pub max_seq: Option<u64>,
}

impl Store {
    /// Adds everything that is still readable to the history. The problems and missing numbers
    /// remain those of the store as it is on disk.
    pub fn rescue(&mut self) -> Rescue {
        let mut rescue = Rescue::default();
        let (store, missing) = (self.uuid(), self.history.missing.clone());
        for segment in &mut self.segments {
            let is_ours = segment.io.is_none() && segment.header.is_err();
            if is_ours && let Some(what) = segment.rescue_header(store) {
                rescue.repaired.push((segment.path().to_owned(), what, 0));
            }
        }
        let mut finds: Vec<SegmentRescue> = self.segments.iter_mut().map(Segment::search).collect();
        let aside: Vec<usize> =
            (0..finds.len()).filter(|&i| self.is_replaceable_by_inputs(i, &finds[i])).collect();
        for &i in aside.iter().rev() {
            finds.remove(i);
            rescue.set_aside.push(self.segments.remove(i).path().to_owned());
        }
        if !rescue.repaired.is_empty() || !aside.is_empty() {
            let control = self.control().cloned();
            let found =
                History::find(&self.path, &self.segments, control.as_ref(), self.environment);
            let problems = std::mem::take(&mut self.history.problems);
            self.history = History { problems, ..found };
        }
        self.take_in(finds, &mut rescue);
        rescue.missing = std::mem::replace(&mut self.history.missing, missing);
        rescue
    }

    /// Whether an output has lost something that its inputs still have.
    fn is_replaceable_by_inputs(&self, number: usize, finds: &SegmentRescue) -> bool {
        let segment = &self.segments[number];
        let Ok(lists) = &segment.lists else { return false };
        // The end of an input need never have reached the disk, so only a sealed chain is complete.
        let is_whole = |segment: &Segment| {
            segment.header.is_ok()
                && segment.io.is_none()
                && matches!(segment.ending, Ending::Sealed)
                && segment.batches.iter().all(|b| match b.state {
                    Ok(State::Committed(_)) => whole_batch(segment, b),
                    Ok(State::Void) => true,
                    Ok(State::Pending) | Err(_) => false,
                })
        };
        let repaired: BTreeSet<usize> = finds.repaired.iter().map(|(batch, _)| *batch).collect();
        let heads = segment.batches.iter().enumerate();
        let lost = heads.filter(|(i, b)| b.good_head().is_none() && !repaired.contains(i)).count();
        let is_damaged = segment.is_output() && (lost > 0 || !finds.gaps.is_empty());
        let has_whole_input = |id: &u64| self.segments.iter().any(|s| s.id() == *id && is_whole(s));
        is_damaged && !lists.inputs.is_empty() && lists.inputs.iter().all(has_whole_input)
    }

    /// Adds each batch found to the history if its number is missing there.
    fn take_in(&mut self, finds: Vec<SegmentRescue>, rescue: &mut Rescue) {
        let retained: BTreeMap<u64, u64> =
            self.history.retained.iter().map(|keep| (keep.id, keep.end)).collect();
        let max_seq = self.history.max_seq;
        let mut candidates = Vec::new();
        for (i, (segment, finds)) in self.segments.iter_mut().zip(finds).enumerate() {
            let (is_output, chain) = (segment.is_output(), segment.batches.len());
            if !self.history.included[i] {
                continue;
            }
            let path = segment.path().to_owned();
            rescue.repaired.extend(finds.links.iter().map(|at| (path.clone(), "link word", *at)));
            for (batch, info) in finds.repaired {
                rescue.repaired.push((segment.path().to_owned(), "batch", info.offset));
                segment.batches[batch] = info;
            }
            if is_output {
                rescue.found += finds.after_break.len() as u64;
            }
            segment.batches.extend(finds.after_break);
            let kept = retained.get(&segment.id()).copied().unwrap_or(0);
            // If missing numbers account for the loss, the part need not be reported as well.
            let mut lost = finds.gaps;
            if self.history.rule != Rule::Alone && !is_output {
                lost.retain(|&(first, _)| first < kept);
            }
            let unread = segment.batches.iter().filter(|batch| batch.good_head().is_none());
            let unread = unread.filter(|batch| match batch.state {
                Ok(State::Committed(_)) => is_output,
                Ok(_) => false,
                Err(_) => is_output || batch.offset < kept || self.history.rule == Rule::Alone,
            });
            lost.extend(unread.map(|batch| (batch.offset, batch.offset + batch.len)));
            lost.sort_unstable();
            let numbers = match segment.header.as_ref().ok().and_then(|header| header.output) {
                Some(output) => Some(output.max_seq),
                None => Some(max_seq).filter(|_| self.history.rule != Rule::Alone),
            };
            rescue.lost.extend(lost.into_iter().map(|(first, end)| LostPart {
                path: segment.path().to_owned(),
                offset: first,
                bytes: end - first,
                max_seq: numbers,
            }));
            if is_output {
                continue;
            }
            for (batch, info) in segment.batches.iter().enumerate() {
                let end = info.offset + info.len;
                let (Some(sequence), Some(_)) = (info.sequence(), info.good_head()) else {
                    continue;
                };
                // Up to `max_seq` a missing number reveals nothing: its entries may be dead.
                if sequence > max_seq || end <= kept || batch < chain {
                    candidates.push((
                        sequence,
                        batch >= chain,
                        BatchRef { sequence, segment: i, batch },
                    ));
                }
            }
        }
        candidates.sort_unstable();
        let history = &self.history;
        let known = history.batches.iter().chain(&history.beyond);
        let mut known: BTreeSet<u64> = known.map(|batch_ref| batch_ref.sequence).collect();
        let (mut inside, mut beyond) = (Vec::new(), Vec::new());
        for (sequence, is_found, batch_ref) in candidates {
            if known.contains(&sequence) {
                continue;
            }
            if history.rule == Rule::Alone || sequence <= history.last {
                inside.push(batch_ref);
            } else if history.rule == Rule::Recovery && whole(&self.segments, batch_ref) {
                beyond.push(batch_ref);
            } else {
                continue;
            }
            rescue.found += u64::from(is_found);
            known.insert(sequence);
        }
        inside.extend(self.only_batch_without_number(&known));
        self.history.fill(&inside, &beyond);
    }

    /// Assigns the missing number to a whole batch with an unreadable state word, if there is
    /// exactly one of each.
    fn only_batch_without_number(&mut self, known: &BTreeSet<u64>) -> Option<BatchRef> {
        let holes = self.history.missing.iter().flat_map(|&(first, last)| first..=last);
        let mut holes = holes.filter(|number| !known.contains(number));
        let sequence = holes.next().filter(|_| holes.next().is_none())?;
        let included = &self.history.included;
        let segments = self.segments.iter().enumerate();
        let segments = segments.filter(|(i, segment)| included[*i] && !segment.is_output());
        let mut batch_refs = segments.flat_map(|(segment, info)| {
            let batches = info.batches.iter().enumerate();
            let unnumbered = batches.filter(|(_, b)| b.state.is_err() && b.good_head().is_some());
            unnumbered.map(move |(batch, _)| BatchRef { sequence, segment, batch })
        });
        let batch_ref = batch_refs.next().filter(|_| batch_refs.next().is_none())?;
        drop(batch_refs);
        whole(&self.segments, batch_ref).then(|| {
            self.segments[batch_ref.segment].batches[batch_ref.batch].state =
                Ok(State::Committed(sequence));
            batch_ref
        })
    }
}

impl History {
    /// Adds batches, each with a number that was missing.
    fn fill(&mut self, inside: &[BatchRef], beyond: &[BatchRef]) {
        self.batches.extend(inside);
        self.batches.sort_unstable();
        self.beyond.extend(beyond);
        self.beyond.sort_unstable();
        let numbers: BTreeSet<u64> =
            self.batches.iter().map(|batch_ref| batch_ref.sequence).collect();
        let holes = std::mem::take(&mut self.missing);
        self.missing = holes
            .into_iter()
            .flat_map(|(first, last)| gaps(numbers.range(first..=last).copied(), first - 1, last))
            .collect();
    }
}
