//! The section of the comparison: tables of rates and of ratios, and the bars.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use crate::chart::bars::{Column, Line, bars};
use crate::engine::{Entry, Role};
use crate::rounds::{Cell, Plan, Row};
use crate::samples::{Samples, figure};

/// One of the figures of a cell.
type Of = fn(&Cell) -> &Samples;

const FIGURES: [(&str, Of); 3] = [
    ("Append", |cell| &cell.append),
    ("Get, all threads", |cell| &cell.get_all),
    ("Get, one thread", |cell| &cell.get_one),
];

/// Returns the Markdown table of a figure: a line for each engine, a column for each workload.
fn table(plan: &Plan, rows: &[Row], title: &str, of: Of) -> String {
    let mut text = format!("### {title}, GiB/s\n\n| |");
    rows.iter().for_each(|row| text += &format!(" {} |", row.workload.name()));
    text += "\n|---|";
    rows.iter().for_each(|_| text += "--:|");
    text.push('\n');
    for (i, entry) in plan.engines.iter().enumerate() {
        if !title.starts_with("Append") && !entry.reads {
            continue;
        }
        text += &format!("| {} |", entry.name);
        for row in rows {
            let cell = &row.cells[i];
            let why = || cell.why_not.as_ref().map_or("–".to_owned(), |why| format!("– ({why})"));
            text += &format!(" {} |", of(cell).cell().unwrap_or_else(why));
        }
        text.push('\n');
    }
    text
}

/// The best median among the engines of a role, and who has it.
fn best(plan: &Plan, row: &Row, of: Of, is: impl Fn(&Entry) -> bool) -> Option<(f64, String)> {
    let cells = plan.engines.iter().zip(&row.cells).filter(|(entry, _)| is(entry));
    let medians =
        cells.filter_map(|(entry, cell)| Some((of(cell).median()?, entry.name.to_owned())));
    medians.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Returns the table of ratios: this crate's engines to the limit and to their rivals.
fn ratios(plan: &Plan, rows: &[Row]) -> String {
    let mut text = "### Ratios of the medians\n\n| | |".to_owned();
    rows.iter().for_each(|row| text += &format!(" {} |", row.workload.name()));
    text += "\n|---|---|";
    rows.iter().for_each(|_| text += "--:|");
    text.push('\n');
    for (i, entry) in plan.engines.iter().enumerate().filter(|(_, e)| e.role == Role::Ours) {
        for (title, of) in FIGURES {
            let mut line = |against: &str, other: &dyn Fn(&Row) -> Option<(f64, String)>| {
                let ratio = |row: &Row| {
                    let (theirs, name) = other(row)?;
                    let ratio = figure(of(&row.cells[i]).median()? / theirs);
                    let is_named = against == "best rival";
                    Some(if is_named { format!("{ratio} ({name})") } else { ratio })
                };
                let ratios: Vec<_> = rows.iter().map(ratio).collect();
                if ratios.iter().any(Option::is_some) {
                    text += &format!("| {} | {} ÷ {against} |", entry.name, title.to_lowercase());
                    for ratio in ratios {
                        text += &format!(" {} |", ratio.unwrap_or_else(|| "–".to_owned()));
                    }
                    text.push('\n');
                }
            };
            line("limit", &|row| best(plan, row, of, |entry| entry.role == Role::Limit));
            line("ranges", &|row| best(plan, row, of, |entry| entry.slug == "ranges"));
            line("best rival", &|row| best(plan, row, of, |entry| entry.role == Role::Rival));
        }
    }
    text
}

/// Returns the chart of a figure.
fn chart(plan: &Plan, rows: &[Row], dir: &Path, name: &str, title: &str, of: Of) -> Result<String> {
    let columns: Vec<Column> = rows
        .iter()
        .map(|row| Column {
            name: row.workload.name(),
            limit: best(plan, row, of, |entry| entry.role == Role::Limit).map(|(limit, _)| limit),
        })
        .collect();
    let shown = plan.engines.iter().enumerate().filter(|(_, entry)| entry.role != Role::Limit);
    let lines: Vec<Line> = shown
        .map(|(i, entry)| Line {
            name: entry.name.replace(['*', '`'], ""),
            is_ours: entry.role == Role::Ours,
            bars: rows.iter().map(|row| of(&row.cells[i]).clone()).collect(),
        })
        .collect();
    bars(dir, name, title, &columns, &lines)
}

/// Returns the whole section, and draws its charts in `charts`.
pub(crate) fn section(plan: &Plan, rows: &[Row], machine: &str, charts: &Path) -> Result<String> {
    let mut text = "## Engines\n\n".to_owned();
    let threads = plan.threads;
    writeln!(text, "{machine}\n")?;
    writeln!(
        text,
        "Each figure is the median of {rounds} rounds (appends: up to {twice} runs), with the smallest and the \
         largest; an engine whose run takes more than {once} s runs in the first round only, and a run is \
         stopped after {stop} s. Engines alternate within a round. Each run is a process of its own in a \
         fresh directory, which is removed afterwards. A batch is one value for each key; every engine \
         gets the same batches from memory and returns all values in memory. Nothing is synced, and the \
         data is in the page cache when it is read. The time of a get includes whatever a first read \
         needs, such as flushing and indexing. *All threads* are {threads}; keys are spread over them, \
         except for the Python engines, whose figure is that of one thread. After the clock has stopped, \
         the length and the CRC-32 of every value are compared with what was appended, for all engines \
         alike; a wrong value ends the program. Only SegmentLog, also below Buffer, and the limits \
         compute a checksum of every stored value in the timed part; those that read also \
         verify it.\n",
        rounds = plan.rounds,
        twice = plan.rounds * if threads > 1 { 2 } else { 1 },
        once = plan.once_above.as_secs(),
        stop = plan.timeout.as_secs(),
    )?;
    let [append, get, _] = FIGURES;
    let title = "Append, GiB/s";
    text += &chart(plan, rows, charts, "engines-append", title, append.1)?;
    text.push('\n');
    let title = format!("Get, {threads} threads, GiB/s");
    text += &chart(plan, rows, charts, "engines-get", &title, get.1)?;
    text.push('\n');
    for (title, of) in FIGURES {
        writeln!(text, "{}", table(plan, rows, title, of))?;
    }
    writeln!(text, "{}", ratios(plan, rows))?;
    text += "### What each engine does\n\n";
    for entry in &plan.engines {
        writeln!(text, "- {}: {}.", entry.name, entry.about)?;
    }
    Ok(text)
}
