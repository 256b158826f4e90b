//! `segments`: lists the segments and how their bytes are used.

use std::path::Path;

use partd_format::{Ending, State};
use serde_json::{Value, json};

use crate::Failure;
use crate::output::Output;
use crate::text::{Align, Table, count, percent};
use partd_inspect::index::Index;
use partd_inspect::locks::{Liveness, Locks};
use partd_inspect::store::Store;
use partd_inspect::walk::BatchInfo;

/// The state of a segment in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// A live writer adds batches to it.
    Active,
    /// Free space follows its batches, but no live writer adds to it.
    Open,
    /// It gets no more batches.
    Sealed,
    /// Its chain is broken; nothing after the break can be walked.
    Broken,
    /// It is the output of a compaction.
    Output,
    /// An output replaces it.
    Replaced,
    /// Its header is damaged, or belongs to another store or name.
    Unusable,
}

impl SegmentState {
    pub(crate) const ALL: [SegmentState; 7] = [
        SegmentState::Active,
        SegmentState::Open,
        SegmentState::Sealed,
        SegmentState::Broken,
        SegmentState::Output,
        SegmentState::Replaced,
        SegmentState::Unusable,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            SegmentState::Active => "active",
            SegmentState::Open => "open",
            SegmentState::Sealed => "sealed",
            SegmentState::Broken => "broken",
            SegmentState::Output => "output",
            SegmentState::Replaced => "replaced",
            SegmentState::Unusable => "unusable",
        }
    }
}

/// How the bytes of a segment are used.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) state: SegmentState,
    /// The length of the file.
    pub(crate) len: u64,
    /// The bytes up to the end of the chain.
    pub(crate) used: u64,
    /// Bytes of live values.
    pub(crate) live: u64,
    /// Bytes of values of the history that no key holds any more.
    pub(crate) dead: u64,
    pub(crate) committed: u64,
    pub(crate) pending: u64,
    pub(crate) void: u64,
    /// The lowest and the highest sequence number in it; 0 for none.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Usage {
    /// About how many bytes a compaction would free: the share of the used bytes that belongs to dead
    /// values. A segment that may get more batches is not compacted.
    pub(crate) fn reclaimable(&self) -> u64 {
        let values = self.live + self.dead;
        match self.state {
            SegmentState::Replaced => self.used,
            // It holds removals only; those in an output are all still needed.
            SegmentState::Sealed if values == 0 => self.used,
            SegmentState::Sealed | SegmentState::Output if values > 0 => {
                (self.used as f64 * (self.dead as f64 / values as f64)) as u64
            }
            _ => 0,
        }
    }
}

/// Computes how the bytes of each segment are used.
pub(crate) fn usage(store: &Store, index: &Index<'_>) -> Vec<Usage> {
    let live = index.live_bytes(&store.segments);
    let locks = Locks::read();
    let mut active = Vec::new();
    for slot in store.control().map_or(&[][..], |control| &control.slots) {
        if slot.active != 0 && store.liveness(&locks, slot) != Liveness::Dead {
            active.push(slot.active);
        }
    }
    let history = &store.history;
    let each = store.segments.iter().enumerate().map(|(i, segment)| {
        let state = match (&segment.ending, history.included[i]) {
            _ if history.replaced[i] => SegmentState::Replaced,
            (_, false) => SegmentState::Unusable,
            (Ending::Broken(_), true) => SegmentState::Broken,
            _ if segment.is_output() => SegmentState::Output,
            (Ending::Sealed, true) => SegmentState::Sealed,
            (Ending::Open, true) if active.contains(&segment.id()) => SegmentState::Active,
            (Ending::Open, true) => SegmentState::Open,
        };
        let of = |state| segment.batches.iter().filter(|b| b.state == Ok(state)).count() as u64;
        let visible = |sequence: &u64| segment.is_output() || *sequence <= history.last;
        let committed = segment.batches.iter().filter_map(BatchInfo::sequence).filter(visible);
        let values: u64 = segment
            .batches
            .iter()
            .filter(|batch| batch.sequence().is_some_and(|sequence| visible(&sequence)))
            .filter_map(|batch| batch.good_head())
            .flat_map(|head| segment.entries_of(head))
            .map(|entry| entry.value_len)
            .sum();
        Usage {
            state,
            len: segment.source.len(),
            used: segment.end,
            live: live[i],
            dead: values.saturating_sub(live[i]),
            pending: of(State::Pending),
            void: of(State::Void),
            first: committed.clone().min().unwrap_or(0),
            last: committed.clone().max().unwrap_or(0),
            committed: committed.count() as u64,
        }
    });
    each.collect()
}

pub(crate) fn run(path: &Path, out: &mut Output) -> Result<(), Failure> {
    let store = Store::read(path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let used = usage(&store, &index);
    if out.json {
        let segments: Vec<Value> = (0..used.len()).map(|i| document(&store, i, &used[i])).collect();
        return Ok(out.document("segments", &store, json!({ "segments": segments }))?);
    }
    let mut table = Table::new(&[
        ("id", Align::Right),
        ("state", Align::Left),
        ("size", Align::Right),
        ("used", Align::Right),
        ("live", Align::Right),
        ("dead", Align::Right),
        ("batches", Align::Right),
        ("sequence", Align::Left),
    ]);
    for (segment, usage) in store.segments.iter().zip(&used) {
        let numbers = match (usage.first, segment.header.as_ref().ok().and_then(|h| h.output)) {
            (_, Some(output)) => format!("up to {}", count(output.max_seq)),
            (0, None) => String::new(),
            (first, None) => format!("{}-{}", count(first), count(usage.last)),
        };
        table.row(vec![
            segment.id().to_string(),
            usage.state.name().to_owned(),
            out.size(usage.len),
            percent(usage.used, usage.len),
            out.size(usage.live),
            out.size(usage.dead),
            count(usage.committed),
            numbers,
        ]);
    }
    out.table(&table)?;
    Ok(out.warnings(&store)?)
}

fn document(store: &Store, number: usize, usage: &Usage) -> Value {
    let segment = &store.segments[number];
    let header = segment.header.as_ref().ok();
    let lists = segment.lists.as_ref().ok();
    let output = header.and_then(|header| header.output).map(|output| {
        json!({
            "max_seq": output.max_seq,
            "inputs": lists.map(|lists| lists.inputs.clone()),
            "retained": lists.map(|lists| {
                lists.retained.iter().map(|k| json!({ "id": k.id, "end": k.end })).collect::<Vec<_>>()
            }),
        })
    });
    json!({
        "id": segment.id(),
        "file": segment.name(),
        "state": usage.state.name(),
        "bytes": usage.len,
        "used_bytes": usage.used,
        "stored_bytes": segment.source.stored(),
        "live_bytes": usage.live,
        "dead_bytes": usage.dead,
        "committed_batches": usage.committed,
        "pending_batches": usage.pending,
        "void_batches": usage.void,
        "first_sequence": usage.first,
        "last_sequence": usage.last,
        "durable_end": segment.durable_end.as_ref().ok(),
        "created_unix_ms": header.map(|header| header.created_unix_ms),
        "pid": header.map(|header| header.pid),
        "slot": header.map(|header| header.slot),
        "output": output,
    })
}
