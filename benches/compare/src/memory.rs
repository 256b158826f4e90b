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
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: usize,
    /// The multiples of the memory; with 32, it takes half an hour
    #[arg(long, value_delimiter = ',', default_values_t = [2, 8])]
    pub(crate) times: Vec<u64>,
    /// Where to write the results
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

const INTRODUCTION: &str = "\
Each process is in a memory cgroup, where it appends, reads every key back once, and compares every byte; what is
compared is not in the time. *Ranges* is as above, with 64 MB of memory, as `Buffer`. *get ÷* compares `SegmentLog`, one
key at a time, with the disk, which reads extents of the same length at random; and `get_many` of as many keys as fit
into a fourth of the memory with one key at a time. *Read ÷ returned* is bytes read from the disk.";

/// Measures everything and returns the section.
pub(crate) fn section(asked: &Asked, base: &Path) -> Result<String> {
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
