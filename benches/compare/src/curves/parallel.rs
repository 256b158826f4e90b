//! Rates of several threads and of several processes, beside those of as many plain copies at once.

use anyhow::Result;

use super::Bench;
use super::worker::{APPEND_BYTES, Crew, Task, run};
use crate::curve::Curve;
use crate::samples::rate;

const NUMBERS: [usize; 3] = [1, 2, 4];

/// Append, get and plain copies by 1, 2 and 4 threads, then by as many processes.
pub(crate) fn curves(bench: &Bench<'_>) -> Result<[Curve; 2]> {
    let threads = |number| Crew { processes: 1, threads: number };
    let processes = |number| Crew { processes: number, threads: 1 };
    Ok([measure(bench, "threads", threads)?, measure(bench, "processes", processes)?])
}

fn measure(bench: &Bench<'_>, x: &'static str, crew: impl Fn(usize) -> Crew) -> Result<Curve> {
    let total = bench.asked.scaled(1 << 30) / APPEND_BYTES;
    let xs = NUMBERS.iter().map(ToString::to_string).collect();
    let title = format!("{} MiB of 4 KiB × 256 keys, by {x}", (total * APPEND_BYTES) >> 20);
    let names = ["append", "get", "limit: mapped"];
    let mut curve = Curve::new(&title, (x, xs), "GiB/s", &names);
    for round in 0..bench.asked.rounds {
        for (i, number) in NUMBERS.into_iter().enumerate() {
            eprintln!("{number} {x}, round {}", round + 1);
            let appends = total as usize / number;
            let bytes = appends as u64 * number as u64 * APPEND_BYTES;
            let dir = tempfile::tempdir_in(bench.base)?;
            for (series, task) in [Task::Append, Task::Get, Task::Copy].into_iter().enumerate() {
                let time = run(task, crew(number), appends, dir.path(), bench.pool_path)?;
                curve.series[series].points[i].push(rate(bytes, time));
            }
        }
    }
    Ok(curve)
}
