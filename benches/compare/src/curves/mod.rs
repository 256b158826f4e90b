//! This crate at several sizes and numbers of keys, threads and processes; durable appends;
//! compaction.

mod compaction;
mod durable;
mod parallel;
mod volume;
pub(crate) mod worker;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::chart::lines::lines;
use crate::results::machine;
use crate::workload::create_pool;

/// The choice of measurements.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asked {
    /// How many times everything runs
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The largest store in GiB; there must be twice as much free disk space
    #[arg(long, default_value_t = 20)]
    pub(crate) disk: u64,
    /// One round with a sixteenth of the bytes, to try the program
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these parts, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Where to write the results, even those of a quick run
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Append and get over the size of the store
    Sizes,
    /// Append and get over the number of keys
    Keys,
    /// Append and get by several threads and processes
    Parallel,
    /// Durable appends by several threads
    Durable,
    /// Compaction, alone and beside appends
    Compaction,
}

impl Asked {
    pub(crate) fn is_full(&self) -> bool {
        !self.quick && self.only.is_empty()
    }

    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// A number of bytes, less in a quick run.
    fn scaled(&self, bytes: u64) -> u64 {
        if self.quick { bytes / 16 } else { bytes }
    }
}

/// The state that every part needs.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) base: &'a Path,
    pub(crate) pool: &'a [u8],
    pub(crate) pool_path: &'a Path,
}

/// Measures everything and returns the section, with its charts in `charts`.
pub(crate) fn section(asked: &Asked, base: &Path, charts: &Path) -> Result<String> {
    let asked =
        Asked { rounds: if asked.quick { 1 } else { asked.rounds.max(1) }, ..asked.clone() };
    let pool_path = base.join("pool");
    let pool = create_pool(&pool_path)?;
    let bench = Bench { asked: &asked, base, pool: &pool, pool_path: &pool_path };
    let mut curves = Vec::new();
    if asked.has(Part::Sizes) {
        curves.extend(volume::sizes(&bench)?);
    }
    if asked.has(Part::Keys) {
        curves.extend(volume::keys(&bench)?);
    }
    if asked.has(Part::Parallel) {
        curves.extend(parallel::curves(&bench)?);
    }
    if asked.has(Part::Durable) {
        curves.push(durable::curve(&bench)?);
    }
    let compaction =
        if asked.has(Part::Compaction) { compaction::table(&bench)? } else { String::new() };

    let mut text = "## Curves\n\n".to_owned();
    writeln!(text, "{}\n", machine::describe(base, None))?;
    writeln!(
        text,
        "Each figure is the median of {} rounds, with the smallest and the largest; a store of more \
         than {} GiB is measured once. Data is in the page cache when it is read, as far as it fits in memory, \
         and nothing is synced, except where a figure is about that. *Ranges* and the limits are those of \
         the comparison above.\n",
        asked.rounds,
        volume::ONCE_ABOVE_BYTES >> 30
    )?;
    text +=
        &lines(charts, "curves", "SegmentLog and Buffer over sizes, keys and threads", &curves)?;
    text.push('\n');
    for curve in &curves {
        writeln!(text, "{}", curve.table())?;
    }
    text += &compaction;
    Ok(text)
}
