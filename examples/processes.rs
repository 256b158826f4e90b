//! Several processes append to one store at once; a last one reads every key and checks it.
//!
//! This is the pattern of an engine with worker processes: each worker opens the directory by its
//! path, no one coordinates them, and the reader sees each worker's records whole and in that
//! worker's order.
//!
//! ```text
//! cargo run --release --example processes -- [WORKERS] [RECORDS PER WORKER]
//! ```

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::Instant;

use partd::{Batch, Buffer, Dict, Durability, Partd, SegmentLog};

const PARTITIONS: u64 = 64;
const RECORDS_PER_BATCH: u64 = 512;
const RECORD_LEN: usize = 100;
/// The memory in which a worker collects its records before it writes them to the store.
const WORKER_MEMORY_BYTES: u64 = 4 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The children are this same program, with a role as their first argument.
    let result = match arguments[..] {
        ["--worker", store, worker, records] => work(store, worker, records),
        ["--reader", store, workers, records] => read(store, workers, records),
        [] => lead(4, 500_000),
        [workers] => number(workers).and_then(|workers| lead(workers, 500_000)),
        [workers, records] => number(workers).and_then(|workers| lead(workers, number(records)?)),
        _ => Err("usage: processes [WORKERS] [RECORDS PER WORKER]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number").into())
}

/// Starts the workers, waits for them, and starts a reader that checks the result.
fn lead(workers: u64, records: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = dir.path().join("store");
    let mib = (workers * records) as f64 * RECORD_LEN as f64 / f64::from(1 << 20);
    println!(
        "{workers} processes append {records} records each to {PARTITIONS} keys, {mib:.0} MiB in all"
    );

    let started = Instant::now();
    let children: Vec<Child> = (0..workers)
        .map(|worker| start("--worker", &store, worker, records))
        .collect::<Result<_>>()?;
    for child in children {
        finish(child, "a worker")?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "appended in {seconds:.2} s, {:.0} MiB/s, starting the processes included",
        mib / seconds
    );

    finish(start("--reader", &store, workers, records)?, "the reader")
}

fn start(role: &str, store: &Path, number: u64, records: u64) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(role).arg(store).args([number.to_string(), records.to_string()]);
    Ok(command.spawn()?)
}

fn finish(mut child: Child, who: &str) -> Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{who} failed: {status}").into()) }
}

/// A record that identifies its writer and number; the rest is derived from these.
fn record(worker: u64, number: u64) -> [u8; RECORD_LEN] {
    let mut record = [(worker ^ number) as u8; RECORD_LEN];
    record[..8].copy_from_slice(&worker.to_le_bytes());
    record[8..16].copy_from_slice(&number.to_le_bytes());
    record
}

/// The partition of a record: pseudo-random, and the same in every process.
fn partition(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PARTITIONS.trailing_zeros())
}

/// The work of a worker process.
fn work(store: &str, worker: &str, records: &str) -> Result<()> {
    let (worker, records) = (number(worker)?, number(records)?);
    let store = Buffer::new(Dict::new(), SegmentLog::open(store)?, WORKER_MEMORY_BYTES);
    for first in (0..records).step_by(RECORDS_PER_BATCH as usize) {
        let numbers = first..records.min(first + RECORDS_PER_BATCH);
        let rows: Vec<_> = numbers.map(|n| (partition(n), record(worker, n))).collect();
        let mut batch = Batch::with_capacity(rows.len());
        for (partition, row) in &rows {
            batch.append(*partition, row);
        }
        store.write(&batch, Durability::Plain)?;
    }
    // Dropping the buffer would flush it too, but could not report an error.
    store.flush()?;
    Ok(())
}

/// The work of the reader process: checks that every record is there once, whole, in its worker's
/// order.
fn read(store: &str, workers: &str, records: &str) -> Result<()> {
    let (workers, records) = (number(workers)?, number(records)?);
    let started = Instant::now();
    let store = SegmentLog::open_read_only(store)?;
    let keys = store.keys()?;
    let values = store.get_many(&keys)?;
    let bytes: usize = values.iter().map(Vec::len).sum();
    let seconds = started.elapsed().as_secs_f64();

    let mut next = vec![vec![0; workers as usize]; PARTITIONS as usize];
    let mut found = 0;
    for (key, value) in keys.iter().zip(&values) {
        if value.len() % RECORD_LEN != 0 {
            return Err(format!("key {key} ends in half a record").into());
        }
        for row in value.chunks(RECORD_LEN) {
            let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
            let [worker, number] = [&row[..8], &row[8..16]].map(word);
            let part = partition(number);
            if worker >= workers || row != record(worker, number) || *key != part.into() {
                return Err(format!("key {key} holds a record that no worker wrote").into());
            }
            // Each worker's records of this partition must come in order and completely.
            let next = &mut next[part as usize][worker as usize];
            while *next < number && partition(*next) != part {
                *next += 1;
            }
            if *next != number {
                return Err(format!(
                    "key {key}: expected record {next} of worker {worker}, found {number}"
                )
                .into());
            }
            *next += 1;
            found += 1;
        }
    }
    if found != workers * records {
        return Err(format!("{found} records of {} are there", workers * records).into());
    }
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("read by another process in {seconds:.2} s, {:.0} MiB/s", mib / seconds);
    println!("all {found} records are there, once, whole, in the order of their writer");
    Ok(())
}
