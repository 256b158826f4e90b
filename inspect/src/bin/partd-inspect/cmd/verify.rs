//! `verify`: checks every checksum in parallel.
//!
//! The walk of a segment checks headers and tables. Then tasks check its values while other
//! segments are still walked. The severity of a mismatch is known once the history is. A task
//! covers a few MiB of values and reads them through one small buffer, which stays in the
//! processor's cache between the read and the checksum.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::ops::Range;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use partd_format::Salt;
use rayon::prelude::*;
use serde_json::json;

use crate::Failure;
use crate::args::Verify;
use crate::output::{Output, Style};
use crate::text::{count, plural, size};
use partd_inspect::history::Rule;
use partd_inspect::key::show;
use partd_inspect::problem::{Problem, Severity};
use partd_inspect::source;
use partd_inspect::store::Store;
use partd_inspect::walk::{EntryInfo, Segment};

/// The least number of bytes that one task checks; the last one of a segment may have fewer.
const TASK: u64 = 4 << 20;
/// The length of a task's buffer in bytes.
const BUFFER: usize = 256 << 10;
/// How many bytes a task requests ahead of reading.
const AHEAD: u64 = 1 << 20;
/// The alignment of the buffer and of the reads. If source and target of a copy have different
/// offsets within their pages, some processors copy at a third of the speed.
const PAGE: usize = 4096;

thread_local! {
    /// The buffer of this thread, with room to align it to a page.
    static MEMORY: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER + PAGE]);
}

/// An entry whose value does not match: its index in the segment, and what was found.
type Wrong = (usize, String);

/// The result of checking one segment.
#[derive(Debug, Default)]
struct SegmentCheck {
    bytes: u64,
    values: u64,
    /// In the order of the file.
    wrong: Vec<Wrong>,
}

/// The result of checking all segments.
#[derive(Debug, Default)]
pub(crate) struct StoreCheck {
    pub(crate) bytes: u64,
    pub(crate) values: u64,
    pub(crate) problems: Vec<Problem>,
}

pub(crate) fn run(args: &Verify, out: &mut Output) -> Result<(), Failure> {
    // No thread should have to wait until others close their files.
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let threads = threads.min(source::threads_max());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let begin = Instant::now();
    let bar = bar();
    let check_values = |segment: &Segment| check_values(segment, bar.as_ref());
    let read = match pool {
        Ok(pool) => pool.install(|| Store::read_with(&args.path, check_values)),
        // Without a pool of its own it uses the global one.
        Err(_) => Store::read_with(&args.path, check_values),
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let (mut store, checks) = read?;
    let StoreCheck { bytes, values, problems } = judge(&store, checks);
    let took = begin.elapsed();
    store.history.problems.extend(problems);
    let rate = bytes as f64 / took.as_secs_f64().max(1e-9);
    let batches =
        store.segments.iter().zip(&store.history.included).filter(|(_, included)| **included);
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
        out.line(out.styled(Style::Good, "every checksum is right"))?;
    } else if !store.is_damaged() {
        out.line(out.styled(Style::Good, "every checksum of the history is right"))?;
    }
    Ok(())
}

/// Turns the mismatches of each segment into problems, with their severity for the history.
fn judge(store: &Store, checks: Vec<SegmentCheck>) -> StoreCheck {
    let mut checked = StoreCheck::default();
    let segments = store.segments.iter().zip(&store.history.included).zip(checks);
    for ((segment, _), checks) in segments.filter(|((_, included), _)| **included) {
        checked.bytes += checks.bytes;
        checked.values += checks.values;
        let mut wrong = checks.wrong.into_iter().peekable();
        for batch in &segment.batches {
            let (Some(head), Some(sequence)) = (batch.good_head(), batch.sequence()) else {
                continue;
            };
            // A batch after the end of the history was torn by a power cut, or is being written
            // right now.
            let beyond = !segment.is_output()
                && store.history.rule != Rule::Alone
                && sequence > store.history.last;
            let is_written = beyond && store.history.rule == Rule::CommitWord;
            let severity = if beyond { Severity::Scar } else { Severity::Damage };
            let of_batch = |(at, _): &Wrong| *at < head.first + head.count;
            while let Some((at, found)) = wrong.next_if(of_batch) {
                if !is_written {
                    let entry = &segment.entries[at];
                    checked.problems.push(problem(segment, entry, severity, found));
                }
            }
            if is_written {
                let (bytes, values) = sums(segment.entries_of(head));
                checked.bytes -= bytes;
                checked.values -= values;
            }
        }
    }
    checked
}

