//! The starting point of a compaction run: the store as it is now, and the segments to rewrite.

use std::sync::Arc;

use crate::Key;
use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::maintain::engine::Engine;
use crate::log::read::at_rest::AtRest;
use crate::log::read::index::Extents;
use crate::log::read::version::Segments;
use crate::log::segment::Segment;

/// Which segments a compaction rewrites.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// All of them, so that each key's value ends up in as few extents as possible.
    Everything,
    /// Those in which at least this share of the value bytes is dead, and small ones.
    Dead(f64),
    /// Those in which all values are dead, so that nothing is copied.
    Gone,
}

/// The store as of `max_seq`, on which a run works.
#[derive(Debug)]
pub(super) struct Base<F> {
    pub(super) max_seq: u64,
    pub(super) segments: Segments<F>,
    /// The numbers of the segments that are part of the store.
    pub(super) current: Vec<u32>,
    /// The segments to rewrite, those with the fewest live bytes first.
    pub(super) inputs: Vec<AtRest>,
    /// Whether another run has segments left to rewrite.
    pub(super) has_more: bool,
    /// Every key with its extents and whether it was set, in key order.
    pub(super) keys: Vec<(Key, Extents, bool)>,
}

impl<F> Base<F> {
    /// Captures the store as it is now; `None` if there is nothing to gain. Segments with the id
    /// `first_new` or above are not rewritten.
    pub(super) fn of<D: Disk<File = F>>(
        engine: &Engine<D>,
        aim: Aim,
        first_new: u64,
    ) -> Result<Option<Base<F>>> {
        let options = &engine.store.options;
        let base = engine.reader.with_walked_version(&engine.store, |version| {
            // Rewriting an output of this same compaction gains nothing.
            let mut at_rest = version.at_rest();
            at_rest.retain(|segment| segment.id < first_new);
            let (inputs, has_more) =
                choose(at_rest, aim, options.segment_len(), options.compaction_run_bytes);
            (!inputs.is_empty()).then(|| Base {
                max_seq: version.sequence,
                segments: Arc::clone(&version.segments),
                current: version.current().collect(),
                inputs,
                has_more,
                keys: version
                    .index
                    .keys()
                    .map(|slot| (slot.key.clone(), slot.extents.clone(), slot.is_set))
                    .collect(),
            })
        })?;
        Ok(base.map(|mut base| {
            base.keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            base
        }))
    }

    pub(crate) fn segment(&self, number: u32) -> &Arc<Segment<F>> {
        &self.segments[number as usize]
    }

    /// Returns the segments that were rewritten and drops the rest.
    pub(crate) fn into_inputs(self) -> Vec<Arc<Segment<F>>> {
        let numbers = self.inputs.iter().map(|source| source.number);
        numbers.map(|number| Arc::clone(self.segment(number))).collect()
    }

    /// The ids of the inputs.
    pub(crate) fn input_ids(&self) -> Vec<u64> {
        self.inputs.iter().map(|source| source.id).collect()
    }
}

/// Chooses the segments to rewrite. Also returns whether some are left for another run.
pub(crate) fn choose(
    at_rest: Vec<AtRest>,
    aim: Aim,
    segment_len: u64,
    run_bytes: u64,
) -> (Vec<AtRest>, bool) {
    let mut eligible = at_rest;
    eligible.retain(|segment| match aim {
        Aim::Everything => true,
        // A small segment is worth merging with others: it holds little and still costs a file.
        Aim::Dead(share) => {
            segment.dead_bytes() as f64 >= share * segment.value_bytes as f64
                || segment.is_small(segment_len)
        }
        // Also outputs that hold only the removals an earlier run had to keep, so that such outputs
        // do not accumulate.
        Aim::Gone => segment.is_gone() || segment.is_output && segment.value_bytes == 0,
    });
    if aim == Aim::Gone && !eligible.iter().any(AtRest::is_gone) {
        eligible.clear();
    }
    // The fewest live bytes first: these segments free the most space for the least copying.
    eligible.sort_by_key(|segment| (segment.live_bytes, segment.id));
    let mut rest = &eligible[..];
    loop {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|segment| {
            bytes += segment.live_bytes;
            bytes <= run_bytes
        });
        let count = fitting.count().max(1).min(rest.len());
        match &rest[..count] {
            // Rewriting a single output without dead bytes gains nothing.
            [only] if only.is_output && only.dead_bytes() == 0 => rest = &rest[1..],
            inputs => return (inputs.to_vec(), count < rest.len()),
        }
    }
}
