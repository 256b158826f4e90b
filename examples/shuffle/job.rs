//! The shuffle itself: each row goes to the partition of its key's hash, and each partition into
//! one file.
//!
//! In the first half, reader threads take blocks of records and append each row, unchanged, to the
//! value of its partition in a `Buffer` over a `SegmentLog`. In the second half, the buffer is empty,
//! and each partition is written as a CSV file from a view, which lends its chunks without a copy.
//! Every row of the input is in exactly one file.

use std::fs;
use std::hash::Hasher;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use partd::{Batch, Buffer, Dict, Durability, Lend, Partd, SegmentLog};

use crate::records::Records;

/// The parameters of a shuffle.
#[derive(Debug)]
pub struct Job {
    /// The CSV file, with a header.
    pub input: PathBuf,
    /// The column whose values determine the partition.
    pub by: String,
    /// The number of partitions, and of output files.
    pub partitions: usize,
    /// The directory for the output: new or empty.
    pub out: PathBuf,
    /// The memory limit of the buffer.
    pub memory_bytes: u64,
    /// The number of threads in each half.
    pub threads: usize,
    /// The number of times that the input is read.
    pub repeat: usize,
}

/// The result of a shuffle.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows of input.
    pub rows: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// The number of batches; a batch has one append per row.
    pub batches: u64,
    /// Bytes that went through the segment log.
    pub log_bytes: u64,
    /// Time of the first half, reading and appending.
    pub append_time: Duration,
    /// Time of the second half, lending and writing.
    pub get_time: Duration,
}

/// A marker file in the directories that the command line created itself.
pub const MARK: &str = ".made-by-the-partd-shuffle-example";

/// The error is a sentence for the user.
pub type Result<T> = std::result::Result<T, String>;

/// Runs a shuffle. `progress` receives the number of bytes done, for the first half and then for
/// the second.
pub fn run(job: &Job, progress: &(dyn Fn(u64) + Sync)) -> Result<Report> {
    let block_len = (job.memory_bytes / 16).clamp(16 << 10, 1 << 20) as usize;
    let shown = job.input.display();
    let cannot_read = |error| format!("cannot read {shown}: {error}");
    if job.input.is_dir() {
        return Err(format!("{shown} is a directory; name one CSV file"));
    }
    let records = Records::open(&job.input, block_len, job.repeat).map_err(cannot_read)?;
    let columns = fields(records.header());
    let Some(column) = columns.iter().position(|name| *name == job.by) else {
        return Err(format!(
            "{shown} has no column {:?}; its columns are {}",
            job.by,
            columns.join(", ")
        ));
    };
    let header = records.header().to_vec();
    empty_directory(&job.out)?;
    let log = SegmentLog::options().temporary_in(&job.out).map_err(|error| error.to_string())?;
    let buffer = Buffer::new(Dict::new(), log, job.memory_bytes);

    let started = Instant::now();
    let records = Mutex::new(records);
    let failed = AtomicBool::new(false);
    let reports = in_threads(job.threads, || {
        let mut report = Report::default();
        let mut block = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let next =
                records.lock().unwrap_or_else(PoisonError::into_inner).next_block(&mut block);
            let appended = next.map_err(cannot_read).and_then(|there| {
                let append = || append(&block, column, columns.len(), job, &buffer, &mut report);
                there.then(append).transpose()
            });
            match appended {
                Ok(Some(bytes)) => progress(bytes),
                Ok(None) => break,
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(report)
    })?;
    buffer.flush().map_err(|error| error.to_string())?;
    let append_time = started.elapsed();

    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let written = in_threads(job.threads.min(job.partitions), || {
        let mut written = 0;
        while let Some(part) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|part| *part < job.partitions)
        {
            let rows = buffer.view(part).map_err(|error| error.to_string())?;
            let path = job.out.join(format!("part-{part:04}.csv"));
            write_part(&path, &header, rows.chunks())
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            written += rows.len();
            progress(rows.len());
        }
        Ok(written)
    })?;
    let mut report = Report {
        append_time,
        get_time: started.elapsed(),
        log_bytes: buffer.stats().slow_bytes,
        ..Report::default()
    };
    for part in reports {
        report.rows += part.rows;
        report.bytes += part.bytes;
        report.batches += part.batches;
    }
    let written: u64 = written.iter().sum();
    if written != report.bytes {
        return Err(format!("{} bytes went in, {written} came out: this is a bug", report.bytes));
    }
    Ok(report)
}

/// Appends the rows of a block, each to its partition, as one batch; returns the number of bytes.
fn append(
    block: &[u8],
    column: usize,
    columns: usize,
    job: &Job,
    buffer: &impl Partd,
    report: &mut Report,
) -> Result<u64> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(block);
    let mut record = csv::ByteRecord::new();
    let mut batch = Batch::new();
    let mut start = 0;
    while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
        let end = reader.position().byte() as usize;
        let row = without_blank_lines(&block[start..end]);
        start = end;
        if row.is_empty() {
            continue;
        }
        if record.len() != columns {
            return Err(format!(
                "{}: a row has {} columns where the header has {columns}: {}",
                job.input.display(),
                record.len(),
                String::from_utf8_lossy(&row[..row.len().min(200)]).trim_end()
            ));
        }
        batch.append(partition(&record[column], job.partitions), row);
    }
    buffer.write(&batch, Durability::Plain).map_err(|error| error.to_string())?;
    report.rows += batch.ops().len() as u64;
    report.bytes += batch.value_bytes();
    report.batches += 1;
    Ok(batch.value_bytes())
}

/// The record without the empty lines before it, which are not rows.
fn without_blank_lines(mut record: &[u8]) -> &[u8] {
    while let Some(rest) = record.strip_prefix(b"\n").or(record.strip_prefix(b"\r\n")) {
        record = rest;
    }
    record
}

/// The partition of a value: its hash, which is the same in every run.
fn partition(value: &[u8], partitions: usize) -> usize {
    // The last field of a row may end with the CR of its CR LF.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(value.strip_suffix(b"\r").unwrap_or(value));
    (hasher.finish() % partitions as u64) as usize
}

fn write_part<'a>(
    path: &Path,
    header: &[u8],
    rows: impl Iterator<Item = &'a [u8]>,
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(64 << 10, fs::File::create(path)?);
    file.write_all(header)?;
    for chunk in rows {
        file.write_all(chunk)?;
    }
    file.flush()
}

/// The names of the columns.
fn fields(header: &[u8]) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(header);
    let record = reader.byte_records().next().and_then(std::result::Result::ok).unwrap_or_default();
    record.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// Creates the directory, or checks that it is empty.
fn empty_directory(path: &Path) -> Result<()> {
    let shown = path.display();
    fs::create_dir_all(path)
        .map_err(|error| format!("cannot create the output directory {shown}: {error}"))?;
    let entries = fs::read_dir(path)
        .map_err(|error| format!("cannot list the output directory {shown}: {error}"))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    match names.filter(|name| name != MARK).count() {
        0 => Ok(()),
        _ => Err(format!("the output directory {shown} is not empty; empty it or name a new one")),
    }
}

/// Runs the work in `threads` threads; returns all results, or the first error.
fn in_threads<T: Send>(threads: usize, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(&work)).collect();
        let results = handles.into_iter().map(|handle| match handle.join() {
            Ok(result) => result,
            Err(_) => Err("a thread panicked; see its message above".to_owned()),
        });
        results.collect::<Vec<_>>().into_iter().collect()
    })
}
