//! partd, what engines write by hand, and the stores that could do its work, measured side by side.
//!
//! See README.md for the commands. `engine.rs` lists what takes part, `workload.rs` what it gets,
//! `child.rs` measures one run, `rounds.rs` alternates, `results/` and `chart/` print, and `curves/`,
//! `shuffle/`, `buffers.rs` and `memory.rs` are further measurements.

mod buffers;
mod chart;
mod child;
mod curve;
mod curves;
mod engine;
mod engines;
mod memory;
mod python;
mod results;
mod rounds;
mod samples;
mod shuffle;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::engine::Start;
use crate::python::Python;
use crate::rounds::{Plan, compare};
use crate::workload::Workload;

/// Measures partd against its rivals and prints tables.
///
/// Everything is measured below the directory of `PARTD_BENCH_DIR`, or the system's directory for
/// temporary files. A full run writes benches/RESULTS.md.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    engines: Asked,
    #[command(subcommand)]
    command: Option<Other>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Measures this crate at several sizes and numbers of keys, threads and processes, its durable
    /// appends and its compaction.
    Curves(curves::Asked),
    /// Shuffles a CSV file with this repository's example, Polars, DuckDB and a hand-written
    /// program.
    Shuffle(shuffle::Asked),
    /// Fills buffers with one thread and with two.
    Buffers(buffers::Asked),
    /// Fills and reads stores larger than the memory that a cgroup allows. Needs root.
    Memory(memory::Asked),
    /// Everything, one after the other: the engines, and each command with its defaults.
    All,
}

#[derive(Debug, Args)]
struct Asked {
    /// How many times each engine runs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these engines and workloads, by name and separated by commas: ranges,4KiB
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// One round with a twentieth of the bytes, to try the program
    #[arg(long)]
    quick: bool,
    /// The seconds of a run above which an engine is not run again
    #[arg(long, default_value_t = 5)]
    once_above: u64,
    /// The seconds after which a run is stopped
    #[arg(long, default_value_t = 45)]
    timeout: u64,
    /// Where to write the results, even those of a partial run
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The directory below which everything is measured; removed at the end.
fn base() -> Result<tempfile::TempDir> {
    let base = std::env::var_os("PARTD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new()
        .prefix("partd-compare-")
        .tempdir_in(&base)
        .with_context(|| format!("cannot create a directory in {}", base.display()))
}

/// Prints a section, and writes it to the results in `out`, if any.
fn publish(name: &str, section: &str, out: Option<&Path>) -> Result<()> {
    println!("{section}");
    if let Some(out) = out {
        results::replace(out, name, section)?;
        eprintln!("written to {}", out.display());
    }
    Ok(())
}

/// Where the results and the charts go: the repository's, if the run is full.
fn destination(out: Option<PathBuf>, is_full: bool, base: &Path) -> (Option<PathBuf>, PathBuf) {
    let out = out.or_else(|| is_full.then(results::file));
    let parent = out.as_ref().map(|out| out.parent().unwrap_or(Path::new("")));
    let charts = parent.unwrap_or(base).join("charts");
    (out, charts)
}

fn engines(asked: Asked) -> Result<()> {
    let base = base()?;
    let mut plan = Plan {
        engines: Plan::all_engines(),
        workloads: Workload::ALL.to_vec(),
        rounds: asked.rounds.max(1),
        threads: std::thread::available_parallelism()?.get(),
        once_above: Duration::from_secs(asked.once_above),
        timeout: Duration::from_secs(asked.timeout),
    };
    plan.select(&asked.only)?;
    if asked.quick {
        plan.rounds = 1;
        plan.workloads = plan.workloads.into_iter().map(Workload::quick).collect();
    }
    let is_full = asked.only.is_empty() && !asked.quick;
    let needs_python = plan.engines.iter().any(|entry| matches!(entry.start, Start::Python(_)));
    let python =
        if needs_python { Python::prepare("python", "requirements.txt") } else { Python::none() };
    let rows = compare(&plan, base.path(), &python)?;
    let (out, charts) = destination(asked.out, is_full, base.path());
    let machine = results::machine::describe(base.path(), Some(&python));
    let section = results::tables::section(&plan, &rows, &machine, &charts)?;
    publish("engines", &section, out.as_deref())
}

fn curves(asked: curves::Asked) -> Result<()> {
    let base = base()?;
    let (out, charts) = destination(asked.out.clone(), asked.is_full(), base.path());
    let section = curves::section(&asked, base.path(), &charts)?;
    publish("curves", &section, out.as_deref())
}

fn end_to_end(asked: shuffle::Asked) -> Result<()> {
    let base = base()?;
    let section = shuffle::section(&asked, base.path())?;
    publish("shuffle", &section, Some(&asked.out.unwrap_or_else(results::file)))
}

fn threads_and_buffers(asked: buffers::Asked) -> Result<()> {
    let base = base()?;
    let section = buffers::section(&asked, base.path())?;
    publish("buffers", &section, Some(&asked.out.unwrap_or_else(results::file)))
}

fn larger_than_memory(asked: memory::Asked) -> Result<()> {
    let base = base()?;
    let section = memory::section(&asked, base.path())?;
    publish("memory", &section, Some(&asked.out.unwrap_or_else(results::file)))
}

/// Runs every command with its defaults, even if one of them fails.
fn all() -> Result<()> {
    let mut failed = Vec::new();
    for command in [None, Some("curves"), Some("shuffle"), Some("buffers"), Some("memory")] {
        let done = run(Cli::parse_from([Some("partd-compare"), command].into_iter().flatten()));
        if let Err(error) = done {
            eprintln!("error: {error:#}");
            failed.push(command.unwrap_or("engines"));
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Other::Curves(asked)) => curves(asked),
        Some(Other::Shuffle(asked)) => end_to_end(asked),
        Some(Other::Buffers(asked)) => threads_and_buffers(asked),
        Some(Other::Memory(asked)) => larger_than_memory(asked),
        Some(Other::All) => all(),
        None => engines(cli.engines),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(child::CHILD) => return child::main(&arguments[2..]),
        Some(curves::worker::WORKER) => return curves::worker::main(&arguments[2..]),
        Some(shuffle::SHUFFLER) => return shuffle::main(&arguments[2..]),
        _ => {}
    }
    let cli = Cli::parse();
    results::machine::note_commit();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
