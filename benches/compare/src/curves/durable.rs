//! Durable appends by several threads, and bare writes with one `fdatasync` for each group.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use super::worker::{APPEND_BYTES, Crew, Task, run};
use crate::curve::Curve;
use crate::engines::limit_mapped::{SEGMENT_BYTES, allocated};
use crate::samples::rate;

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
        for (i, threads) in NUMBERS.into_iter().enumerate() {
            eprintln!("durable, {threads} threads, round {}", round + 1);
            let bytes = appends * threads as u64 * APPEND_BYTES;
            let dir = tempfile::tempdir_in(bench.base)?;
            let crew = Crew { processes: 1, threads };
            let time = run(Task::Durable, crew, appends as usize, dir.path(), bench.pool_path)?;
            curve.series[0].points[i].push(rate(bytes, time) * 1024.0);
            let time = bare(dir.path(), bench.pool, threads, appends as usize)?;
            curve.series[1].points[i].push(rate(bytes, time) * 1024.0);
        }
    }
    Ok(curve)
}

/// Writes a group of as many appends as there are threads, and syncs it, `groups` times.
fn bare(dir: &Path, pool: &[u8], threads: usize, groups: usize) -> Result<Duration> {
    let group = threads * APPEND_BYTES as usize;
    let start = Instant::now();
    let mut files = Vec::new();
    let mut at = SEGMENT_BYTES;
    for number in 0..groups {
        if at + group > SEGMENT_BYTES {
            files.push(allocated(&dir.join(format!("bare-{}", files.len())))?);
            at = 0;
        }
        let from = number * 7919;
        if let Some(file) = files.last() {
            file.write_all_at(&pool[from..from + group], at as u64)?;
            file.sync_data()?;
        }
        at += group;
    }
    Ok(start.elapsed())
}
