//! Two threads that append through buffers: through one that they share, and through one each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use partd::{Batch, Buffer, Dict, Durability, Key, Op, Partd, SegmentLog};

use crate::results::machine;
use crate::samples::{Samples, rate};
use crate::workload::{Workload, create_pool};

/// The choice of measurements.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asked {
    /// How many times everything runs
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Where to write the results
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

const THREADS: usize = 2;
/// The memory of all buffers together.
const MEMORY_BYTES: u64 = 200_000_000;
/// About as many bytes as all threads append together.
const TOTAL_BYTES: usize = 512 << 20;

const INTRODUCTION: &str = "\
Threads append batches of one value for each key to buffers over one `SegmentLog`, until those are flushed: one thread;
two threads, half of the batches each, through one buffer; and two threads through a buffer each, with half of the
200 MB of memory each. The sides alternate. After the clock has stopped, every value is compared: it consists of the
values of each thread in their order.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    OneThread,
    Shared,
    Each,
}

const SIDES: [Side; 3] = [Side::OneThread, Side::Shared, Side::Each];

/// Measures everything and returns the section.
pub(crate) fn section(asked: &Asked, base: &Path) -> Result<String> {
    let pool = create_pool(&base.join("pool"))?;
    let mut text = format!("## Threads and buffers\n\n{}\n\n", machine::describe(base, None));
    writeln!(text, "{INTRODUCTION} Medians of {} rounds, GiB/s:\n", asked.rounds.max(1))?;
    writeln!(text, "| | one thread | two threads, one buffer | ÷ | a buffer each | ÷ |")?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|")?;
    for workload in Workload::ALL {
        let batches = TOTAL_BYTES / (workload.value * workload.keys) / THREADS;
        let workload = Workload::new(workload.value, workload.keys, batches.max(1) * THREADS);
        let mut samples = SIDES.map(|_| Samples::default());
        for round in 0..asked.rounds.max(1) {
            eprintln!("{}, round {}", workload.name(), round + 1);
            for (side, samples) in SIDES.iter().zip(&mut samples) {
                let dir = tempfile::tempdir_in(base)?;
                samples.push(measure(*side, &workload, &pool, dir.path())?);
            }
        }
        let median = |number: usize| samples[number].median().unwrap_or(f64::NAN);
        let cell = |number: usize| samples[number].cell().unwrap_or_default();
        writeln!(
            text,
            "| {} | {} | {} | {:.2} | {} | {:.2} |",
            workload.name(),
            cell(0),
            cell(1),
            median(1) / median(0),
            cell(2),
            median(2) / median(0)
        )?;
    }
    Ok(text)
}

/// Returns the rate of one run.
fn measure(side: Side, workload: &Workload, pool: &[u8], dir: &Path) -> Result<f64> {
    let log = SegmentLog::open(dir.join("store"))?;
    let keys: Vec<Key> = (0..workload.keys).map(|key| Workload::key_name(key).into()).collect();
    let share = workload.batches / THREADS;
    let append = |buffer: &Buffer<Dict, &SegmentLog>, thread: usize| -> partd::Result<()> {
        (thread * share..(thread + 1) * share).try_for_each(|number| {
            let mut batch = Batch::with_capacity(keys.len());
            for (key, name) in keys.iter().enumerate() {
                batch.push(Op::Append(name.clone(), workload.value_of(pool, number, key)));
            }
            buffer.write(&batch, Durability::Plain)
        })
    };
    let start = Instant::now();
    match side {
        Side::OneThread => {
            let buffer = Buffer::new(Dict::new(), &log, MEMORY_BYTES);
            (0..THREADS).try_for_each(|thread| append(&buffer, thread))?;
            buffer.flush()?;
        }
        Side::Shared => {
            let buffer = Buffer::new(Dict::new(), &log, MEMORY_BYTES);
            together(|thread| append(&buffer, thread))?;
            buffer.flush()?;
        }
        Side::Each => together(|thread| {
            let buffer = Buffer::new(Dict::new(), &log, MEMORY_BYTES / THREADS as u64);
            append(&buffer, thread)?;
            buffer.flush()
        })?,
    }
    let rate = rate(workload.bytes(), start.elapsed());
    for (key, name) in keys.iter().enumerate() {
        check(workload, pool, key, &log.get(name.clone())?)?;
    }
    Ok(rate)
}

/// Runs `work` on every thread, with the thread's number.
fn together(work: impl Fn(usize) -> partd::Result<()> + Sync) -> partd::Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// Checks that a value consists of the values of each thread in their order.
fn check(workload: &Workload, pool: &[u8], key: usize, value: &[u8]) -> Result<()> {
    let share = workload.batches / THREADS;
    let mut next: Vec<usize> = (0..THREADS).map(|thread| thread * share).collect();
    for piece in value.chunks(workload.value) {
        let is_next = |(thread, number): (usize, &usize)| {
            *number < (thread + 1) * share && workload.value_of(pool, *number, key) == piece
        };
        let thread = next.iter().enumerate().position(is_next);
        ensure!(thread.is_some(), "key {key} has wrong bytes");
        thread.into_iter().for_each(|thread| next[thread] += 1);
    }
    let is_whole = next.iter().enumerate().all(|(thread, number)| *number == (thread + 1) * share);
    ensure!(is_whole, "key {key} lacks bytes");
    Ok(())
}
