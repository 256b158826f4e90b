//! `map`: shows a map of the live and dead bytes, in the terminal or as a picture.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;

use partd_format::State;
use serde_json::{Value, json};

use super::target::new_file;
use crate::Failure;
use crate::args::Map;
use crate::output::Output;
use crate::text::percent;
use partd_inspect::index::{EntryRef, Index};
use partd_inspect::path::shown;
use partd_inspect::store::Store;

/// The class of a byte in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Live,
    Dead,
    /// Headers, tables, keys, padding.
    Overhead,
    /// Claimed but not readable as a committed batch: pending, void or damaged.
    Claimed,
    Free,
}

impl Class {
    const ALL: [Class; 5] =
        [Class::Live, Class::Dead, Class::Overhead, Class::Claimed, Class::Free];

    fn name(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Dead => "dead",
            Class::Overhead => "headers",
            Class::Claimed => "claimed",
            Class::Free => "free",
        }
    }

    fn symbol(self) -> char {
        match self {
            Class::Live => '█',
            Class::Dead => '░',
            Class::Overhead => '▒',
            Class::Claimed => '?',
            Class::Free => '·',
        }
    }

    /// Its colour in a terminal and in a picture.
    fn colors(self) -> (&'static str, &'static str) {
        match self {
            Class::Live => ("32", "#2e9e4f"),
            Class::Dead => ("31", "#d9534f"),
            Class::Overhead => ("34", "#4a7fc1"),
            Class::Claimed => ("33", "#e0b13c"),
            Class::Free => ("2", "#e6e6e6"),
        }
    }
}

/// The bytes of each class in a segment, split into cells of equal size.
struct Row {
    id: u64,
    cells: Vec<[u64; 5]>,
    totals: [u64; 5],
}

pub(crate) fn run(args: &Map, out: &mut Output) -> Result<(), Failure> {
    let store = Store::read(&args.path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let live: HashSet<EntryRef, foldhash::fast::RandomState> =
        index.keys.values().flat_map(|held| held.extents.iter().copied()).collect();
    if let Some(file) = &args.svg {
        let picture = svg(&rows(&store, &live, 1000));
        let written = new_file(file, &args.path)?.write_all(picture.as_bytes());
        written.map_err(|error| Failure::io("write", file, &error))?;
    }
    if out.json {
        let rows = rows(&store, &live, 64);
        let rest = json!({
            "classes": Class::ALL.map(Class::name),
            "segments": rows.iter().map(row_json).collect::<Vec<_>>(),
            "svg": args.svg.as_ref().map(shown),
        });
        return Ok(out.document("map", &store, rest)?);
    }
    let ids = store.segments.iter().map(|segment| segment.id().to_string().len()).max();
    let id_width = ids.unwrap_or(0).max(2);
    let width = out.width().min(200).saturating_sub(id_width + 10);
    for row in rows(&store, &live, width) {
        let share = percent(row.totals[0], row.totals[0] + row.totals[1]);
        let bar: String = row.cells.iter().map(|cell| paint(largest(cell), out)).collect();
        out.line(format!("{:>id_width$} {bar} {share:>6}", row.id))?;
    }
    let legend = Class::ALL.map(|class| format!("{} {}", paint(class, out), class.name()));
    out.line(format!("{:id_width$} {}   percent: live of all values", "", legend.join("  ")))?;
    if let Some(file) = &args.svg {
        out.line(format!("picture written to {}", shown(file)))?;
    }
    Ok(out.warnings(&store)?)
}

fn paint(class: Class, out: &Output) -> String {
    let symbol = class.symbol();
    if out.has_color() {
        format!("\x1b[{}m{symbol}\x1b[0m", class.colors().0)
    } else {
        symbol.to_string()
    }
}

/// The class of the most bytes in a cell.
fn largest(cell: &[u64; 5]) -> Class {
    let most = Class::ALL.into_iter().zip(cell).rev().max_by_key(|(_, bytes)| **bytes);
    most.map_or(Class::Free, |(class, _)| class)
}

fn rows(
    store: &Store,
    live: &HashSet<EntryRef, foldhash::fast::RandomState>,
    width: usize,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, segment) in store.segments.iter().enumerate() {
        let len = segment.source.len().max(1);
        let mut row = Row { id: segment.id(), cells: vec![[0; 5]; width.max(1)], totals: [0; 5] };
        let included = store.history.included[number];
        let mut at = 0;
        let mut put = |from: u64, to: u64, class: Class| row.add(len, from, to, class);
        for batch in &segment.batches {
            put(at, batch.offset, Class::Overhead);
            at = batch.offset + batch.len;
            let committed = matches!(batch.state, Ok(State::Committed(_)));
            let Some(head) = batch.good_head().filter(|_| committed) else {
                put(batch.offset, at, Class::Claimed);
                continue;
            };
            let mut end = batch.offset;
            for (i, entry) in segment.entries_of(head).iter().enumerate() {
                let entry_ref = EntryRef { segment: number as u32, entry: (head.first + i) as u32 };
                let class =
                    if included && live.contains(&entry_ref) { Class::Live } else { Class::Dead };
                // The head before the first value, and what aligns the others.
                put(end, entry.value_offset, Class::Overhead);
                end = entry.value_offset + entry.value_len;
                put(entry.value_offset, end, class);
            }
            put(end, at, Class::Overhead);
        }
        put(at, segment.end, Class::Overhead);
        put(segment.end.max(at), segment.source.len(), Class::Free);
        rows.push(row);
    }
    rows
}

impl Row {
    /// Adds a range of bytes to the cells that it overlaps.
    fn add(&mut self, len: u64, from: u64, to: u64, class: Class) {
        if from >= to {
            return;
        }
        self.totals[class as usize] += to - from;
        let count = self.cells.len() as u128;
        let edge = |cell: u128| (cell * u128::from(len) / count) as u64;
        let mut cell = (u128::from(from) * count / u128::from(len)) as usize;
        let mut at = from;
        while at < to && cell < self.cells.len() {
            let end = edge(cell as u128 + 1).min(to).max(at);
            self.cells[cell][class as usize] += end - at;
            at = end;
            cell += 1;
        }
    }
}

fn row_json(row: &Row) -> Value {
    let totals: serde_json::Map<String, Value> =
        Class::ALL.iter().zip(row.totals).map(|(c, n)| (c.name().to_owned(), n.into())).collect();
    json!({ "id": row.id, "bytes": totals, "cells": row.cells })
}

/// Draws the map as an SVG picture: a bar for each segment.
fn svg(rows: &[Row]) -> String {
    let (left, bar, gap) = (150, 14, 4);
    let width = left + 1000 + 10;
    let height = 30 + rows.len() * (bar + gap) + 10;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">"
    );
    for (i, class) in Class::ALL.into_iter().enumerate() {
        let (x, color, name) = (left + i * 100, class.colors().1, class.name());
        let _ =
            writeln!(svg, "<rect x=\"{x}\" y=\"6\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"16\">{name}</text>", x + 16);
    }
    for (i, row) in rows.iter().enumerate() {
        let y = 30 + i * (bar + gap);
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">segment {}</text>", y + 11, row.id);
        let mut first = 0;
        for cell in 1..=row.cells.len() {
            let class = largest(&row.cells[first]);
            if cell < row.cells.len() && largest(&row.cells[cell]) == class {
                continue;
            }
            let (x, color) = (left + first, class.colors().1);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{bar}\" fill=\"{color}\"/>",
                cell - first
            );
            first = cell;
        }
    }
    svg.push_str("</svg>\n");
    svg
}
