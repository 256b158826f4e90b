//! Which segments make up a store: its own, without those that an output replaces.

use std::collections::{BTreeMap, BTreeSet};

use partd_format::segment::Retained;

use crate::control::Control;
use crate::history::uuid;
use crate::problem::{Problem, Severity};
use crate::walk::{BatchInfo, Segment};

/// The store that the files belong to: what the control file says if a segment agrees or there is
/// none, else what most segments say.
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

/// What [`select`] says.
pub(super) struct Selected {
    /// Of each segment, whether it counts.
    pub(super) counts: Vec<bool>,
    /// Of each segment, whether an output replaces it.
    pub(super) replaced: Vec<bool>,
    /// What the newest output asks of the segments beside it.
    pub(super) newest: Vec<Retained>,
}

/// Says of each segment whether it counts, and whether it is replaced. A header that cannot be read
/// is as bad as `header_severity` says: in a store a power cut may have torn it, and the numbers
/// tell of a loss.
pub(super) fn select(
    segments: &[Segment],
    store: Option<[u8; 16]>,
    header_severity: Severity,
    problems: &mut Vec<Problem>,
) -> Selected {
    let (mut gone, mut newest) = (BTreeSet::new(), ((0, 0), Vec::new()));
    let mut counts = Vec::with_capacity(segments.len());
    for segment in segments {
        let path = segment.path();
        if let Some(error) = &segment.io {
            let problem = Problem::file(Severity::Damage, path, "file", "to read it", error);
            problems.push(problem);
        }
        let Ok(header) = &segment.header else {
            counts.push(false);
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
            counts.push(false);
            continue;
        }
        counts.push(true);
        match (&segment.lists, header.output) {
            (Err(error), _) => {
                problems.push(Problem::format(Severity::Damage, path, error));
                gone.extend(probable_sources(segments, segment));
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
    for (segment, &counts) in segments.iter().zip(&counts) {
        let unreadable = segment.header.as_ref().err().filter(|_| segment.io.is_none());
        let is_replaced = (counts || unreadable.is_some()) && gone.contains(&segment.id())
            || counts && has_outlived(segment, newest.0, &kept);
        // One that is replaced need never have come to the disk.
        if let Some(error) = unreadable.filter(|_| !is_replaced) {
            problems.push(Problem::format(header_severity, segment.path(), error));
        }
        replaced.push(is_replaced);
    }
    for (counts, replaced) in counts.iter_mut().zip(&replaced) {
        *counts &= !replaced;
    }
    Selected { counts, replaced, newest: newest.1 }
}

/// Whether a segment was compacted away before the newest output was made, and has come back since, as out of
/// a backup. The output that replaced it may be gone by now.
fn has_outlived(segment: &Segment, (max_seq, output): (u64, u64), kept: &BTreeSet<u64>) -> bool {
    let mut numbers = segment.batches.iter().filter_map(BatchInfo::sequence);
    segment.id() < output
        && !kept.contains(&segment.id())
        && (segment.is_output() || numbers.any(|number| number <= max_seq))
}

/// The segments that an output with unreadable lists may have been made from: nothing must count
/// beside its copy. One whose number an entry of the output bears is a source; so is any other with
/// numbers up to `max_seq`, unless the lists as they are name it among those to keep.
fn probable_sources(segments: &[Segment], output: &Segment) -> BTreeSet<u64> {
    let max_seq =
        output.header.as_ref().ok().and_then(|header| header.output).map_or(0, |o| o.max_seq);
    let mut numbers: Vec<u64> = output.entries.iter().map(|entry| entry.sequence).collect();
    numbers.sort_unstable();
    let lists = &output.lists_as_found;
    let is_source = |segment: &&Segment| {
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
    segments.iter().filter(is_source).map(Segment::id).collect()
}
