//! Every checksum, in parallel: headers and tables while the segments are walked, then all values.
//!
//! The values of a segment are cut into tasks of a few MiB; each task reads forward through one
//! small buffer that stays in the processor's cache between the read and the checksum.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::json;

use crate::Failure;
use crate::args::Verify;
use crate::output::{Mark, Output};
use crate::read::history::Rule;
use crate::read::key::show;
use crate::read::problem::{Problem, Severity};
use crate::read::store::Store;
use crate::read::walk::{EntryInfo, Segment};
use crate::text::{count, plural, size};

/// The bytes of values that one task checks, at least.
const TASK: u64 = 4 << 20;
/// The buffer of a task.
const BUFFER: usize = 256 << 10;
/// Pages are read into pages: where source and target of a copy lie differently within theirs,
/// some processors copy at a third of the speed.
const PAGE: usize = 4096;

/// A run of entries of one segment, in the order of the file.
struct Task<'s> {
    segment: &'s Segment,
    entries: &'s [EntryInfo],
    severity: Severity,
}

/// What was checked.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) bytes: u64,
    pub(crate) values: u64,
    pub(crate) problems: Vec<Problem>,
}

pub(crate) fn run(args: &Verify, out: &mut Output) -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build();
    let pool = pool.map_err(|error| Failure::Message(format!("cannot start threads: {error}")))?;
    let begin = Instant::now();
    let (mut store, checked) = pool.install(|| -> Result<_, Failure> {
        let store = Store::read(&args.path)?;
        let checked = check(&store);
        Ok((store, checked))
    })?;
    let took = begin.elapsed();
    let Checked { bytes, values, problems } = checked;
    store.history.problems.extend(problems);
    let rate = bytes as f64 / took.as_secs_f64().max(1e-9);
    let batches = store.segments.iter().zip(&store.history.counts).filter(|(_, counts)| **counts);
    let batches: usize = batches
        .map(|(s, _)| s.batches.iter().filter(|batch| batch.good_head().is_some()).count())
        .sum();
    if out.json {
        let rest = json!({
            "value_bytes": bytes,
            "values": values,
            "batches": batches,
            "seconds": took.as_secs_f64(),
            "bytes_per_second": rate as u64,
        });
        return Ok(out.document("verify", &store, rest)?);
    }
    out.health(&store)?;
    let batches = plural(batches as u64, "batch", "batches");
    let checked = format!("{batches}, {} values, {}", count(values), out.size(bytes));
    let (seconds, rate) = (took.as_secs_f64(), size(rate as u64, false));
    out.line(format!("checked   {checked} in {seconds:.2} s ({rate}/s)"))?;
    if store.history.problems.is_empty() {
        out.line(out.mark(Mark::Good, "every checksum is right"))?;
    } else if !store.is_damaged() {
        out.line(out.mark(Mark::Good, "every checksum of the history is right"))?;
    }
    Ok(())
}

/// Checks every value of every committed batch.
pub(crate) fn check(store: &Store) -> Checked {
    let tasks = tasks(store);
    let total = tasks.iter().flat_map(|task| task.entries).map(|entry| entry.value_len).sum();
    let bar = bar(total);
    let problems: Vec<Problem> = tasks
        .par_iter()
        .flat_map_iter(|task| {
            let tell = |bytes| bar.iter().for_each(|bar| bar.inc(bytes));
            task.check(tell).into_iter()
        })
        .collect();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let values = tasks.iter().flat_map(|task| task.entries).filter(|e| e.kind.has_value()).count();
    Checked { bytes: total, values: values as u64, problems }
}

/// A progress bar on standard error, where that is a terminal.
fn bar(total: u64) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(total);
    let template = "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    Some(bar)
}

fn tasks(store: &Store) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for (segment, _) in store.segments.iter().zip(&store.history.counts).filter(|(_, c)| **c) {
        let (mut first, mut bytes) = (0, 0);
        let mut severity = Severity::Damage;
        let mut push = |first: usize, end: usize, severity| {
            if first < end {
                tasks.push(Task { segment, entries: &segment.entries[first..end], severity });
            }
        };
        for batch in &segment.batches {
            let (Some(head), Some(sequence)) = (batch.good_head(), batch.sequence()) else {
                continue;
            };
            // What lies beyond the history was torn by a power cut, or is being written just now.
            let beyond = !segment.is_output()
                && store.history.rule != Rule::Alone
                && sequence > store.history.last;
            let now = if beyond { Severity::Scar } else { Severity::Damage };
            if now != severity {
                push(first, head.first, severity);
                (first, bytes, severity) = (head.first, 0, now);
            }
            if beyond && store.history.rule == Rule::CommitWord {
                first = head.first + head.count;
                continue;
            }
            for (i, entry) in segment.entries_of(head).iter().enumerate() {
                bytes += entry.value_len;
                if bytes >= TASK {
                    let end = head.first + i + 1;
                    push(first, end, severity);
                    (first, bytes) = (end, 0);
                }
            }
        }
        push(first, segment.entries.len(), severity);
    }
    tasks
}

impl Task<'_> {
    /// Reads forward through all values, and returns those that do not match.
    fn check(&self, on_bytes: impl Fn(u64)) -> Vec<Problem> {
        let mut problems = Vec::new();
        let (Some(salt), Some(last)) = (self.segment.salt(), self.entries.last()) else {
            return problems;
        };
        let end = last.value_offset + last.value_len;
        let mut memory = vec![0; BUFFER + PAGE];
        let aligned = memory.as_ptr().align_offset(PAGE).min(PAGE);
        let buffer = &mut memory[aligned..aligned + BUFFER];
        let (mut start, mut filled) = (0_u64, 0_usize);
        for entry in self.entries {
            let mut hasher = salt.value_hasher();
            let (mut at, value_end) = (entry.value_offset, entry.value_offset + entry.value_len);
            let mut failed = None;
            while at < value_end {
                if at < start || at >= start + filled as u64 {
                    let page = at - at % PAGE as u64;
                    let take = (end - page).min(BUFFER as u64) as usize;
                    (start, filled) = (page, take);
                    if let Err(error) = self.segment.source.read_exact(&mut buffer[..take], page) {
                        filled = 0;
                        failed = Some(error);
                        break;
                    }
                    on_bytes(take as u64);
                }
                let from = (at - start) as usize;
                let piece = &buffer[from..filled.min(from + (value_end - at) as usize)];
                hasher.update(piece);
                at += piece.len() as u64;
            }
            let found = if entry.kind.has_value() { hasher.finalize() } else { 0 };
            if failed.is_none() && found == entry.value_checksum {
                continue;
            }
            let found = failed.map_or_else(|| format!("{found:#x}"), |error| error.to_string());
            problems.push(self.problem(entry, found));
        }
        problems
    }

    fn problem(&self, entry: &EntryInfo, found: String) -> Problem {
        let (path, expected) = (self.segment.path(), format!("{:#x}", entry.value_checksum));
        let mut problem = Problem::file(self.severity, path, "checksum of value", expected, found);
        problem.offset = Some(entry.value_offset);
        let (len, key) = (entry.value_len, show(self.segment.key(entry)));
        problem.costs(format!("{} of key {key}", plural(len, "byte", "bytes")))
    }
}
