//! Stores larger than memory: rates, bytes read from disk, and memory under a limit.
//!
//! Each figure comes from a separate process in a memory cgroup, which appends, reads every key
//! back once, compares every byte and drops it. The rival is *ranges*, as query engines write it
//! themselves: a vector for each key, all spilled to one file and read back by exact ranges. The
//! sides alternate, round by round, with a device read-ahead of 128 KiB and of 8 MiB; the output is
//! tables of medians, as Markdown. The benchmark needs root, and reports if it lacks it.
//!
//! ```text
//! cargo bench --bench memory -- [--rounds N] [--limit-mib N] [--times 2,8,32]
//!     [--only TEXT] [--read-ahead KIB]
//! ```
//!
//! With `--features arrow`, record batches are measured too.

mod device;
mod figures;
mod ranges;
mod raw;
mod work;

use std::process::ExitCode;

use device::ReadAhead;
use figures::Figures;
use partd_testkit::cgroup::Cgroup;
use work::{Case, Side};

/// The parsed command line.
struct Asked {
    rounds: usize,
    limit: u64,
    times: Vec<u64>,
    only: String,
    read_ahead: Vec<u64>,
}

impl Asked {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
        let mut asked = Asked {
            rounds: 3,
            limit: 160 << 20,
            times: vec![2, 8, 32],
            only: String::new(),
            read_ahead: vec![128, 8192],
        };
        let numbers = |text: &str| -> Result<Vec<u64>, String> {
            text.split(',').map(|n| n.parse().map_err(|_| format!("{n} is not a number"))).collect()
        };
        while let Some(argument) = arguments.next() {
            if argument == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--rounds" => asked.rounds = numbers(&value)?[0].max(1) as usize,
                "--limit-mib" => asked.limit = numbers(&value)?[0] << 20,
                "--times" => asked.times = numbers(&value)?,
                "--only" => asked.only = value,
                "--read-ahead" => asked.read_ahead = numbers(&value)?,
                _ => return Err(format!("{argument} is unknown")),
            }
        }
        Ok(asked)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == work::CHILD) {
        work::child(arguments.skip(1));
        return ExitCode::SUCCESS;
    }
    match Asked::parse(arguments).and_then(|asked| compare(&asked)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(asked: &Asked) -> Result<(), String> {
    let base = std::env::var_os("PARTD_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base).map_err(|error| error.to_string())?;
    let cgroup = Cgroup::new(asked.limit)?;
    let limit_mib = asked.limit >> 20;
    let rounds = match asked.rounds {
        1 => "one round".to_owned(),
        rounds => format!("medians of {rounds} rounds"),
    };
    println!("{limit_mib} MiB of memory, {}; {rounds}.", cgroup.kind());
    for &kib in &asked.read_ahead {
        let device = match ReadAhead::set(dir.path(), kib) {
            Ok(device) => Some(device),
            Err(why) => {
                println!("\nThe read-ahead cannot be set: {why}");
                None
            }
        };
        match device {
            Some(_) => println!("\n### Read-ahead {kib} KiB\n"),
            None => println!("\n### Read-ahead of the device\n"),
        }
        println!("{}", figures::HEAD);
        for case in Case::all(asked.limit, &asked.times) {
            let sides: Vec<_> = case.sides().filter(|s| case.is_wanted(*s, &asked.only)).collect();
            if sides.is_empty() {
                continue;
            }
            let mut found: Vec<Vec<Figures>> = vec![Vec::new(); sides.len()];
            for _ in 0..asked.rounds {
                for (side, found) in sides.iter().zip(&mut found) {
                    found.push(work::run(&cgroup, dir.path(), &case, *side)?);
                }
            }
            let medians: Vec<_> = found.iter().map(|found| Figures::median(found)).collect();
            let of = |wanted| sides.iter().position(|side| *side == wanted);
            for (side, figures) in sides.iter().zip(&medians) {
                let rival = match side {
                    Side::Ranges | Side::Raw => None,
                    _ => of(Side::Ranges).map(|at| &medians[at]),
                };
                let beside = match side {
                    Side::Log => Some((Side::Raw, "the disk")),
                    Side::Many => Some((Side::Log, "one key at a time")),
                    _ => None,
                };
                let beside = beside.and_then(|(side, name)| Some((medians[of(side)?].get, name)));
                println!("| {case} | {side} | {} |", figures.cells(rival, beside));
            }
        }
        if device.is_none() {
            // The other settings would be the same.
            break;
        }
    }
    Ok(())
}
