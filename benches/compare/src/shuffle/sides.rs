//! The sides of the shuffle, each a process: `INPUT OUT MEGABYTES` are its last arguments.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow, bail};
use partd_shuffle::job::{self, Job};

use super::{BY, PARTITIONS, by_hand};
use crate::python::Python;

/// The argument that makes this program a side of the shuffle.
pub(crate) const SHUFFLER: &str = "shuffler";

pub(crate) struct Side {
    pub(crate) slug: &'static str,
    pub(crate) name: &'static str,
    is_python: bool,
}

/// All sides, ours first.
pub(crate) const SIDES: [Side; 4] = [
    Side { slug: "example", name: "**the shuffle example**", is_python: false },
    Side { slug: "by-hand", name: "csv crate, a `BufWriter` per partition", is_python: false },
    Side { slug: "polars", name: "Polars, `sink_csv(PartitionBy)`", is_python: true },
    Side { slug: "duckdb", name: "DuckDB, `COPY … PARTITION_BY`", is_python: true },
];

impl Side {
    /// The command without `INPUT OUT MEGABYTES`.
    pub(crate) fn command(&self, python: &Python) -> Result<Command, String> {
        if self.is_python {
            let mut command = python.command("shuffle.py")?;
            command.arg(self.slug);
            return Ok(command);
        }
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(this);
        command.args([SHUFFLER, self.slug]);
        Ok(command)
    }
}

/// The `main` of a side in Rust.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [slug, input, out, megabytes] = arguments else { bail!("four arguments") };
    let (input, out) = (Path::new(input), Path::new(out));
    match slug.as_str() {
        "example" => {
            let job = Job {
                input: input.to_owned(),
                by: BY.to_owned(),
                partitions: PARTITIONS,
                out: out.to_owned(),
                memory_bytes: megabytes.parse::<u64>()? * 1_000_000 / 2,
                threads: std::thread::available_parallelism()?.get(),
                repeat: 1,
            };
            job::run(&job, &|_| {}).map(|_| ()).map_err(|error| anyhow!(error))
        }
        "by-hand" => by_hand::shuffle(input, out),
        other => bail!("there is no side {other}"),
    }
}
