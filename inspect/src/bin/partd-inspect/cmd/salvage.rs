//! `salvage`: writes everything that still verifies to a new store, and reports exactly what is
//! lost.
//!
//! It reads what is still readable (`rescue.rs`) and applies the history without damaged batches
//! and values. Each key's bytes go to the new store in their order; a key that was set stays set.
//! The old store is only read.

use serde_json::{Value, json};

use super::get::{check, pieces};
use super::target::new_directory;
use crate::Failure;
use crate::args::Salvage;
use crate::new_store::{Item, NewStore, Take};
use crate::output::{Output, Style};
use crate::text::{count, plural};
use partd_inspect::ahead::ReadAhead;
use partd_inspect::index::{EntryRef, Index};
use partd_inspect::key::escape;
use partd_inspect::path::shown;
use partd_inspect::problem::Problem;
use partd_inspect::rescue::{LostPart, Rescue};
use partd_inspect::store::Store;
use partd_inspect::text::{range, uuid};
use partd_inspect::walk::BatchInfo;

/// How many repaired parts the text names; JSON has all of them.
const SHOWN: usize = 20;

/// An extent of a value that does not verify.
struct LostValue {
    key: String,
    bytes: u64,
    problem: Problem,
}

/// The result of a salvage.
#[derive(Default)]
struct Account {
    keys: u64,
    bytes: u64,
    values: Vec<LostValue>,
    /// The number of keys of which nothing is left.
    keys_lost: u64,
    batches: u64,
    segments: u64,
    beyond: u64,
    rescue: Rescue,
}

