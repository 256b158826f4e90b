//! Durable appends by several threads, and bare writes with one `fdatasync` for each group.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use super::worker::{APPEND_BYTES, Crew, KEYS, Task, VALUE, run};
use crate::curve::Curve;
use crate::engine::Engine as _;
use crate::engines::limit_written::Written;
use crate::samples::rate;
use crate::workload::Workload;

const NUMBERS: [usize; 4] = [1, 2, 4, 8];
/// The appends of each thread.
const APPENDS: u64 = 32;

/// `append_durable` of 1 MiB by 1, 2, 4 and 8 threads.
pub(crate) fn curve(bench: &Bench<'_>) -> Result<Curve> {
    let xs = NUMBERS.iter().map(ToString::to_string).collect();
    let names = ["append_durable", "bare: a group written, one fdatasync"];
    let title = "Durable appends of 4 KiB × 256 keys, by threads";
    let mut curve = Curve::new(title, ("threads", xs), "MiB/s", &names);
    let appends = bench.asked.scaled(APPENDS);
    for round in 0..bench.asked.rounds {
        // Removed after the round: the disk may still be busy with a removal when the next side
        // begins.
        let base = tempfile::tempdir_in(bench.base)?;
        for (i, threads) in NUMBERS.into_iter().enumerate() {
            eprintln!("durable, {threads} threads, round {}", round + 1);
            let bytes = appends * threads as u64 * APPEND_BYTES;
            let dir = base.path().join(threads.to_string());
            fs::create_dir(&dir)?;
            let crew = Crew { processes: 1, threads };
            let time = run(Task::Durable, crew, appends as usize, &dir, bench.pool_path)?;
            curve.series[0].points[i].push(rate(bytes, time) * 1024.0);
            let time = bare(&dir, bench.pool, threads, appends as usize)?;
            curve.series[1].points[i].push(rate(bytes, time) * 1024.0);
        }
    }
    Ok(curve)
}

/// Writes the values of a group, as many appends as there are threads, and syncs them, `groups`
/// times.
fn bare(dir: &Path, pool: &[u8], threads: usize, groups: usize) -> Result<Duration> {
    let workload = Workload::new(VALUE, KEYS, threads * groups);
    let dir = dir.join("bare");
    fs::create_dir(&dir)?;
    let mut files = Written::new(&dir);
    let mut pieces = Vec::new();
    let start = Instant::now();
    for group in 0..groups {
        for append in group * threads..(group + 1) * threads {
            workload.pieces(pool, append, &mut pieces);
            files.append(&pieces)?;
        }
        files.sync()?;
    }
    Ok(start.elapsed())
}
