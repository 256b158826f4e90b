//! `keys`: lists the keys.

use std::cmp::Reverse;

use serde_json::json;

use crate::Failure;
use crate::args::{Keys, Sort};
use crate::output::{Output, Rows};
use crate::text::{Align, Table, count, plural};
use partd_inspect::index::{Index, KeyExtents};
use partd_inspect::key::{escape, show, unescape};
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
    match args.sort {
        Sort::Key => {}
        Sort::Size => keys.sort_by_key(|(_, held)| Reverse(held.len)),
        Sort::Extents => keys.sort_by_key(|(_, held)| Reverse(held.extents.len())),
    }
    let found = keys.len();
    keys.truncate(args.limit.unwrap_or(usize::MAX));
    let share = |len: u64| if total == 0 { 0.0 } else { len as f64 / total as f64 };
    if out.json {
        let row = |(key, held): &(&[u8], &KeyExtents)| {
            json!({
                "key": escape(key),
                "bytes": held.len,
                "extents": held.extents.len(),
                "share": (share(held.len) * 1e6).round() / 1e6,
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
            format!("{:.1} %", share(held.len) * 100.0),
        ]);
    }
    out.table(&table)?;
    if keys.len() < found {
        let (shown, all) = (count(keys.len() as u64), plural(found as u64, "key", "keys"));
        out.line(format!("{shown} of {all}"))?;
    }
    Ok(out.warnings(&store)?)
}
