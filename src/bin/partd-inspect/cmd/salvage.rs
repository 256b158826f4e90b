//! Everything that still verifies into a new store, with an exact account of what was lost.
//!
//! The history is applied as it is, damaged batches and values left out, and each key's bytes go to
//! the new store in their order. A key that was set stays set. The old store is only read.

use serde_json::{Value, json};

use super::export::new_directory;
use super::get::{check, pieces};
use crate::Failure;
use crate::args::Salvage;
use crate::new_store::{Item, NewStore, Take};
use crate::output::{Mark, Output};
use crate::read::history::{Rule, range, uuid};
use crate::read::index::{EntryRef, Index};
use crate::read::key::escape;
use crate::read::problem::Problem;
use crate::read::store::Store;
use crate::read::walk::BatchInfo;
use crate::text::{count, plural};

/// A value, or a piece of one, that does not verify.
struct LostValue {
    key: String,
    bytes: u64,
    problem: Problem,
}

/// What came of it.
#[derive(Default)]
struct Account {
    keys: u64,
    bytes: u64,
    values: Vec<LostValue>,
    /// Keys of which nothing is left.
    keys_lost: u64,
    batches: u64,
    segments: u64,
    beyond: u64,
}

pub(crate) fn run(args: &Salvage, out: &mut Output) -> Result<(), Failure> {
    let store = Store::read(&args.path)?;
    new_directory(&args.new_store, &args.path)?;
    let beyond = if args.prefix_only { &[][..] } else { &store.history.beyond };
    let index = Index::build(&store.segments, &store.history, beyond);
    let mut new = NewStore::create(&args.new_store)?;
    let mut account = Account { beyond: beyond.len() as u64, ..Account::default() };
    for (key, held) in index.sorted() {
        let mut is_first = true;
        for &at in &held.extents {
            let entry = &store.segments[at.segment as usize].entries[at.entry as usize];
            if let Some(problem) = check(&store, at) {
                let (key, bytes) = (escape(key), entry.value_len);
                account.values.push(LostValue { key, bytes, problem });
                continue;
            }
            let item = Item { key, set: is_first && held.is_set, len: entry.value_len, at };
            new.push(item, &read(&store))?;
            account.bytes += entry.value_len;
            is_first = false;
        }
        if is_first {
            account.keys_lost += 1;
        } else {
            account.keys += 1;
        }
    }
    (account.batches, account.segments) = new.finish(&read(&store))?;
    out.note_damage(!account.values.is_empty() || store.is_damaged());
    if out.json {
        return Ok(out.document("salvage", &store, document(args, &store, &account))?);
    }
    text(args, &store, &account, out)
}

/// How the new store gets at the bytes of the old one.
fn read(store: &Store) -> impl Fn(EntryRef, &mut Take<'_>) -> Result<(), Failure> {
    move |at, take| pieces(store, at, take)
}

fn text(args: &Salvage, store: &Store, account: &Account, out: &mut Output) -> Result<(), Failure> {
    let (keys, size) = (plural(account.keys, "key", "keys"), out.size(account.bytes));
    let batches = plural(account.batches, "batch", "batches");
    let segments = plural(account.segments, "segment", "segments");
    let new = args.new_store.display();
    out.line(format!("salvaged  {keys}, {size}, into {new} ({batches}, {segments})"))?;
    if account.beyond > 0 {
        let behind = plural(account.beyond, "batch", "batches");
        let where_ = count(store.history.last);
        let line = format!("included  {behind} behind the end of the history at {where_}");
        out.line(line)?;
        out.line("          (--prefix-only leaves them out)")?;
    }
    let lost_batches = lost_batches(store);
    if lost_batches.is_empty() && account.values.is_empty() && !store.is_damaged() {
        return Ok(out.line(format!("lost      {}", out.mark(Mark::Good, "nothing")))?);
    }
    for (first, last) in &lost_batches {
        let name = range(*first, *last);
        let lost = out.mark(Mark::Bad, "lost");
        out.line(format!(
            "{lost}      {name}: what was appended, set or deleted there is unknown"
        ))?;
    }
    for value in &account.values {
        let (bytes, lost) = (plural(value.bytes, "byte", "bytes"), out.mark(Mark::Bad, "lost"));
        let key = if value.key.is_empty() { "\"\"" } else { &value.key };
        out.line(format!("{lost}      {bytes} of key {key}"))?;
        out.line(format!("          {}", value.problem.place()))?;
        out.line(format!("          {}", value.problem.evidence()))?;
    }
    let bytes: u64 = account.values.iter().map(|value| value.bytes).sum();
    let values = plural(account.values.len() as u64, "value", "values");
    let keys = plural(account.keys_lost, "key", "keys");
    let batches: u64 = lost_batches.iter().map(|(first, last)| last - first + 1).sum();
    let batches = plural(batches, "batch", "batches");
    let total = format!("{batches}; {values}, {}; {keys} wholly", out.size(bytes));
    out.line(format!("in all    {total}"))?;
    if store.is_damaged() { Ok(out.health(store)?) } else { Ok(()) }
}

/// Numbers of the history whose batches are gone or whose headers are damaged, as ranges.
fn lost_batches(store: &Store) -> Vec<(u64, u64)> {
    let history = &store.history;
    let mut lost = history.missing.clone();
    if history.rule != Rule::Alone {
        for (segment, _) in store.segments.iter().zip(&history.counts).filter(|(_, c)| **c) {
            let damaged = segment.batches.iter().filter(|batch| matches!(batch.head, Some(Err(_))));
            let numbers = damaged.filter_map(BatchInfo::sequence);
            let inside = |sequence: &u64| *sequence <= history.last && !segment.is_output();
            lost.extend(numbers.filter(inside).map(|sequence| (sequence, sequence)));
        }
    }
    lost.sort_unstable();
    lost
}

fn document(args: &Salvage, store: &Store, account: &Account) -> Value {
    let values: Vec<Value> = account
        .values
        .iter()
        .map(|value| json!({ "key": value.key, "bytes": value.bytes, "why": value.problem.to_string() }))
        .collect();
    json!({
        "new_store": args.new_store.display().to_string(),
        "old_uuid": store.uuid().map(|id| uuid(&id)),
        "keys": account.keys,
        "bytes": account.bytes,
        "batches": account.batches,
        "segments": account.segments,
        "batches_beyond_included": account.beyond,
        "lost_batches": lost_batches(store).iter().map(|(f, l)| json!([f, l])).collect::<Vec<_>>(),
        "lost_values": values,
        "keys_wholly_lost": account.keys_lost,
    })
}
