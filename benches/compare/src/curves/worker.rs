//! A process whose threads all do the same work at the same time.
//!
//! It prints `ready`, waits for a line, works, and prints `done`; so the parent can measure several
//! processes together.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use partd::{Batch, Durability, Key, Op, Partd, SegmentLog};

use crate::engine::{Engine, Setup};
use crate::engines::limit_mapped;
use crate::workload::{Workload, read_pool};

/// The argument that makes this program a worker.
pub(crate) const WORKER: &str = "worker";

/// The shape of every worker's appends.
pub(crate) const VALUE: usize = 4096;
pub(crate) const KEYS: usize = 256;
/// The bytes of one append.
pub(crate) const APPEND_BYTES: u64 = (VALUE * KEYS) as u64;

/// The work of the threads of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Append to one store.
    Append,
    /// Append durably to one store.
    Durable,
    /// Read every key of one store, each thread its share.
    Get,
    /// The limit of an append, each thread in files of its own.
    Copy,
}

const TASKS: [(&str, Task); 4] = [
    ("append", Task::Append),
    ("durable", Task::Durable),
    ("get", Task::Get),
    ("copy", Task::Copy),
];

/// A number of processes with a number of threads each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew {
    pub(crate) processes: usize,
    pub(crate) threads: usize,
}

/// Runs a task to which every thread contributes `appends` appends, or reads its share of the keys,
/// and returns the time from the first start to the last end.
pub(crate) fn run(
    task: Task,
    crew: Crew,
    appends: usize,
    dir: &Path,
    pool: &Path,
) -> Result<Duration> {
    let name = TASKS.iter().find(|(_, other)| *other == task).map_or("", |(name, _)| name);
    let mut workers = Vec::new();
    for process in 0..crew.processes {
        let numbers = [process, crew.processes, crew.threads, appends];
        let mut child = Command::new(std::env::current_exe()?)
            .args([WORKER, name])
            .args([dir, pool])
            .args(numbers.map(|number| number.to_string()))
            // A read stays on its thread.
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.context("a pipe from the worker")?);
        workers.push(Worker { child, input: input.context("a pipe to the worker")?, output });
    }
    workers.iter_mut().try_for_each(|worker| worker.expect("ready"))?;
    let start = Instant::now();
    workers.iter_mut().try_for_each(|worker| worker.input.write_all(b"go\n"))?;
    workers.iter_mut().try_for_each(|worker| worker.expect("done"))?;
    let time = start.elapsed();
    for mut worker in workers {
        drop(worker.input);
        ensure!(worker.child.wait()?.success(), "a worker has failed");
    }
    Ok(time)
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn expect(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == word, "a worker has said {line:?} instead of {word:?}");
        Ok(())
    }
}

/// The worker's `main`.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match work(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The store that all workers share.
pub(crate) fn store_of(dir: &Path) -> PathBuf {
    dir.join("store")
}

pub(crate) fn keys() -> Vec<Key> {
    (0..KEYS).map(|key| Key::from(Workload::key_name(key))).collect()
}

/// An append of all keys.
pub(crate) fn batch<'p>(keys: &[Key], pool: &'p [u8], number: usize) -> Batch<'p> {
    let workload = Workload::new(VALUE, KEYS, 1);
    let mut batch = Batch::with_capacity(keys.len());
    for (key, name) in keys.iter().enumerate() {
        batch.push(Op::Append(name.clone(), workload.value_of(pool, number, key)));
    }
    batch
}

fn work(arguments: &[String]) -> Result<()> {
    let [task, dir, pool, numbers @ ..] = arguments else { bail!("too few arguments") };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [process, processes, threads, appends] = numbers[..] else { bail!("four numbers") };
    let task = TASKS.iter().find(|(name, _)| name == task).context("a task")?.1;
    let (dir, pool) = (Path::new(dir), read_pool(Path::new(pool))?);
    let keys = keys();
    let log = match task {
        Task::Copy => None,
        _ => Some(SegmentLog::open(store_of(dir))?),
    };
    // The limit writes to files of its own.
    let mut copies: Vec<Option<Box<dyn Engine>>> = Vec::new();
    for thread in 0..threads {
        copies.push(match task {
            Task::Copy => {
                let dir = dir.join(format!("copy-{process}-{thread}"));
                std::fs::create_dir(&dir)?;
                let workload = Workload::new(VALUE, KEYS, appends);
                Some(limit_mapped::open(&Setup { dir: &dir, workload })?)
            }
            _ => None,
        });
    }
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;

    let parts = processes * threads;
    let one = |number: usize, copy: Option<Box<dyn Engine>>| -> Result<()> {
        match (task, &log) {
            (Task::Append | Task::Durable, Some(log)) => {
                let durability =
                    if task == Task::Durable { Durability::Durable } else { Durability::Plain };
                (0..appends).try_for_each(|i| {
                    log.write(&batch(&keys, &pool, number * appends + i), durability)
                })?;
            }
            (Task::Get, Some(log)) => {
                let share = number * KEYS / parts..(number + 1) * KEYS / parts;
                let values = log.get_many(&keys[share])?;
                ensure!(values.iter().all(|value| value.len() == appends * parts * VALUE));
            }
            _ => {
                let Some(mut copy) = copy else { bail!("the limit has no files") };
                let workload = Workload::new(VALUE, KEYS, appends);
                let mut pieces = Vec::new();
                for call in 0..workload.calls() {
                    workload.pieces(&pool, call, &mut pieces);
                    copy.append(&pieces)?;
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let one = &one;
        let threads: Vec<_> = copies
            .into_iter()
            .enumerate()
            .map(|(thread, copy)| scope.spawn(move || one(process * threads + thread, copy)))
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread has panicked"),
        })
    })?;
    println!("done");
    Ok(())
}
