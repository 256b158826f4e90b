//! The rate of a compaction, and the appends beside it.

use std::fmt::Write as _;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use partd::{Durability, Partd, SegmentLog};

use super::Bench;
use super::worker::{APPEND_BYTES, KEYS, batch, keys, store_of};
use crate::engines::limit_mapped::{SEGMENT_BYTES, allocated};
use crate::samples::{Samples, figure, rate};

/// The bytes that the limit copies at a time.
const STEP: usize = 256 << 10;

/// The figures of a compaction, in GiB/s.
#[derive(Debug, Default)]
struct Figures {
    alone: Samples,
    limit: Samples,
    beside: Samples,
    append_alone: Samples,
    append_beside: Samples,
}

/// A store of which every second key has been removed, compacted alone and beside appends.
pub(crate) fn table(bench: &Bench<'_>) -> Result<String> {
    let total = bench.asked.scaled(1 << 30);
    let mut figures = Figures::default();
    for round in 0..bench.asked.rounds {
        eprintln!("compaction, round {}", round + 1);
        let dir = tempfile::tempdir_in(bench.base)?;
        figures.limit.push(rate(total / 2, limit(dir.path(), bench.pool, total / 2)?));
        let (log, live) = half_dead(&dir.path().join("alone"), bench.pool, total)?;
        let start = Instant::now();
        log.compact()?;
        figures.alone.push(rate(live, start.elapsed()));
        drop(log);
        beside(&dir.path().join("beside"), bench.pool, total, &mut figures)?;
    }
    let mut text = format!(
        "### Compaction of {} MiB, of which half is dead, GiB/s\n\n\
         The live bytes over the time. The limit reads as many bytes from one file, computes their CRC-32 \
         and writes them to allocated files, 256 KiB at a time. The appends, 4 KiB × 256 keys, are made by one \
         thread for as long as the compaction runs.\n\n| | GiB/s | ÷ |\n|---|--:|--:|\n",
        total >> 20
    );
    let ratio = |ours: &Samples, theirs: &Samples| match (ours.median(), theirs.median()) {
        (Some(ours), Some(theirs)) => figure(ours / theirs),
        _ => "–".to_owned(),
    };
    let cell = |samples: &Samples| samples.cell().unwrap_or_default();
    let Figures { alone, limit, beside, append_alone, append_beside } = &figures;
    let lines = [
        ("limit: read, CRC-32, write", limit, String::new()),
        ("compaction alone", alone, format!("{} of the limit", ratio(alone, limit))),
        ("compaction beside appends", beside, format!("{} of alone", ratio(beside, alone))),
        ("appends alone", append_alone, String::new()),
        (
            "appends beside the compaction",
            append_beside,
            format!("{} of alone", ratio(append_beside, append_alone)),
        ),
    ];
    for (name, samples, ratio) in lines {
        writeln!(text, "| {name} | {} | {ratio} |", cell(samples))?;
    }
    Ok(text)
}

/// Fills a store and removes every second key; returns it and its live bytes.
fn half_dead(dir: &Path, pool: &[u8], bytes: u64) -> Result<(SegmentLog, u64)> {
    let keys = keys();
    let log = SegmentLog::options().compaction_dead_share(None).open(store_of(dir))?;
    for number in 0..(bytes / APPEND_BYTES) as usize {
        log.write(&batch(&keys, pool, number), Durability::Plain)?;
    }
    log.delete(keys.iter().step_by(2).cloned())?;
    let live = log.lens(&keys)?.into_iter().flatten().sum();
    Ok((log, live))
}

/// Appends alone for a while, then beside a compaction.
fn beside(dir: &Path, pool: &[u8], total: u64, figures: &mut Figures) -> Result<()> {
    let (log, live) = half_dead(dir, pool, total)?;
    let keys: Vec<_> = (0..KEYS).map(|key| partd::Key::from(("new", key))).collect();
    let start = Instant::now();
    let appends = total / 4 / APPEND_BYTES;
    for number in 0..appends as usize {
        log.write(&batch(&keys, pool, number), Durability::Plain)?;
    }
    figures.append_alone.push(rate(appends * APPEND_BYTES, start.elapsed()));

    let (is_done, appended) = (AtomicBool::new(false), AtomicU64::new(0));
    let time = std::thread::scope(|scope| -> Result<Duration> {
        let appender = scope.spawn(|| -> Result<()> {
            for number in 0.. {
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
                log.write(&batch(&keys, pool, number), Durability::Plain)?;
                appended.fetch_add(APPEND_BYTES, Ordering::Relaxed);
            }
            Ok(())
        });
        let start = Instant::now();
        let compacted = log.compact();
        let time = start.elapsed();
        let during = appended.load(Ordering::Relaxed);
        is_done.store(true, Ordering::Relaxed);
        appender.join().map_err(|_| anyhow!("the appending thread has panicked"))??;
        compacted?;
        figures.append_beside.push(rate(during, time));
        Ok(time)
    })?;
    ensure!(live > 0);
    figures.beside.push(rate(live, time));
    Ok(())
}

/// Reads a file, computes the checksum and writes to allocated files.
fn limit(dir: &Path, pool: &[u8], bytes: u64) -> Result<Duration> {
    let source = allocated(&dir.join("limit-source"))?;
    source.write_all_at(&pool[..SEGMENT_BYTES], 0)?;
    let mut buffer = vec![0; STEP];
    let mut files = Vec::new();
    let start = Instant::now();
    for at in (0..bytes).step_by(STEP) {
        let in_segment = at % SEGMENT_BYTES as u64;
        if in_segment == 0 {
            files.push(allocated(&dir.join(format!("limit-{}", files.len())))?);
        }
        source.read_exact_at(&mut buffer, in_segment)?;
        black_box(crc32fast::hash(&buffer));
        files.last().context("a file")?.write_all_at(&buffer, in_segment)?;
    }
    Ok(start.elapsed())
}