pub(crate) fn run(args: &Salvage, out: &mut Output) -> Result<(), Failure> {
    let mut store = Store::read(&args.path)?;
    new_directory(&args.new_store, &args.path)?;
    let rescue = store.rescue();
    let beyond = if args.prefix_only { &[][..] } else { &store.history.beyond };
    let index = Index::build(&store.segments, &store.history, beyond);
    let mut new = NewStore::create(&args.new_store)?;
    let mut account = Account { beyond: beyond.len() as u64, rescue, ..Account::default() };
    for (key, held) in index.sorted() {
        let mut is_first = true;
        let mut ahead = ReadAhead::new(&store, &held.extents);
        for &at in &held.extents {
            ahead.begin(at);
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
    let is_all = account.values.is_empty() && account.rescue.lost.is_empty();
    out.record_damage(!is_all || store.is_damaged());
    if store.has_gone() {
        out.record_failure();
    }
    if out.json {
        return Ok(out.document("salvage", &store, document(args, &store, &account))?);
    }
    text(args, &store, &account, out)
}

/// Reads the bytes of the old store for the new one.
fn read(store: &Store) -> impl Fn(EntryRef, &mut Take<'_>) -> Result<(), Failure> {
    move |at, take| pieces(store, at, take)
}

fn text(args: &Salvage, store: &Store, account: &Account, out: &mut Output) -> Result<(), Failure> {
    let (keys, size) = (plural(account.keys, "key", "keys"), out.size(account.bytes));
    let batches = plural(account.batches, "batch", "batches");
    let segments = plural(account.segments, "segment", "segments");
    let new = shown(&args.new_store);
    out.line(format!("salvaged  {keys}, {size}, into {new} ({batches}, {segments})"))?;
    if account.beyond > 0 {
        let after = plural(account.beyond, "batch", "batches");
        let end = count(store.history.last);
        let line = format!("included  {after} after the end of the history at {end}");
        out.line(line)?;
        out.line("          (--prefix-only leaves them out)")?;
    }
    let rescue = &account.rescue;
    let repaired: Vec<String> = rescue.repaired.iter().map(repaired).collect();
    for (i, text) in repaired.iter().take(SHOWN).enumerate() {
        out.line(format!("{}{text}", if i == 0 { "repaired  " } else { "          " }))?;
    }
    if repaired.len() > SHOWN {
        let more = repaired.len() - SHOWN;
        out.line(format!("          and {more} more; --json has all of them"))?;
    }
    if rescue.found > 0 {
        let found = plural(rescue.found, "batch", "batches");
        out.line(format!("found     {found} after a break in a chain"))?;
    }
    for path in &rescue.set_aside {
        let path = shown(path);
        out.line(format!("set aside {path}"))?;
        out.line("          it is damaged, and all of its inputs are present")?;
    }
    let lost_batches = lost_batches(store, rescue);
    if lost_batches.is_empty() && account.values.is_empty() && rescue.lost.is_empty() {
        out.line(format!("lost      {}", out.styled(Style::Good, "nothing")))?;
        return if store.is_damaged() { Ok(out.health(store)?) } else { Ok(()) };
    }
    let lost = out.styled(Style::Bad, "lost");
    for (first, last) in &lost_batches {
        let name = range(*first, *last);
        out.line(format!("{lost}      {name}:"))?;
        out.line("          what it appended, set or deleted is unknown")?;
    }
    for part in &rescue.lost {
        let (size, path) = (plural(part.bytes, "byte", "bytes"), shown(&part.path));
        out.line(format!("{lost}      {path}"))?;
        let numbers = match part.max_seq {
            Some(max_seq) => format!(", perhaps with sequence numbers up to {}", count(max_seq)),
            None => String::new(),
        };
        out.line(format!("          {size} from offset {}{numbers}", part.offset))?;
    }
    for value in &account.values {
        let bytes = plural(value.bytes, "byte", "bytes");
        let key = if value.key.is_empty() { "\"\"" } else { &value.key };
        out.line(format!("{lost}      {bytes} of key {key}"))?;
        out.line(format!("          {}", value.problem.location()))?;
        out.line(format!("          {}", value.problem.evidence()))?;
    }
    let bytes: u64 = account.values.iter().map(|value| value.bytes).sum();
    let values = plural(account.values.len() as u64, "value", "values");
    let keys = plural(account.keys_lost, "key", "keys");
    let batches: u64 = lost_batches.iter().map(|(first, last)| last - first + 1).sum();
    let batches = plural(batches, "batch", "batches");
    let parts = match rescue.lost.len() as u64 {
        0 => String::new(),
        n => format!("{}; ", plural(n, "part of a segment", "parts of segments")),
    };
    let total = format!("{batches}; {parts}{values}, {}; {keys} entirely", out.size(bytes));
    out.line(format!("in all    {total}"))?;
    if store.is_damaged() { Ok(out.health(store)?) } else { Ok(()) }
}

fn repaired((path, what, offset): &(std::path::PathBuf, &'static str, u64)) -> String {
    format!("{}: {what} at offset {offset}", shown(path))
}

/// The sequence numbers of lost batches, missing or with damaged headers, as ranges.
fn lost_batches(store: &Store, rescue: &Rescue) -> Vec<(u64, u64)> {
    let history = &store.history;
    let mut lost: Vec<u64> = Vec::new();
    for (segment, _) in store.segments.iter().zip(&history.included).filter(|(_, c)| **c) {
        let damaged = segment.batches.iter().filter(|batch| matches!(batch.head, Some(Err(_))));
        let numbers = damaged.filter_map(BatchInfo::sequence);
        let inside = |sequence: &u64| *sequence <= history.last && !segment.is_output();
        lost.extend(numbers.filter(inside));
    }
    // A later batch may have the number of a damaged one that was given up.
    let has =
        |number: &u64| history.batches.binary_search_by_key(number, |batch_ref| batch_ref.sequence);
    lost.retain(|number| has(number).is_err());
    let mut lost: Vec<(u64, u64)> = lost.into_iter().map(|number| (number, number)).collect();
    lost.extend(&rescue.missing);
    lost.sort_unstable();
    lost.dedup();
    lost
}

fn lost_json(part: &LostPart) -> Value {
    json!({
        "file": shown(&part.path),
        "offset": part.offset,
        "bytes": part.bytes,
        "max_seq": part.max_seq,
    })
}

fn document(args: &Salvage, store: &Store, account: &Account) -> Value {
    let values: Vec<Value> = account
        .values
        .iter()
        .map(|value| json!({ "key": value.key, "bytes": value.bytes, "why": value.problem.to_string() }))
        .collect();
    let rescue = &account.rescue;
    let aside = rescue.set_aside.iter().map(shown);
    json!({
        "new_store": shown(&args.new_store),
        "old_uuid": store.uuid().map(|id| uuid(&id)),
        "keys": account.keys,
        "bytes": account.bytes,
        "batches": account.batches,
        "segments": account.segments,
        "batches_beyond_included": account.beyond,
        "repaired": rescue.repaired.iter().map(repaired).collect::<Vec<_>>(),
        "batches_found": rescue.found,
        "outputs_set_aside": aside.collect::<Vec<_>>(),
        "lost_batches": lost_batches(store, rescue).iter().map(|(f, l)| json!([f, l])).collect::<Vec<_>>(),
        "lost_parts": rescue.lost.iter().map(lost_json).collect::<Vec<_>>(),
        "lost_values": values,
        "keys_entirely_lost": account.keys_lost,
    })
}
