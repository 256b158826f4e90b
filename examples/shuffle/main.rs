//! An external hash shuffle of a CSV file by a column, through `Buffer(Dict, SegmentLog)`.
//!
//! ```text
//! cargo run --release --example shuffle
//! cargo run --release --example shuffle -- FILE.csv --by COLUMN --partitions 64 --out DIR --memory 2G
//! ```
//!
//! Without arguments it shuffles the flights in `examples/data` into `shuffle-out`, with so little
//! memory that most of the bytes go through the segment log. This file is the command line: its
//! arguments and its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use partd_shuffle::job::{self, Job, MARK, Report, Result};

/// Shuffles the rows of a CSV file into partitions by the hash of a column.
#[derive(Parser)]
struct Arguments {
    /// The CSV file, with a header [default: the flights that come with this example]
    #[arg(value_name = "FILE.csv", requires = "by")]
    input: Option<PathBuf>,
    /// The column whose values determine the partition [default for the flights: dest]
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// The number of partitions, and of output files
    #[arg(long, default_value = "16", value_parser = positive)]
    partitions: usize,
    /// The output directory, new or empty [default: shuffle-out, which is replaced]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Memory limit of the buffer in bytes, or with K, M or G [default: 256M; for the flights 256K]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// The number of threads [default: one for each core]
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
    /// Read the input this many times, to get much data from a small file
    #[arg(long, default_value = "1", value_parser = positive)]
    repeat: usize,
}

/// A positive number.
fn positive(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(0) | Err(_) => Err("not a whole number from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "not a number of bytes such as 1000000, 64M or 2G".to_owned())
}

const DEFAULT_OUT: &str = "shuffle-out";

fn main() -> ExitCode {
    match shuffle(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn shuffle(arguments: Arguments) -> Result<()> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/flights.csv");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_bytes = if arguments.input.is_some() { 256 << 20 } else { 256 << 10 };
    let job = Job {
        input: arguments.input.unwrap_or(bundled),
        by: arguments.by.unwrap_or_else(|| "dest".to_owned()),
        partitions: arguments.partitions,
        out: arguments.out.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_OUT)),
        memory_bytes: arguments.memory.unwrap_or(memory_bytes),
        threads: arguments.threads.unwrap_or(cores),
        repeat: arguments.repeat,
    };
    if arguments.out.is_none() {
        own_directory(&job.out).map_err(|error| format!("cannot use {DEFAULT_OUT}: {error}"))?;
    }
    let input_bytes = fs::metadata(&job.input).map_or(0, |data| data.len()) * job.repeat as u64;
    println!(
        "Shuffling {} ({}) by {:?} into {} partitions, {} of memory, {} thread(s)",
        job.input.display(),
        HumanBytes(input_bytes),
        job.by,
        job.partitions,
        HumanBytes(job.memory_bytes),
        job.threads,
    );
    // The bar hides itself if the output is not a terminal. Each byte is read once and written
    // once.
    let bar = ProgressBar::new(input_bytes * 2);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {percent:>3} %  {binary_bytes_per_sec}")
    {
        bar.set_style(style);
    }
    let result = job::run(&job, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let report = result?;
    print_summary(&job, &report);
    Ok(())
}

/// Creates the directory for runs without `--out`; if an earlier run created it, removes its parts.
fn own_directory(out: &Path) -> std::io::Result<()> {
    if out.join(MARK).is_file() {
        for entry in fs::read_dir(out)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("part-") {
                fs::remove_file(entry.path())?;
            }
        }
    } else if !out.exists() {
        fs::create_dir(out)?;
        fs::write(out.join(MARK), "")?;
    }
    Ok(())
}

fn print_summary(job: &Job, report: &Report) {
    let share = report.log_bytes as f64 * 100.0 / report.bytes.max(1) as f64;
    let half = |time: Duration| {
        let rate = report.bytes as f64 / time.as_secs_f64().max(1e-9);
        format!("{:.3} s, {}/s", time.as_secs_f64(), HumanBytes(rate as u64))
    };
    println!("  rows              {}", HumanCount(report.rows));
    println!("  bytes             {}", HumanBytes(report.bytes));
    println!(
        "  appends           {}, in {} batches",
        HumanCount(report.rows),
        HumanCount(report.batches)
    );
    println!("  through the log   {} ({share:.0} %)", HumanBytes(report.log_bytes));
    println!("  read and append   {}", half(report.append_time));
    println!("  view and write    {}", half(report.get_time));
    if let Some(peak) = peak_memory_bytes() {
        println!(
            "  peak memory       {} (of the process, mapped files included)",
            HumanBytes(peak)
        );
    }
    println!("  written to        {}", job.out.join("part-*.csv").display());
}

/// The peak memory of the process, as counted by Linux.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
