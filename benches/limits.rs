//! The rates of `SegmentLog` and `Buffer` as fractions of the machine's limits.
//!
//! Both sides run in the same process and alternate round by round; the output is the median of
//! each and the ratio of the medians. The limit of an append is the checksum of every value and a
//! plain copy into freshly mapped, allocated files of a segment's size. The limit of a get is a
//! copy of the same extents with a checksum. Every byte that is read back is compared.
//!
//! `cargo bench --bench limits -- [ROUNDS]`

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapOptions};
use partd::{Batch, Dict, Durability, Op, Partd, SegmentLog};

const SEGMENT: usize = 64 << 20;

#[derive(Clone, Copy)]
struct Case {
    value: usize,
    keys: usize,
    batches: usize,
}

impl Case {
    fn bytes(&self) -> usize {
        self.value * self.keys * self.batches
    }

    /// The value of a key in a batch: a window of shared random bytes, so that it can be checked.
    fn value_of<'p>(&self, pool: &'p [u8], batch: usize, key: usize) -> &'p [u8] {
        let start = (batch * 7919 + key * 104_729) % (pool.len() - self.value);
        &pool[start..start + self.value]
    }
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / f64::from(1 << 30)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fresh_mapping(path: &Path) -> MmapMut {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT as u64).unwrap();
    #[expect(unsafe_code, reason = "the limit to compare with is a plain copy into a mapping")]
    // SAFETY: the file belongs to this function; no one else uses its name.
    unsafe {
        MmapOptions::new().len(SEGMENT).map_mut(&file).unwrap()
    }
}

/// Checksum and copy into freshly mapped segments.
fn limit_mapped(dir: &Path, case: Case, pool: &[u8]) -> Duration {
    let start = Instant::now();
    let (mut maps, mut at) = (Vec::new(), SEGMENT);
    for batch in 0..case.batches {
        for key in 0..case.keys {
            let value = case.value_of(pool, batch, key);
            if at + value.len() > SEGMENT {
                maps.push(fresh_mapping(&dir.join(format!("map{}", maps.len()))));
                at = 0;
            }
            black_box(crc32fast::hash(value));
            maps.last_mut().unwrap()[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        }
    }
    let time = start.elapsed();
    for i in 0..maps.len() {
        std::fs::remove_file(dir.join(format!("map{i}"))).unwrap();
    }
    time
}

/// Checksum and one `pwritev` for each batch into allocated files.
fn limit_written(dir: &Path, case: Case, pool: &[u8]) -> Duration {
    let start = Instant::now();
    let mut files = Vec::new();
    let (mut file, mut at) = (None, SEGMENT);
    for batch in 0..case.batches {
        let len = case.value * case.keys;
        if at + len > SEGMENT {
            let path = dir.join(format!("file{}", files.len()));
            let new =
                OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&new, flags, 0, SEGMENT as u64).unwrap();
            files.push(path);
            file = Some(new);
            at = 0;
        }
        for group in (0..case.keys).step_by(256) {
            let values: Vec<_> = (group..case.keys.min(group + 256))
                .map(|key| case.value_of(pool, batch, key))
                .collect();
            values.iter().for_each(|value| {
                black_box(crc32fast::hash(value));
            });
            let mut slices: Vec<_> = values.iter().map(|value| IoSlice::new(value)).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                let file = file.as_ref().unwrap();
                let n = rustix::io::pwritev(file, slices, at as u64).unwrap();
                IoSlice::advance_slices(&mut slices, n);
                at += n;
            }
        }
    }
    let time = start.elapsed();
    files.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    time
}

fn append<P: Partd>(p: &P, case: Case, pool: &[u8]) -> Duration {
    let keys: Vec<partd::Key> = (0..case.keys).map(|key| partd::Key::from(("part", key))).collect();
    let start = Instant::now();
    for number in 0..case.batches {
        let mut batch = Batch::with_capacity(case.keys);
        for (key, name) in keys.iter().enumerate() {
            batch.push(Op::Append(name.clone(), case.value_of(pool, number, key)));
        }
        p.write(&batch, Durability::Plain).unwrap();
    }
    start.elapsed()
}

/// Reads every key twice: first with untouched mappings and no index, then again.
fn get<P: Partd>(p: &P, case: Case, pool: &[u8]) -> [Duration; 2] {
    [(); 2].map(|()| {
        let start = Instant::now();
        let values = p.get_many((0..case.keys).map(|key| partd::Key::from(("part", key)))).unwrap();
        let time = start.elapsed();
        for (key, value) in values.iter().enumerate() {
            let mut parts = value.chunks_exact(case.value);
            let right = |batch| parts.next() == Some(case.value_of(pool, batch, key));
            assert!((0..case.batches).all(right), "key {key} has wrong bytes");
        }
        time
    })
}

/// The limit of a get: the same extents, copied from the mapping one after the other in key order,
/// with a checksum.
fn limit_copied(log: &SegmentLog, case: Case) -> Duration {
    let views: Vec<_> =
        (0..case.keys).map(|key| log.view(partd::Key::from(("part", key))).unwrap()).collect();
    let start = Instant::now();
    let values: Vec<Vec<u8>> = views
        .iter()
        .map(|view| {
            let mut value = Vec::with_capacity(view.len() as usize);
            for chunk in view.chunks() {
                value.extend_from_slice(chunk);
                black_box(crc32fast::hash(&value[value.len() - chunk.len()..]));
            }
            value
        })
        .collect();
    let time = start.elapsed();
    assert_eq!(values.iter().map(Vec::len).sum::<usize>(), case.bytes());
    time
}

