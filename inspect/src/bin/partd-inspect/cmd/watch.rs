//! `watch`: shows how fast the history grows. A terminal has one line that is refreshed; other
//! outputs get a line for each interval.
//!
//! It reads the commit word, and follows the chains of the segments from where it stopped before.
//! It reads only headers and link words.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::segment::{HEADER_LEN, id_of_file_name};
use partd_format::{Link, SegmentHeader};
use serde_json::json;

use crate::Failure;
use crate::args::Watch;
use crate::output::{Output, Style};
use crate::text::{count, size};
use partd_inspect::control::Control;
use partd_inspect::locks::{Liveness, Locks};
use partd_inspect::path::shown;
use partd_inspect::source::{Source, Window};

/// The progress of the walk through a segment.
struct Cursor {
    header: SegmentHeader,
    end: u64,
}

/// The store at one moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    sequence: u64,
    durable_seq: u64,
    /// The bytes of all claimed batches seen so far.
    bytes: u64,
    segments: u64,
    writers: u64,
}

pub(crate) fn run(args: &Watch, out: &mut Output) -> Result<(), Failure> {
    let mut cursors = BTreeMap::new();
    let mut total = 0;
    let mut before = sample(&args.path, &mut cursors, &mut total)?;
    let mut at = Instant::now();
    let headings = format!(
        "{:>14} {:>11} {:>13} {:>11} {:>9} {:>7}",
        "sequence", "batches/s", "bytes/s", "unsynced", "segments", "writers"
    );
    let refreshed = !out.json && out.can_rewrite(headings.len());
    let mut lines = 0;
    while args.count.is_none_or(|count| lines < count) {
        let is_due = if refreshed { lines == 0 } else { lines % 20 == 0 };
        if is_due && !out.json {
            out.line(out.styled(Style::Strong, &headings))?;
            out.finish()?;
        }
        sleep(Duration::from_secs_f64(args.interval));
        let now = sample(&args.path, &mut cursors, &mut total)?;
        let seconds = at.elapsed().as_secs_f64().max(1e-9);
        at = Instant::now();
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let (batches, bytes) = (rate(now.sequence, before.sequence), rate(now.bytes, before.bytes));
        let unsynced = now.sequence.saturating_sub(now.durable_seq);
        if out.json {
            let rest = json!({
                "sequence": now.sequence,
                "batches_per_second": batches,
                "bytes_per_second": bytes,
                "unsynced_batches": unsynced,
                "segments": now.segments,
                "writers": now.writers,
            });
            out.document_line("watch", rest)?;
        } else {
            let (sequence, batches) = (count(now.sequence), count(batches));
            let (bytes, unsynced) = (size(bytes, out.exact), count(unsynced));
            let (segments, writers) = (count(now.segments), count(now.writers));
            let line = format!(
                "{sequence:>14} {batches:>11} {bytes:>13} {unsynced:>11} {segments:>9} {writers:>7}"
            );
            let line = if now.writers > 0 { out.styled(Style::Good, &line) } else { line };
            if refreshed {
                out.rewrite(&line)?;
            } else {
                out.line(line)?;
                out.finish()?;
            }
        }
        before = now;
        lines += 1;
    }
    if refreshed { Ok(out.line("")?) } else { Ok(()) }
}

fn sample(
    dir: &Path,
    cursors: &mut BTreeMap<u64, Cursor>,
    total: &mut u64,
) -> Result<Sample, Failure> {
    let control = Control::read(dir).map_err(|e| Failure::io("read", &dir.join("control"), &e))?;
    let mut sample = Sample::default();
    match control {
        Some(Ok(control)) => {
            let locks = Locks::read();
            let alive = |slot: &&_| locks.writer(dir, slot) == Liveness::Alive;
            sample.sequence = control.commit.visible();
            sample.durable_seq = control.durable_seq.unwrap_or(0);
            sample.writers = control.slots.iter().filter(alive).count() as u64;
        }
        Some(Err(error)) => {
            let message = format!("{}: {error}; there is nothing to watch", shown(dir));
            return Err(Failure::Message(message));
        }
        None => {
            // The store may have been removed meanwhile.
            std::fs::metadata(dir).map_err(|error| Failure::io("read", dir, &error))?;
            let message = format!(
                "{}: there is no control file, so no process writes here; the summary shows the store",
                shown(dir)
            );
            return Err(Failure::Message(message));
        }
    }
    let io = |error| Failure::io("read", dir, &error);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let Some(id) = id_of_file_name(entry.file_name().as_encoded_bytes()) else { continue };
        sample.segments += 1;
        // A compaction may have just unlinked the segment.
        let Ok(source) = Source::open(&entry.path()) else { continue };
        *total += advance(&source, id, cursors);
    }
    sample.bytes = *total;
    Ok(sample)
}

/// Continues the walk through a segment; returns the bytes of new batches.
fn advance(source: &Source, id: u64, cursors: &mut BTreeMap<u64, Cursor>) -> u64 {
    let mut window = Window::new(source);
    if let std::collections::btree_map::Entry::Vacant(vacant) = cursors.entry(id) {
        let len = source.len().min(HEADER_LEN) as usize;
        let header = window.get(0, len).ok().map(|b| SegmentHeader::decode(b, source.len()));
        let Some(Ok(header)) = header else { return 0 };
        vacant.insert(Cursor { header, end: header.data_start });
    }
    let Some(cursor) = cursors.get_mut(&id) else { return 0 };
    let begin = cursor.end;
    while cursor.header.len - cursor.end >= 8 {
        let Ok(word) = window.get(cursor.end, 8) else { break };
        let word = Le::read_u64(word);
        match Link::decode(cursor.header.salt, cursor.end, word, cursor.header.len) {
            Ok(Link::Batch(len)) => cursor.end += len,
            _ => break,
        }
    }
    cursor.end - begin
}
