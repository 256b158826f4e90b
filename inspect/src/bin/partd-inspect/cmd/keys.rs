//! `keys`: lists the keys.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::json;

use crate::Failure;
use crate::args::{Keys, Sort};
use crate::output::{Output, Rows};
use crate::text::{Align, Table, count, plural};
use partd_inspect::index::{Index, KeyExtents};
use partd_inspect::key::{escape, first_parts, show, unescape};
use partd_inspect::store::Store;

pub(crate) fn run(args: &Keys, out: &mut Output) -> Result<(), Failure> {
    let prefix = match &args.prefix {
        Some(prefix) => unescape(prefix.as_encoded_bytes()).map_err(Failure::Message)?,
        None => Vec::new(),
    };
    let store = Store::read(&args.path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let total: u64 = index.keys.values().map(|held| held.len).sum();
    let mut keys = index.sorted();
    keys.retain(|(key, _)| key.starts_with(&prefix));
    if let Some(parts) = args.group_by {
        return groups(args, parts as usize, &store, &keys, total, out);
    }
    match args.sort {
        Sort::Key => {}
        Sort::Size => keys.sort_by_key(|(_, held)| Reverse(held.len)),
        Sort::Extents => keys.sort_by_key(|(_, held)| Reverse(held.extents.len())),
    }
    let found = keys.len();
    keys.truncate(args.limit.unwrap_or(usize::MAX));
    if out.json {
        let row = |(key, held): &(&[u8], &KeyExtents)| {
            json!({
                "key": escape(key),
                "bytes": held.len,
                "extents": held.extents.len(),
                "share": (share(held.len, total) * 1e6).round() / 1e6,
                "set": held.is_set,
            })
        };
        let rest = json!({ "matching_keys": found, "live_bytes": total });
        let rows = Rows(|| keys.iter().map(row));
        return Ok(out.document_with("keys", &store, rest, "keys", &rows)?);
    }
    let mut table = Table::new(&[
        ("key", Align::Flexible),
        ("length", Align::Right),
        ("extents", Align::Right),
        ("share", Align::Right),
    ]);
    for (key, held) in &keys {
        table.row(vec![
            show(key),
            out.size(held.len),
            count(held.extents.len() as u64),
            format!("{:.1} %", share(held.len, total) * 100.0),
        ]);
    }
    out.table(&table)?;
    if keys.len() < found {
        let (shown, all) = (count(keys.len() as u64), plural(found as u64, "key", "keys"));
        out.line(format!("{shown} of {all}"))?;
    }
    Ok(out.warnings(&store)?)
}

/// The share of a length in the whole.
fn share(len: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { len as f64 / total as f64 }
}

/// The totals of the keys that begin with the same parts.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    keys: u64,
    bytes: u64,
    extents: usize,
}

/// Lists the totals of keys by their first `parts` parts.
fn groups(
    args: &Keys,
    parts: usize,
    store: &Store,
    keys: &[(&[u8], &KeyExtents)],
    total: u64,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut by_parts = BTreeMap::<Vec<u8>, Group>::new();
    for (key, held) in keys {
        let group = by_parts.entry(first_parts(key, parts)).or_default();
        group.keys += 1;
        group.bytes += held.len;
        group.extents += held.extents.len();
    }
    let mut groups: Vec<_> = by_parts.into_iter().collect();
    match args.sort {
        Sort::Key => {}
        Sort::Size => groups.sort_by_key(|(_, group)| Reverse(group.bytes)),
        Sort::Extents => groups.sort_by_key(|(_, group)| Reverse(group.extents)),
    }
    let found = groups.len();
    groups.truncate(args.limit.unwrap_or(usize::MAX));
    if out.json {
        let row = |(parts, group): &(Vec<u8>, Group)| {
            json!({
                "group": escape(parts),
                "keys": group.keys,
                "bytes": group.bytes,
                "extents": group.extents,
                "share": (share(group.bytes, total) * 1e6).round() / 1e6,
            })
        };
        let rest = json!({
            "group_by": parts,
            "matching_keys": keys.len(),
            "matching_groups": found,
            "live_bytes": total,
        });
        let rows = Rows(|| groups.iter().map(row));
        return Ok(out.document_with("keys", store, rest, "groups", &rows)?);
    }
    let mut table = Table::new(&[
        ("group", Align::Flexible),
        ("keys", Align::Right),
        ("length", Align::Right),
        ("extents", Align::Right),
        ("share", Align::Right),
    ]);
    for (parts, group) in &groups {
        table.row(vec![
            show(parts),
            count(group.keys),
            out.size(group.bytes),
            count(group.extents as u64),
            format!("{:.1} %", share(group.bytes, total) * 100.0),
        ]);
    }
    out.table(&table)?;
    if groups.len() < found {
        let (shown, all) = (count(groups.len() as u64), plural(found as u64, "group", "groups"));
        out.line(format!("{shown} of {all}"))?;
    }
    Ok(out.warnings(store)?)
}