/// Fills a store, clears and compacts it, and fills it again; the second time its segments are
/// recycled files.
fn fill_twice(dir: &Path, case: Case, pool: &[u8]) -> [Duration; 2] {
    let options = SegmentLog::options().recycled_segments(usize::MAX).compaction_dead_share(None);
    let log = options.temporary_in(dir).unwrap();
    let first = append(&log, case, pool);
    log.clear().unwrap();
    log.compact().unwrap();
    assert!(log.stats().unwrap().segments_recycled as usize >= case.bytes() / SEGMENT - 1);
    let second = append(&log, case, pool);
    get(&log, case, pool);
    [first, second]
}

/// Reads a key of many small extents after a compaction, compared with a single file of the same
/// bytes: read into a fresh vector of the exact size, and then checksummed.
fn compacted(dir: &Path, rounds: usize, pool: &[u8]) {
    const PIECES: usize = 100_000;
    let path = dir.join("compacted");
    let options = SegmentLog::options().compaction_dead_share(None);
    let p = options.open(&path).unwrap();
    let piece = |i: usize| &pool[i * 64 % (pool.len() - 1024)..][..1024];
    for i in 0..PIECES {
        // A value of another key between any two.
        p.append([("key", piece(i)), ("other", &[7; 100])]).unwrap();
    }
    drop(p);
    let p = options.open(&path).unwrap();
    let start = Instant::now();
    let report = p.compact().unwrap();
    let took = start.elapsed();
    assert_eq!((p.view("key").unwrap().chunks().len(), report.extents_after), (1, 2));
    let expected: Vec<u8> = (0..PIECES).flat_map(piece).copied().collect();
    let file = dir.join("one file");
    std::fs::write(&file, &expected).unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        let start = Instant::now();
        let value = std::fs::read(&file).unwrap();
        black_box(crc32fast::hash(&value));
        figures[0].push(rate(expected.len(), start.elapsed()));
        assert_eq!(value.capacity(), expected.len());
        drop(value);
        let start = Instant::now();
        let value = one.install(|| p.get("key").unwrap());
        figures[1].push(rate(expected.len(), start.elapsed()));
        assert!(value == expected);
        drop(value);
        let start = Instant::now();
        let value = p.get("key").unwrap();
        figures[2].push(rate(expected.len(), start.elapsed()));
        assert!(value == expected);
    }
    let [limit, single, several] = figures.each_mut().map(|figure| median(figure));
    println!("a key of {PIECES} extents of 1 KiB, compacted in {took:.1?}");
    println!(
        "  get, one thread: {single:.2}, several: {several:.2}; limit: file into a vector + crc \
         {limit:.2} (ratios {:.2}, {:.2})",
        single / limit,
        several / limit
    );
}

fn main() {
    let mut rounds = 5;
    for argument in std::env::args().skip(1) {
        if let Ok(number) = argument.parse() {
            rounds = number;
        }
    }
    let pool: Vec<u8> = (0..64_u64 << 17)
        .flat_map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i >> 7)).to_le_bytes())
        .collect();
    let cases = [
        ("4 KiB x 256 keys", Case { value: 4096, keys: 256, batches: 512 }),
        ("128 B x 256 keys", Case { value: 128, keys: 256, batches: 8000 }),
        ("256 KiB x 64 keys", Case { value: 256 << 10, keys: 64, batches: 32 }),
    ];
    let base = std::env::var_os("PARTD_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base).unwrap();
    println!("medians of {rounds} rounds, GiB/s; ratios of the medians");
    compacted(dir.path(), rounds, &pool);
    for (name, case) in cases {
        let mut figures: [Vec<f64>; 9] = Default::default();
        for _ in 0..rounds {
            let mapped = limit_mapped(dir.path(), case, &pool);
            let log = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let appended = append(&log, case, &pool);
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let [first, again] = one.install(|| get(&log, case, &pool));
            let copied = limit_copied(&log, case);
            drop(log);
            let written = limit_written(dir.path(), case, &pool);
            let slow = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let buffer = partd::Buffer::new(Dict::new(), slow, 64 << 20);
            let buffered = append(&buffer, case, &pool);
            drop(buffer);
            let [fill, refill] = fill_twice(dir.path(), case, &pool);
            let times = [mapped, written, appended, buffered, copied, first, again, fill, refill];
            for (figure, time) in figures.iter_mut().zip(times) {
                figure.push(rate(case.bytes(), time));
            }
        }
        let [mapped, written, appended, buffered, copied, first, again, fill, refill] =
            figures.each_mut().map(|figure| median(figure));
        println!("{name} x {} batches", case.batches);
        println!(
            "  append: SegmentLog {appended:.2}, Buffer {buffered:.2}; limits: crc + mapped copy \
            {mapped:.2} (ratio {:.2}), crc + pwritev {written:.2} (ratio {:.2})",
            appended / mapped,
            appended / written
        );
        println!(
            "  second fill, of segments that were filled before: {refill:.2}, the first {fill:.2} \
             (ratio {:.2})",
            refill / fill
        );
        println!(
            "  get, one thread: {again:.2}, the first time, with indexing, {first:.2}; limit: copy + \
             crc of the same extents {copied:.2} (ratio {:.2})",
            again / copied
        );
        std::io::stdout().flush().unwrap();
    }
}
