//! End to end: a CSV file shuffled into partitions by the hash of a column, by the shuffle example of
//! this repository, Polars, DuckDB, and a straightforward Rust program.
//!
//! The hash functions differ, so the partitions do too; every side must write every row exactly once,
//! which a checksum of the rows in any order shows.

mod by_hand;
mod sides;
mod watch;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub(crate) use sides::{SHUFFLER, main};

use crate::python::Python;
use crate::results::machine;
use crate::samples::Samples;
use sides::SIDES;

/// The choice of measurements.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asked {
    /// How many times everything runs
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The sizes of the generated CSV files in MB; there must be three times as much disk space
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 8000])]
    pub(crate) sizes: Vec<u64>,
    /// The memory limit in MB that every side is given
    #[arg(long, default_value_t = 512)]
    pub(crate) memory: u64,
    /// Where to write the results
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

pub(crate) const PARTITIONS: usize = 64;
pub(crate) const BY: &str = "dest";

/// The number of rows and the sum of their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    rows: u64,
    sum: u64,
}

impl Rows {
    fn add(&mut self, line: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u64::from(crc32fast::hash(line)));
    }

    /// The rows of a CSV file with a header.
    fn read(&mut self, path: &Path) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        let mut is_header = true;
        while file.read_until(b'\n', &mut line)? > 0 {
            if !std::mem::take(&mut is_header) {
                self.add(line.trim_ascii_end());
            }
            line.clear();
        }
        Ok(())
    }

    /// The rows of every CSV file below a directory.
    fn below(dir: &Path) -> Result<Rows> {
        let mut rows = Rows::default();
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "csv") {
                    rows.read(&path)?;
                }
            }
        }
        Ok(rows)
    }
}

/// Generates a file of about `bytes` from the flights that come with the example: the same rows, year
/// after year.
fn generate(path: &Path, bytes: u64) -> Result<Rows> {
    let flights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/flights.csv");
    let flights = fs::read_to_string(&flights)
        .with_context(|| format!("cannot read {}", flights.display()))?;
    let mut lines = flights.lines();
    let header = lines.next().context("the flights have no header")?;
    let rows: Vec<&str> = lines.filter_map(|line| Some(line.split_once(',')?.1)).collect();
    ensure!(!rows.is_empty(), "there are no flights");
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    writeln!(file, "{header}")?;
    let (mut written, mut all) = (0, Rows::default());
    for year in 2013.. {
        for row in &rows {
            let line = format!("{year},{row}");
            all.add(line.as_bytes());
            writeln!(file, "{line}")?;
            written += line.len() as u64 + 1;
        }
        if written >= bytes {
            break;
        }
    }
    file.flush()?;
    Ok(all)
}

/// The figures of a side on a file.
#[derive(Clone, Debug, Default)]
struct Cell {
    seconds: Samples,
    own_mib: Samples,
    resident_mib: Samples,
    descriptors: Samples,
    why_not: Option<String>,
}

/// Measures everything below `base` and returns the section.
pub(crate) fn section(asked: &Asked, base: &Path) -> Result<String> {
    let python = Python::prepare("python-shuffle", "requirements-shuffle.txt");
    let mut text = "## End to end: a shuffle of a CSV file\n\n".to_owned();
    writeln!(text, "{}\n", machine::describe(base, None))?;
    writeln!(
        text,
        "Flights are shuffled by `{BY}` into {PARTITIONS} CSV files; the medians of {} rounds, the sides \
         alternating, with the smallest and the largest. Every side is told to use {} MB of memory where \
         it can be told: the example's buffer gets half of it, DuckDB's `memory_limit` all; Polars and the \
         program by hand have no such setting. Own memory is the peak of the process's anonymous pages, \
         resident memory includes the mapped files, which the kernel may take back. The rows of all outputs \
         are counted and their checksums compared with those of the input. {}\n",
        asked.rounds,
        asked.memory,
        python.version("shuffle.py").map_or(String::new(), |version| format!("Python {version}.")),
    )?;
    for &megabytes in &asked.sizes {
        let input = base.join(format!("flights-{megabytes}.csv"));
        let expected = generate(&input, megabytes * 1_000_000)?;
        let mut cells = vec![Cell::default(); SIDES.len()];
        for round in 0..asked.rounds.max(1) {
            for (side, cell) in SIDES.iter().zip(&mut cells) {
                if cell.why_not.is_some() {
                    continue;
                }
                eprintln!("{megabytes} MB, {}, round {}", side.slug, round + 1);
                let dir = tempfile::tempdir_in(base)?;
                let out = dir.path().join("out");
                let mut command = match side.command(&python) {
                    Ok(command) => command,
                    Err(why) => {
                        cell.why_not = Some(why);
                        continue;
                    }
                };
                command.arg(&input).arg(&out).arg(asked.memory.to_string());
                let seen = watch::run(command).with_context(|| side.slug.to_owned())?;
                let rows = Rows::below(&out)?;
                ensure!(rows == expected, "{}: wrote {rows:?} of {expected:?}", side.slug);
                cell.seconds.push(seen.time.as_secs_f64());
                cell.own_mib.push(seen.own_mib);
                cell.resident_mib.push(seen.resident_mib);
                cell.descriptors.push(seen.descriptors);
            }
        }
        fs::remove_file(&input)?;
        writeln!(text, "### {megabytes} MB, {} rows\n", expected.rows)?;
        text += "| | seconds | ÷ the example | own memory, MiB | resident, MiB | descriptors |\n";
        text += "|---|--:|--:|--:|--:|--:|\n";
        let ours = cells[0].seconds.median();
        for (side, cell) in SIDES.iter().zip(&cells) {
            let ratio = cell.seconds.median().zip(ours).map(|(theirs, ours)| theirs / ours);
            let ratio = ratio.map_or("–".to_owned(), crate::samples::figure);
            let why = || format!("– ({})", cell.why_not.as_deref().unwrap_or("not run"));
            let peak =
                |samples: &Samples| samples.max().map_or("–".to_owned(), |n| format!("{n:.0}"));
            writeln!(
                text,
                "| {} | {} | {ratio} | {} | {} | {} |",
                side.name,
                cell.seconds.cell().unwrap_or_else(why),
                peak(&cell.own_mib),
                peak(&cell.resident_mib),
                peak(&cell.descriptors),
            )?;
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_the_rows_depends_on_each_of_them_but_not_on_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let mut input = Rows::default();
        [&b"1,a"[..], b"2,b", b"3,c"].iter().for_each(|line| input.add(line));
        for (path, text) in [(&one, "x,y\n3,c\n"), (&two, "x,y\r\n2,b\r\n1,a\r\n")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("part.csv"), text).unwrap();
        }
        assert_eq!(Rows::below(dir.path()).unwrap(), input);
        fs::write(one.join("part.csv"), "x,y\n2,b\n").unwrap();
        assert_ne!(Rows::below(dir.path()).unwrap(), input);
    }
}