/// The bytes and the number of the values of some entries.
fn sums(entries: &[EntryInfo]) -> (u64, u64) {
    let values = entries.iter().filter(|entry| entry.kind.has_value()).count();
    (entries.iter().map(|entry| entry.value_len).sum(), values as u64)
}

/// A progress bar on standard error, if that is a terminal. Its length grows while segments are
/// walked.
fn bar() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(0);
    let template = "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    Some(bar)
}

/// Checks every value of the committed batches of a segment, in parallel.
fn check_values(segment: &Segment, bar: Option<&ProgressBar>) -> SegmentCheck {
    let Some(salt) = segment.salt() else { return SegmentCheck::default() };
    let (mut tasks, mut first, mut len) = (Vec::new(), 0, 0);
    for (i, entry) in segment.entries.iter().enumerate() {
        len += entry.value_len;
        if len >= TASK || i + 1 == segment.entries.len() {
            tasks.push((first..i + 1, len));
            (first, len) = (i + 1, 0);
        }
    }
    let (bytes, values) = sums(&segment.entries);
    bar.iter().for_each(|bar| bar.inc_length(bytes));
    let wrong = tasks.into_par_iter().flat_map_iter(|(entries, len)| {
        let wrong = MEMORY.with_borrow_mut(|memory| {
            let aligned = memory.as_ptr().align_offset(PAGE).min(PAGE);
            check(segment, salt, entries, &mut memory[aligned..aligned + BUFFER])
        });
        bar.iter().for_each(|bar| bar.inc(len));
        wrong
    });
    SegmentCheck { bytes, values, wrong: wrong.collect() }
}

/// Reads the values of some consecutive entries, and returns those that do not match.
fn check(segment: &Segment, salt: Salt, entries: Range<usize>, buffer: &mut [u8]) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let Some(last) = segment.entries[entries.clone()].last() else { return wrong };
    let end = last.value_offset + last.value_len;
    let (mut start, mut filled) = (0_u64, 0_usize);
    let first = segment.entries[entries.start].value_offset;
    segment.source.will_read(first, (end - first).min(AHEAD));
    for number in entries {
        let entry = &segment.entries[number];
        let mut hasher = salt.value_hasher();
        let (mut at, value_end) = (entry.value_offset, entry.value_offset + entry.value_len);
        let mut failed = None;
        while at < value_end {
            if at < start || at >= start + filled as u64 {
                let page = at - at % PAGE as u64;
                let take = (end - page).min(buffer.len() as u64) as usize;
                (start, filled) = (page, take);
                let ahead = page + AHEAD;
                segment.source.will_read(ahead, (take as u64).min(end.saturating_sub(ahead)));
                if let Err(error) = segment.source.read_exact(&mut buffer[..take], page) {
                    filled = 0;
                    failed = Some(error);
                    break;
                }
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
        wrong.push((number, found));
    }
    wrong
}

fn problem(segment: &Segment, entry: &EntryInfo, severity: Severity, found: String) -> Problem {
    let (path, expected) = (segment.path(), format!("{:#x}", entry.value_checksum));
    let mut problem = Problem::file(severity, path, "checksum of value", expected, found);
    problem.offset = Some(entry.value_offset);
    let (len, key) = (entry.value_len, show(segment.key(entry)));
    problem.with_consequence(format!("{} of key {key}", plural(len, "byte", "bytes")))
}
