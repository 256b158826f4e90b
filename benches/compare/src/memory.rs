//! Stores larger than memory: runs `cargo bench --bench memory`, whose processes are in a memory
//! cgroup, and frames its tables.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::results::machine;

/// The choice of measurements.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asked {
    /// How many times everything runs
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The multiples of the memory; 32 takes much longer than both
    #[arg(long, value_delimiter = ',', default_values_t = [2, 8])]
    pub(crate) times: Vec<u64>,
    /// Where to write the results
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

const INTRODUCTION: &str = "\
Each process is in a memory cgroup, where it appends, reads every key back once, and compares every byte. The comparison
is in the time only for a single key, which does not fit in memory and is read as a stream (*reader*) or in pieces
(*ranges*), and for record batches (*Arrow*), whose making is in the time of the append too. `Buffer` has 64 MiB of memory,
and so has *ranges*, which advises the system that it reads at random. *Disk* reads extents of the length of the values
at random past the page cache, with the best of 1, 8, 32 and 64 threads. *get ÷* compares `SegmentLog`, one key at a
time, with that, and `get_many`, of as many keys as fit into a fourth of the memory, with one key at a time. Bytes read
from the disk, faults and memory are those of the reads.";

/// Measures everything and returns the section.
pub(crate) fn section(asked: &Asked, base: &Path) -> Result<String> {
    // The tables are made by a program that is built now.
    ensure!(machine::is_unchanged(), "the checkout has changed since the start");
    let times: Vec<String> = asked.times.iter().map(u64::to_string).collect();
    let output = Command::new("cargo")
        .args(["bench", "--quiet", "--features", "arrow", "--bench", "memory", "--"])
        .args(["--rounds", &asked.rounds.to_string(), "--times", &times.join(",")])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("PARTD_BENCH_DIR", base)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the measurement ends with {}", output.status);
    let tables = String::from_utf8(output.stdout)?;
    let machine = machine::describe(base, None);
    Ok(format!("## Larger than memory\n\n{machine}\n\n{INTRODUCTION}\n\n{}\n", tables.trim()))
}
