//! Append and get, one batch or one read at a time, for comparing two versions.
//!
//! `cargo bench --bench append_get`. For claims about speed use `limits`, which measures both sides
//! in one run. Every case ends with a check that the store holds the expected data.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use partd::{Buffer, Dict, Partd, SegmentLog};

const KEYS: usize = 256;
const SIZES: [usize; 3] = [128, 4096, 65_536];

fn pairs(value: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (0..KEYS).map(move |key| (key, value))
}

/// The size at which the store is cleared, so that a run fits on the disk.
const FULL_BYTES: usize = 1 << 30;

fn append<P: Partd>(criterion: &mut Criterion, name: &str, make: impl Fn() -> P) {
    let mut group = criterion.benchmark_group(format!("append/{name}"));
    for size in SIZES {
        let value = vec![7; size];
        group.throughput(Throughput::Bytes((size * KEYS) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let p = make();
            let mut batches = 0;
            bencher.iter(|| {
                p.append(pairs(&value)).unwrap();
                batches += 1;
                if batches * size * KEYS > FULL_BYTES {
                    p.clear().unwrap();
                    batches = 0;
                }
            });
            assert_eq!(p.len_of(KEYS - 1).unwrap(), (batches * size) as u64);
        });
    }
    group.finish();
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get/SegmentLog");
    for size in SIZES {
        let p = SegmentLog::temporary().unwrap();
        let value = vec![7; size];
        let batches = (64 << 20) / (size * KEYS);
        for _ in 0..batches {
            p.append(pairs(&value)).unwrap();
        }
        let whole = value.repeat(batches);
        assert!(p.get_many(0..KEYS).unwrap().iter().all(|value| *value == whole));
        group.throughput(Throughput::Bytes((whole.len() * KEYS) as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| p.get_many(0..KEYS).unwrap());
        });
    }
    group.finish();
}

fn all(criterion: &mut Criterion) {
    append(criterion, "SegmentLog", || SegmentLog::temporary().unwrap());
    append(criterion, "Buffer", || {
        Buffer::new(Dict::new(), SegmentLog::temporary().unwrap(), 64 << 20)
    });
    get(criterion);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
