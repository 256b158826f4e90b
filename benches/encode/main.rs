//! The cost of the encoding layers compared with the libraries that they use, on the flights of the
//! shuffle example: append and get rates and compression ratio, on one thread and on two.
//!
//! ```text
//! cargo bench --features full --bench encode              criterion, the compressions
//! cargo bench --features full --bench encode -- --table   the table of the README
//! ```
//!
//! The table shows medians of many rounds in which library and layer alternate, so that other load
//! on the machine affects both alike. First, everything that the layer reads is compared with the
//! appended data. Rates refer to the bytes of the lines from which the values were made, of which
//! the typed layers keep seven columns, or of the elements of `Numpy`.
//!
//! The layer is compared with two things: the library alone, whose output goes into a vector; and
//! the same by hand, which is the library with the same store but without the layer. A conversion
//! that is little more than a copy takes no longer than the store itself. All of them run on the
//! threads of one pool, because the cost of an allocation depends on the thread that makes it.
//! Layer and stores are created once, and each round of appends begins with a clear, as in an
//! engine that shuffles repeatedly.
//!
//! The library is called as a program would call it, except for Blosc: its C library is unsafe to
//! call, so its row compares the layer with its own codec.

mod cases;

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use partd::{Dict, Partd};
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::cases::{
    Case, VALUES_PER_KEY, arrays, arrow, batches, compressions, flights, frames, keyed, lists,
    numpy, rows,
};

/// The minimum duration of a measurement, and the minimum number of rounds.
const MIN_TIME: Duration = Duration::from_millis(1500);
const MIN_ROUNDS: usize = 7;

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// The median times of several pieces of work that alternate.
fn medians<const N: usize>(mut work: [&mut dyn FnMut(); N]) -> [Duration; N] {
    let mut times = [const { Vec::new() }; N];
    let start = Instant::now();
    while times[0].len() < MIN_ROUNDS || start.elapsed() < MIN_TIME {
        for (work, times) in work.iter_mut().zip(&mut times) {
            let start = Instant::now();
            work();
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn table_row<V: Clone + PartialEq + Send + Sync>(case: &mut Case<V>, values: &[V], bytes: usize) {
    let (one, two) = (pool(1), pool(2));
    let keys = values.len().div_ceil(VALUES_PER_KEY);
    one.install(|| (case.append)(values));
    let read = two.install(|| (case.get)(keys));
    assert!(
        read == values.chunks(VALUES_PER_KEY).map(|v| (case.join)(v.to_vec())).collect::<Vec<V>>()
    );
    let encoded: Vec<Vec<u8>> = values.iter().map(|value| case.library.encode(value)).collect();
    let encoded_bytes: usize = encoded.iter().map(Vec::len).sum();

    let Case { name, library, has_frames, store, append, get, join } = case;
    let by_hand = Dict::new();
    let library = Mutex::new(library);
    let encode = |value: &V| library.lock().unwrap().encode(value);
    let [bare, hand, layer, layer_two] = medians([
        &mut || one.install(|| drop(black_box(values.iter().map(encode).collect::<Vec<_>>()))),
        &mut || {
            by_hand.clear().unwrap();
            let encoded = || keyed(values).map(|(key, value)| (key, encode(value)));
            one.install(|| by_hand.append(encoded())).unwrap();
        },
        &mut || {
            store.clear().unwrap();
            one.install(|| append(values));
        },
        &mut || {
            store.clear().unwrap();
            two.install(|| append(values));
        },
    ]);
    let decode = |frames: &[&[u8]]| {
        let mut parts = Vec::with_capacity(frames.len());
        frames.iter().for_each(|frame| library.lock().unwrap().decode(frame, &mut parts));
        join(parts)
    };
    let lent: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    let [bare_get, hand_get, layer_get, layer_get_two] = medians([
        &mut || {
            let decoded = || lent.chunks(VALUES_PER_KEY).map(decode).collect::<Vec<V>>();
            one.install(|| drop(black_box(decoded())));
        },
        &mut || {
            let read = |key: usize| {
                let stored = store.get(key).unwrap();
                decode(&if *has_frames { frames(&stored) } else { vec![&stored[..]] })
            };
            one.install(|| drop(black_box((0..keys).map(read).collect::<Vec<V>>())));
        },
        &mut || drop(black_box(one.install(|| get(keys)))),
        &mut || drop(black_box(two.install(|| get(keys)))),
    ]);
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
    let share = |bare: Duration, layer: Duration| bare.as_secs_f64() / layer.as_secs_f64();
    println!(
        "| `{name}` | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} \
         | {:.2} |",
        bytes as f64 / encoded_bytes as f64,
        rate(bare),
        rate(layer),
        share(bare, layer),
        share(hand, layer),
        share(layer, layer_two),
        rate(bare_get),
        rate(layer_get),
        share(bare_get, layer_get),
        share(hand_get, layer_get),
        share(layer_get, layer_get_two),
    );
}

fn table() {
    let values = flights();
    let bytes = values.iter().map(Vec::len).sum();
    println!(
        "| layer | ratio | append: library MiB/s | layer MiB/s | ÷ library | ÷ by hand | two threads | \
         get: library MiB/s | layer MiB/s | ÷ library | ÷ by hand | two threads |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for mut case in compressions() {
        table_row(&mut case, &values, bytes);
    }
    let rows = rows(&values);
    for mut case in lists() {
        table_row(&mut case, &rows, bytes);
    }
    table_row(&mut arrow(), &batches(&rows), bytes);
    let arrays = arrays(&rows);
    let bytes = arrays.iter().map(|array| array.len() * size_of::<i64>()).sum();
    table_row(&mut numpy(), &arrays, bytes);
}

fn criterion() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let values = flights();
    let bytes: usize = values.iter().map(Vec::len).sum();
    let keys = values.len().div_ceil(VALUES_PER_KEY);
    for threads in [1, 2] {
        let pool = pool(threads);
        for case in compressions() {
            let mut group = criterion.benchmark_group(format!("{} × {threads}", case.name));
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function("append", |b| {
                b.iter(|| {
                    case.store.clear().unwrap();
                    pool.install(|| (case.append)(&values));
                });
            });
            group.bench_function("get", |b| b.iter(|| pool.install(|| (case.get)(keys))));
        }
    }
    criterion.final_summary();
}

fn main() {
    if std::env::args().any(|argument| argument == "--table") {
        table();
    } else {
        criterion();
    }
}
