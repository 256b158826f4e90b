//! `batches`: lists the batches.

use partd_format::{Kind, State};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::Batches;
use crate::output::{Output, Rows};
use crate::text::{Align, Table, count};
use partd_inspect::history::BatchRef;
use partd_inspect::key::unescape;
use partd_inspect::store::Store;
use partd_inspect::walk::{BatchInfo, Segment};

pub(crate) fn run(args: &Batches, out: &mut Output) -> Result<(), Failure> {
    let key = match &args.key {
        Some(key) => Some(unescape(key.as_encoded_bytes()).map_err(Failure::Message)?),
        None => None,
    };
    let store = Store::read(&args.path)?;
    let mut rows = select(&store, args.all);
    rows.retain(|&batch_ref| {
        let (segment, batch) = at(&store, batch_ref);
        let numbers = args.from.unwrap_or(0)..=args.to.unwrap_or(u64::MAX);
        let bounded = args.from.is_some() || args.to.is_some();
        args.segment.is_none_or(|id| id == segment.id())
            && (!bounded || batch_ref.sequence > 0 && numbers.contains(&batch_ref.sequence))
            && key.as_ref().is_none_or(|key| has_key(segment, batch, key))
    });
    if out.json {
        let rows = Rows(|| rows.iter().map(|&batch_ref| document(&store, batch_ref)));
        return Ok(out.document_with("batches", &store, json!({}), "batches", &rows)?);
    }
    let mut table = Table::new(&[
        ("sequence", Align::Right),
        ("state", Align::Left),
        ("segment", Align::Right),
        ("offset", Align::Right),
        ("length", Align::Right),
        ("entries", Align::Right),
        ("durable_seq", Align::Right),
    ]);
    for &batch_ref in &rows {
        let (segment, batch) = at(&store, batch_ref);
        let head = batch.good_head();
        let number = |value: Option<u64>| value.map_or("?".to_owned(), count);
        table.row(vec![
            match batch_ref.sequence {
                0 => "-".to_owned(),
                sequence => count(sequence),
            },
            state_name(&store, batch_ref).to_owned(),
            segment.id().to_string(),
            count(batch.offset),
            out.size(batch.len),
            number(head.map(|head| head.count as u64)),
            number(head.map(|head| head.durable_seq)),
        ]);
    }
    out.table(&table)?;
    Ok(out.warnings(&store)?)
}

/// The batches of the history in order, then those of outputs; with `all`, then all others by
/// position.
fn select(store: &Store, all: bool) -> Vec<BatchRef> {
    let history = &store.history;
    let mut rows = history.batches.clone();
    let whole_segment = |i: usize| store.segments[i].is_output() && history.included[i];
    let mut others = Vec::new();
    for (segment, info) in store.segments.iter().enumerate() {
        for (batch, info) in info.batches.iter().enumerate() {
            let sequence = info.sequence().unwrap_or(0);
            others.push(BatchRef { sequence, segment, batch });
        }
    }
    others.retain(|batch_ref| whole_segment(batch_ref.segment) || all);
    let known: std::collections::BTreeSet<BatchRef> = rows.iter().copied().collect();
    others.retain(|batch_ref| !known.contains(batch_ref));
    others.sort_by_key(|batch_ref| {
        (!whole_segment(batch_ref.segment), batch_ref.segment, batch_ref.batch)
    });
    rows.extend(others);
    rows
}

fn at(store: &Store, batch_ref: BatchRef) -> (&Segment, &BatchInfo) {
    let segment = &store.segments[batch_ref.segment];
    (segment, &segment.batches[batch_ref.batch])
}

fn has_key(segment: &Segment, batch: &BatchInfo, key: &[u8]) -> bool {
    batch.good_head().is_some_and(|head| {
        segment.entries_of(head).iter().any(|entry| match entry.kind {
            Kind::Clear => true,
            Kind::DeletePrefix => key.starts_with(segment.key(entry)),
            Kind::Append | Kind::Set | Kind::Delete => segment.key(entry) == key,
        })
    })
}

fn state_name(store: &Store, batch_ref: BatchRef) -> &'static str {
    let (segment, batch) = at(store, batch_ref);
    match (&batch.state, &batch.head) {
        _ if store.history.replaced[batch_ref.segment] => "replaced",
        (Err(_), _) | (_, Some(Err(_))) => "damaged",
        (Ok(State::Pending), _) => "pending",
        (Ok(State::Void), _) => "void",
        (Ok(State::Committed(_)), _) if segment.is_output() => "output",
        (Ok(State::Committed(sequence)), _) if *sequence > store.history.last => "beyond",
        (Ok(State::Committed(_)), _) => "committed",
    }
}

fn document(store: &Store, batch_ref: BatchRef) -> Value {
    let (segment, batch) = at(store, batch_ref);
    let head = batch.good_head();
    let error = batch.state.as_ref().err();
    let error = error.or_else(|| batch.head.as_ref().and_then(|head| head.as_ref().err()));
    json!({
        "sequence": batch.sequence(),
        "state": state_name(store, batch_ref),
        "segment": segment.id(),
        "offset": batch.offset,
        "bytes": batch.len,
        "entries": head.map(|head| head.count),
        "durable_seq": head.map(|head| head.durable_seq),
        "values_offset": head.map(|head| head.values_start),
        "error": error.map(ToString::to_string),
    })
}
