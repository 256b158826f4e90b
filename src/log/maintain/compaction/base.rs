//! What a run of a compaction starts from: the store as it is now, and the segments that are worth it.

use std::sync::Arc;

use crate::Key;
use crate::error::Result;
use crate::log::fs::Disk;
use crate::log::maintain::engine::Engine;
use crate::log::read::at_rest::AtRest;
use crate::log::read::index::Extents;
use crate::log::read::version::Segments;
use crate::log::segment::Segment;

/// Which segments are worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// All of them: every key's value in as few pieces as can be.
    Everything,
    /// Those in which more than this share of the values' bytes is dead.
    Dead(f64),
    /// Those in which all values are dead: nothing is copied.
    Gone,
}

/// The store as a run sees it: everything up to `max_seq`.
#[derive(Debug)]
pub(super) struct Base<F> {
    pub(super) max_seq: u64,
    pub(super) segments: Segments<F>,
    /// Numbers of the segments that are part of the store.
    pub(super) current: Vec<u32>,
    /// The segments to rewrite, those first that free the most for the least space.
    pub(super) inputs: Vec<AtRest>,
    /// Whether some are left for another run.
    pub(super) has_more: bool,
    /// Every key with its extents, and whether it was set; in key order.
    pub(super) keys: Vec<(Key, Extents, bool)>,
}

impl<F> Base<F> {
    /// The store as it is now; `None` where nothing is to be gained. Segments from `first_new` on are left alone.
    pub(super) fn of<D: Disk<File = F>>(
        engine: &Engine<D>,
        aim: Aim,
        first_new: u64,
    ) -> Result<Option<Base<F>>> {
        let options = &engine.store.options;
        let base = engine.reader.with_walked_version(&engine.store, |version| {
            // An output of this compaction is as good as it gets.
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

    /// The segments that were rewritten, once nothing else of it is needed.
    pub(crate) fn into_inputs(self) -> Vec<Arc<Segment<F>>> {
        let numbers = self.inputs.iter().map(|source| source.number);
        numbers.map(|number| Arc::clone(self.segment(number))).collect()
    }

    /// The ids of the sources.
    pub(crate) fn input_ids(&self) -> Vec<u64> {
        self.inputs.iter().map(|source| source.id).collect()
    }
}

/// The segments to rewrite, and whether some are left for another run.
pub(crate) fn choose(
    at_rest: Vec<AtRest>,
    aim: Aim,
    segment_len: u64,
    run_bytes: u64,
) -> (Vec<AtRest>, bool) {
    let mut eligible = at_rest;
    eligible.retain(|segment| match aim {
        Aim::Everything => true,
        // A small segment is worth joining to others: it holds little and costs a file.
        Aim::Dead(share) => {
            segment.dead_bytes() as f64 >= share * segment.value_bytes as f64
                || segment.is_small(segment_len)
        }
        // And the removals that an earlier run had to keep, so that their outputs do not become many.
        Aim::Gone => segment.is_gone() || segment.is_output && segment.value_bytes == 0,
    });
    if aim == Aim::Gone && !eligible.iter().any(AtRest::is_gone) {
        eligible.clear();
    }
    // Those with the least to copy first: they free the most for the least space.
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
            // One output alone, with nothing dead in it, is as good as it gets.
            [only] if only.is_output && only.dead_bytes() == 0 => rest = &rest[1..],
            inputs => return (inputs.to_vec(), count < rest.len()),
        }
    }
}
