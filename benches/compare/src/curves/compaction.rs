//! The rate of a compaction, and the appends beside it.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use partd::{Durability, Partd, SegmentLog};

use super::Bench;
use super::worker::{APPEND_BYTES, KEYS, VALUE, batch, keys, store_of};
use crate::engines::limit_mapped::{SEGMENT_BYTES, allocated};
use crate::samples::{Samples, figure, rate};
use crate::workload::{Digest, Workload};

/// The bytes that the limit copies at a time.
const STEP: usize = 256 << 10;
/// The bytes after which the limit requests writeback.
const WRITE_BACK_BYTES: u64 = 4 << 20;

/// The figures of a compaction, in GiB/s.
#[derive(Debug, Default)]
struct Figures {
    alone: Samples,
    temporary: Samples,
    limit: Samples,
    limit_synced: Samples,
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
        let sources = sources(dir.path(), bench.pool, total / 2)?;
        for (samples, is_synced) in [(&mut figures.limit, false), (&mut figures.limit_synced, true)]
        {
            samples.push(rate(total / 2, limit(dir.path(), &sources, total / 2, is_synced)?));
        }
        let options = SegmentLog::options().compaction_dead_share(None);
        let log = options.open(store_of(&dir.path().join("alone")))?;
        figures.alone.push(alone(&log, bench.pool, total)?);
        drop(log);
        let log = options.temporary_in(dir.path())?;
        figures.temporary.push(alone(&log, bench.pool, total)?);
        drop(log);
        beside(&dir.path().join("beside"), bench.pool, total, &mut figures)?;
    }
    let mut text = format!(
        "### Compaction of {} MiB, of which half is dead, GiB/s\n\n\
         The live bytes over the time. The limit reads as many bytes from files of 64 MiB, computes their \
         CRC-32 and writes them to allocated files, 256 KiB at a time; *synced*, it also requests writeback \
         every 4 MiB and syncs the files, as a compaction must before it removes what it has copied. A \
         temporary store syncs nothing. The appends, 4 KiB × 256 keys, are made by one thread for as long \
         as the compaction runs. The values are compared after each compaction.\n\n| | GiB/s | ÷ |\n|---|--:|--:|\n",
        total >> 20
    );
    let ratio = |ours: &Samples, theirs: &Samples| match (ours.median(), theirs.median()) {
        (Some(ours), Some(theirs)) => figure(ours / theirs),
        _ => "–".to_owned(),
    };
    let cell = |samples: &Samples| samples.cell().unwrap_or_default();
    let Figures { alone, temporary, limit, limit_synced, beside, append_alone, append_beside } =
        &figures;
    let lines = [
        ("limit: read, CRC-32, write", limit, String::new()),
        ("limit, synced", limit_synced, String::new()),
        ("compaction alone", alone, format!("{} of the limit, synced", ratio(alone, limit_synced))),
        (
            "compaction of a temporary store",
            temporary,
            format!("{} of the limit", ratio(temporary, limit)),
        ),
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

/// Fills a store and removes every second key; returns its live bytes.
fn half_dead(log: &SegmentLog, pool: &[u8], bytes: u64) -> Result<u64> {
    let keys = keys();
    for number in 0..(bytes / APPEND_BYTES) as usize {
        log.write(&batch(&keys, pool, number), Durability::Plain)?;
    }
    log.delete(keys.iter().step_by(2).cloned())?;
    Ok(log.lens(&keys)?.into_iter().flatten().sum())
}

/// The rate of a compaction with nothing beside it.
fn alone(log: &SegmentLog, pool: &[u8], bytes: u64) -> Result<f64> {
    let live = half_dead(log, pool, bytes)?;
    let start = Instant::now();
    log.compact()?;
    let time = start.elapsed();
    check(log, pool, bytes)?;
    Ok(rate(live, time))
}

/// Compares what a compaction has kept with what was appended.
fn check(log: &SegmentLog, pool: &[u8], bytes: u64) -> Result<()> {
    let expected = Workload::new(VALUE, KEYS, (bytes / APPEND_BYTES) as usize).expected(pool);
    for (i, (key, expected)) in keys().iter().zip(expected).enumerate() {
        let is_live = i % 2 == 1;
        let expected = if is_live { expected } else { Digest::of(&[]) };
        ensure!(Digest::of(&log.get(key)?) == expected, "{key} has another value");
    }
    Ok(())
}

/// Appends alone for a while, then beside a compaction.
fn beside(dir: &Path, pool: &[u8], total: u64, figures: &mut Figures) -> Result<()> {
    let log = SegmentLog::options().compaction_dead_share(None).open(store_of(dir))?;
    let live = half_dead(&log, pool, total)?;
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
    check(&log, pool, total)?;
    figures.beside.push(rate(live, time));
    Ok(())
}

/// Files of `bytes` in all, on disk and in memory.
fn sources(dir: &Path, pool: &[u8], bytes: u64) -> Result<Vec<fs::File>> {
    let source = |i| {
        let file = allocated(&dir.join(format!("limit-source-{i}")))?;
        file.write_all_at(&pool[..SEGMENT_BYTES], 0)?;
        file.sync_data()?;
        Ok(file)
    };
    (0..bytes.div_ceil(SEGMENT_BYTES as u64)).map(source).collect()
}

/// Reads files, computes the checksum, and writes to allocated files, which it may sync.
fn limit(dir: &Path, sources: &[fs::File], bytes: u64, is_synced: bool) -> Result<Duration> {
    let mut buffer = vec![0; STEP];
    let mut files = Vec::new();
    let start = Instant::now();
    for (i, source) in sources.iter().enumerate() {
        let file = allocated(&dir.join(format!("limit-{i}-{is_synced}")))?;
        let len = (bytes - (i * SEGMENT_BYTES) as u64).min(SEGMENT_BYTES as u64);
        for at in (0..len).step_by(STEP) {
            source.read_exact_at(&mut buffer, at)?;
            black_box(crc32fast::hash(&buffer));
            file.write_all_at(&buffer, at)?;
            let end = at + STEP as u64;
            if is_synced && end.is_multiple_of(WRITE_BACK_BYTES) {
                // SAFETY: the call reads and changes no memory of the process.
                unsafe {
                    let start = (end - WRITE_BACK_BYTES) as i64;
                    libc::sync_file_range(
                        file.as_raw_fd(),
                        start,
                        WRITE_BACK_BYTES as i64,
                        libc::SYNC_FILE_RANGE_WRITE,
                    );
                }
            }
        }
        files.push(file);
    }
    if is_synced {
        files.iter().try_for_each(fs::File::sync_data)?;
    }
    Ok(start.elapsed())
}
