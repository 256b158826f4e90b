//! Selects the segments that make up a store: its own, without those that an output replaces.

use std::collections::{BTreeMap, BTreeSet};

use partd_format::segment::Retained;

use crate::control::Control;
use crate::problem::{Problem, Severity};
use crate::text::uuid;
use crate::walk::{BatchInfo, Segment};

/// The uuid of the store that the files belong to: that of the control file, if a segment has it
/// too or there are no segments; otherwise the uuid of most segments.
pub(super) fn store_of(segments: &[Segment], control: Option<&Control>) -> Option<[u8; 16]> {
    let mut votes: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    for header in segments.iter().filter_map(|segment| segment.header.as_ref().ok()) {
        *votes.entry(header.store).or_default() += 1;
    }
    let said = control.map(|control| control.fixed.store);
    match said {
        Some(store) if votes.is_empty() || votes.contains_key(&store) => Some(store),
        _ => votes.into_iter().max_by_key(|&(_, count)| count).map(|(store, _)| store),
    }
}

/// The result of [`select`].
pub(super) struct Selected {
    /// For each segment: whether it is part of the store.
    pub(super) included: Vec<bool>,
    /// For each segment: whether an output replaces it.
    pub(super) replaced: Vec<bool>,
    /// The list `retained` of the newest output.
    pub(super) newest: Vec<Retained>,
}

/// Decides for each segment whether it is part of the store and whether it is replaced.
///
/// `header_severity` is the severity of an unreadable header. In a store a power cut may have torn
/// it, and missing sequence numbers reveal a loss.
pub(super) fn select(
    segments: &[Segment],
    store: Option<[u8; 16]>,
    header_severity: Severity,
    problems: &mut Vec<Problem>,
) -> Selected {
    let (mut gone, mut newest) = (BTreeSet::new(), ((0, 0), Vec::new()));
    let mut included = Vec::with_capacity(segments.len());
    for segment in segments {
        let path = segment.path();
        if let Some(error) = &segment.io {
            let problem = Problem::file(Severity::Damage, path, "file", "to read it", error);
            problems.push(problem);
        }
        let Ok(header) = &segment.header else {
            included.push(false);
            continue;
        };
        let foreign = store.is_some_and(|store| store != header.store);
        let misnamed = segment.name_id.is_some_and(|id| id != header.id);
        if foreign || misnamed {
            let (what, expected, found) = if foreign {
                let expected = store.map_or(String::new(), |store| uuid(&store));
                ("store of the segment", expected, uuid(&header.store))
            } else {
                let expected = segment.name_id.unwrap_or(0).to_string();
                ("id of segment", expected, header.id.to_string())
            };
            problems.push(Problem::file(Severity::Damage, path, what, expected, found));
            included.push(false);
            continue;
        }
        included.push(true);
        match (&segment.lists, header.output) {
            (Err(error), _) => {
                problems.push(Problem::format(Severity::Damage, path, error));
                gone.extend(probable_inputs(segments, segment));
            }
            (Ok(lists), Some(output)) => {
                gone.extend(lists.inputs.iter().copied());
                if (output.max_seq, header.id) > newest.0 {
                    newest = ((output.max_seq, header.id), lists.retained.clone());
                }
            }
            (Ok(_), None) => {}
        }
    }
    let kept: BTreeSet<u64> = newest.1.iter().map(|keep| keep.id).collect();
    let mut replaced = Vec::with_capacity(segments.len());
    for (segment, &included) in segments.iter().zip(&included) {
        let unreadable = segment.header.as_ref().err().filter(|_| segment.io.is_none());
        let is_replaced = (included || unreadable.is_some()) && gone.contains(&segment.id())
            || included && has_come_back(segment, newest.0, &kept);
        // The bytes of a replaced segment need never have reached the disk.
        if let Some(error) = unreadable.filter(|_| !is_replaced) {
            problems.push(Problem::format(header_severity, segment.path(), error));
        }
        replaced.push(is_replaced);
    }
    for (included, replaced) in included.iter_mut().zip(&replaced) {
        *included &= !replaced;
    }
    Selected { included, replaced, newest: newest.1 }
}

/// Whether a segment was compacted away before the newest output was made and came back since, for
/// example from a backup. The output that replaced it may be gone by now.
fn has_come_back(segment: &Segment, (max_seq, output): (u64, u64), kept: &BTreeSet<u64>) -> bool {
    let mut numbers = segment.batches.iter().filter_map(BatchInfo::sequence);
    segment.id() < output
        && !kept.contains(&segment.id())
        && (segment.is_output() || numbers.any(|number| number <= max_seq))
}

/// Guesses the inputs of an output whose lists are damaged, so that no entry counts twice. A
/// segment is an input if an entry of the output has one of its numbers. Any other segment with
/// numbers up to `max_seq` is one too, unless the damaged list `retained` names it.
fn probable_inputs(segments: &[Segment], output: &Segment) -> BTreeSet<u64> {
    let max_seq =
        output.header.as_ref().ok().and_then(|header| header.output).map_or(0, |o| o.max_seq);
    let mut numbers: Vec<u64> = output.entries.iter().map(|entry| entry.sequence).collect();
    numbers.sort_unstable();
    let lists = &output.unverified_lists;
    let is_input = |segment: &&Segment| {
        let own: Vec<u64> = if segment.is_output() {
            segment.entries.iter().map(|entry| entry.sequence).collect()
        } else {
            segment.batches.iter().filter_map(BatchInfo::sequence).collect()
        };
        let kept = lists.retained.iter().any(|keep| keep.id == segment.id());
        let copied = own.iter().any(|number| numbers.binary_search(number).is_ok());
        segment.id() != output.id()
            && own.iter().any(|number| *number <= max_seq)
            && (copied || !kept || lists.inputs.contains(&segment.id()))
    };
    segments.iter().filter(is_input).map(Segment::id).collect()
}
