//! A buffer's peak allocation, measured at the allocator: at most 1.5 times its limit.
//!
//! The allocator is in `main.rs`.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use partd::{Batch, Buffer, Dict, Durability, Key, Partd, Result, SegmentLog};

use crate::{HELD, PEAK, alone};

/// A store that accepts everything and keeps nothing, so that only the buffer is measured.
#[derive(Default)]
struct Sink {
    bytes: AtomicUsize,
}

impl Partd for Sink {
    fn write(&self, batch: &Batch<'_>, _: Durability) -> Result<()> {
        self.bytes.fetch_add(batch.value_bytes() as usize, Ordering::Relaxed);
        Ok(())
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![Vec::new(); keys.len()])
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.read(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        Ok(vec![None; keys.len()])
    }
    fn keys(&self) -> Result<Vec<Key>> {
        Ok(Vec::new())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

const VALUES: u64 = 1_000_000;

/// Appends or sets a million eight-byte values under `keys` keys; returns the peak as a fraction of
/// the limit.
fn peak_share(sets: bool, keys: u64, batch_len: u64, limit_bytes: u64) -> f64 {
    let p = Buffer::new(Dict::new(), Sink::default(), limit_bytes);
    let share = peak_of(&p, sets, keys, batch_len, 0..VALUES, limit_bytes);
    assert!(sets || p.stats().slow_bytes == VALUES * 8);
    share
}

/// The same for any buffer and some of the values.
fn peak_of<S: Partd>(
    p: &Buffer<Dict, S>,
    sets: bool,
    keys: u64,
    batch_len: u64,
    values: Range<u64>,
    limit_bytes: u64,
) -> f64 {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let end = values.end;
    for first in values.step_by(batch_len as usize) {
        let mut batch = Batch::with_capacity(batch_len as usize);
        for i in first..(first + batch_len).min(end) {
            let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys;
            match sets {
                true => batch.set(key, b"12345678"),
                false => batch.append(key, b"12345678"),
            };
        }
        p.write(&batch, Durability::Plain).unwrap();
    }
    p.flush().unwrap();
    (PEAK.load(Ordering::Relaxed) - before) as f64 / limit_bytes as f64
}

#[test]
fn the_peak_allocation_stays_within_one_and_a_half_times_the_limit() {
    let _alone = alone();
    let mut too_much = Vec::new();
    let distinct = u64::MAX;
    for (limit_bytes, sets, keys, batch_len) in [
        (4 << 20, false, distinct, 256),
        (32 << 20, false, distinct, 1),
        (1 << 20, false, 1, 1),
        (1 << 20, false, 256, 1),
        (4 << 20, false, 256, 256),
        (4 << 20, true, distinct, 256),
    ] {
        let share = peak_share(sets, keys, batch_len, limit_bytes);
        let line = format!(
            "limit {} MiB, {} {keys} keys, {batch_len} values a batch: {share:.2}",
            limit_bytes >> 20,
            if sets { "sets of" } else { "appends to" },
        );
        println!("{line}");
        if share > 1.5 {
            too_much.push(line);
        }
    }
    // A batch too large to be buffered carries everything that is buffered for its keys.
    let limit_bytes = 16 << 20;
    let p = Buffer::new(Dict::new(), Sink::default(), limit_bytes);
    for _ in 0..4 {
        let pairs = (0..2000).map(|key| (key, [1; 1500]));
        p.append(pairs).unwrap();
    }
    let large = vec![2; limit_bytes as usize * 3 / 4];
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    p.append((0..2000).map(|key| (key, &large[..large.len() / 2000]))).unwrap();
    let share = (PEAK.load(Ordering::Relaxed) - before) as f64 / limit_bytes as f64;
    println!("limit 16 MiB, a batch that goes to the slow store: {share:.2} more");
    if share > 0.5 {
        too_much.push(format!("a batch that goes to the slow store: {share:.2} more"));
    }
    assert_eq!(p.stats().slow_bytes, 4 * 2000 * 1500 + large.len() as u64 / 2000 * 2000);
    // Over the segment log, from four threads at once.
    let limit_bytes = 8 << 20;
    let log = SegmentLog::temporary().unwrap();
    let p = Buffer::new(Dict::new(), log, limit_bytes);
    let share = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let values = i * VALUES / 4..(i + 1) * VALUES / 4;
                scope.spawn(|| peak_of(&p, false, 1000, 64, values, limit_bytes))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(0.0, f64::max)
    });
    println!("limit 8 MiB, four threads over the log: {share:.2}");
    let bytes: u64 = p.keys().unwrap().iter().map(|key| p.len_of(key).unwrap_or(0)).sum();
    assert_eq!(bytes, VALUES * 8);
    if share > 1.5 {
        too_much.push(format!("four threads over the log: {share:.2}"));
    }
    assert!(too_much.is_empty(), "{}", too_much.join("\n"));
}
