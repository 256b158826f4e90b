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
//! that is little more than a copy takes no longer than the store itself. All run on the threads of
//! one pool, since the time for memory depends on the thread that allocates it. Layer and stores
//! are created once, and each round of appends begins with a clear, as in an engine that shuffles
//! repeatedly.
//!
//! The library is called as a program would call it, except for Blosc: its C library is unsafe to
//! call, so its row compares the layer with its own codec.

use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use criterion::{Criterion, Throughput};
use ndarray::Array1;
use partd::{Codec, Dict, Encode, Partd, Typed};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The approximate size of each appended value: a producer's buffer for one key.
const VALUE_BYTES: usize = 64 << 10;
/// The number of times that the flights are appended, so that a round takes long enough to be
/// timed.
const COPIES: usize = 4;
/// The number of values appended to one key.
const VALUES_PER_KEY: usize = 4;
/// The minimum duration of a measurement, and the minimum number of rounds.
const MIN_TIME: Duration = Duration::from_millis(1500);
const MIN_ROUNDS: usize = 7;

type Flight = (i64, i64, Option<i64>, String, String, String, i64);

/// The lines of the flights, split into values.
fn flights() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/flights.csv");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut values = vec![Vec::with_capacity(VALUE_BYTES + 200)];
    for _ in 0..COPIES {
        for line in text.split_inclusive(|&byte| byte == b'\n').skip(1) {
            if values.last().is_some_and(|last| last.len() >= VALUE_BYTES) {
                values.push(Vec::with_capacity(VALUE_BYTES + 200));
            }
            values.last_mut().unwrap().extend_from_slice(line);
        }
    }
    values
}

/// The same as rows of numbers and strings.
fn rows(values: &[Vec<u8>]) -> Vec<Vec<Flight>> {
    let row = |line: &str| -> Flight {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].parse::<i64>().ok();
        (
            number(1).unwrap(),
            number(2).unwrap(),
            number(5),
            fields[9].to_owned(),
            fields[12].to_owned(),
            fields[13].to_owned(),
            number(15).unwrap(),
        )
    };
    values
        .iter()
        .map(|value| std::str::from_utf8(value).unwrap().lines().map(row).collect())
        .collect()
}

/// A library as called by hand: values to bytes and back.
trait Library: Send {
    type Value: Clone + PartialEq;
    fn encode(&mut self, value: &Self::Value) -> Vec<u8>;
    fn decode(&mut self, bytes: &[u8], onto: &mut Vec<Self::Value>);
}

struct Fns<V, E, D>(E, D, std::marker::PhantomData<V>);

impl<V, E, D> Library for Fns<V, E, D>
where
    V: Clone + PartialEq + Send,
    E: FnMut(&V) -> Vec<u8> + Send,
    D: FnMut(&[u8]) -> V + Send,
{
    type Value = V;
    fn encode(&mut self, value: &V) -> Vec<u8> {
        (self.0)(value)
    }
    fn decode(&mut self, bytes: &[u8], onto: &mut Vec<V>) {
        onto.push((self.1)(bytes));
    }
}

type Append<V> = Box<dyn Fn(&[V]) + Send + Sync>;
type Get<V> = Box<dyn Fn(usize) -> Vec<V> + Send + Sync>;

/// One codec: the library by hand, and the layer.
struct Case<V> {
    name: &'static str,
    library: Box<dyn Library<Value = V>>,
    /// Whether each value is stored as a frame; otherwise the stored values are read as one.
    has_frames: bool,
    /// The store below the layer.
    store: Arc<Dict>,
    /// Appends the values under their keys.
    append: Append<V>,
    /// Reads `n` keys, joined.
    get: Get<V>,
    /// Joins values, as reading a key does.
    join: fn(Vec<V>) -> V,
}

/// The frames of a stored value: 8 bytes of length before each.
fn frames(stored: &[u8]) -> Vec<&[u8]> {
    let (mut frames, mut rest) = (Vec::new(), stored);
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (frame, next) = behind.split_at(u64::from_le_bytes(*len) as usize);
        frames.push(frame);
        rest = next;
    }
    frames
}

/// The key of each value.
fn keyed<V>(values: &[V]) -> impl Iterator<Item = (usize, &V)> {
    values.iter().enumerate().map(|(i, value)| (i / VALUES_PER_KEY, value))
}

fn bytes_case<C: Codec<In = [u8], Out = Vec<u8>> + 'static>(
    name: &'static str,
    layer: Encode<C, Arc<Dict>>,
    encode: impl FnMut(&Vec<u8>) -> Vec<u8> + Send + 'static,
    decode: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
) -> Case<Vec<u8>> {
    let layer = Arc::new(layer);
    let same = Arc::clone(&layer);
    Case {
        name,
        library: Box::new(Fns(encode, decode, std::marker::PhantomData)),
        has_frames: true,
        store: Arc::clone(layer.inner()),
        append: Box::new(move |values| layer.append(keyed(values)).unwrap()),
        get: Box::new(move |keys| same.get_many(0..keys).unwrap()),
        join: |parts| parts.concat(),
    }
}

fn list_case<C: Codec<In = [Flight], Out = Vec<Flight>> + 'static>(
    name: &'static str,
    layer: Typed<C, Arc<Dict>>,
    encode: impl FnMut(&Vec<Flight>) -> Vec<u8> + Send + 'static,
    decode: impl FnMut(&[u8]) -> Vec<Flight> + Send + 'static,
) -> Case<Vec<Flight>> {
    let layer = Arc::new(layer);
    let same = Arc::clone(&layer);
    Case {
        name,
        library: Box::new(Fns(encode, decode, std::marker::PhantomData)),
        has_frames: true,
        store: Arc::clone(layer.inner()),
        append: Box::new(move |values| layer.append(keyed(values)).unwrap()),
        get: Box::new(move |keys| same.get_many(0..keys).unwrap()),
        join: |parts| parts.into_iter().flatten().collect(),
    }
}

fn compressions() -> Vec<Case<Vec<u8>>> {
    let mut snappy = snap::raw::Encoder::new();
    let mut zstd = zstd::bulk::Compressor::new(3).unwrap();
    let mut unzstd = zstd::bulk::Decompressor::new().unwrap();
    let blosc = partd::Blosc::new(Dict::new());
    let blosc_too = partd::Blosc::new(Dict::new());
    vec![
        bytes_case(
            "Zlib (6)",
            partd::Zlib::new(Arc::default()),
            |value| {
                let level = flate2::Compression::new(6);
                let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
                zlib.write_all(value).unwrap();
                zlib.finish().unwrap()
            },
            |bytes| {
                let mut value = Vec::new();
                flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut value).unwrap();
                value
            },
        ),
        bytes_case(
            "Snappy",
            partd::Snappy::new(Arc::default()),
            move |value| snappy.compress_vec(value).unwrap(),
            |bytes| snap::raw::Decoder::new().decompress_vec(bytes).unwrap(),
        ),
        bytes_case(
            "Lz4",
            partd::Lz4::new(Arc::default()),
            |value| lz4_flex::compress_prepend_size(value),
            |bytes| lz4_flex::decompress_size_prepended(bytes).unwrap(),
        ),
        bytes_case(
            "Bz2 (9)",
            partd::Bz2::new(Arc::default()),
            |value| {
                let level = bzip2::Compression::new(9);
                let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), level);
                bz2.write_all(value).unwrap();
                bz2.finish().unwrap()
            },
            |bytes| {
                let mut value = Vec::new();
                bzip2::read::BzDecoder::new(bytes).read_to_end(&mut value).unwrap();
                value
            },
        ),
        // Calling the C library by hand would need unsafe code, so the layer's codec takes its
        // place.
        bytes_case(
            "Blosc (9, blosclz)",
            partd::Blosc::new(Arc::default()),
            move |value| {
                let mut frame = Vec::new();
                blosc.codec().encode(value, &mut frame).unwrap();
                frame
            },
            move |bytes| blosc_too.codec().decode(bytes, usize::MAX).unwrap(),
        ),
        bytes_case(
            "Zstd (3)",
            partd::Zstd::new(Arc::default()),
            move |value| zstd.compress(value).unwrap(),
            move |bytes| unzstd.decompress(bytes, 2 * VALUE_BYTES).unwrap(),
        ),
    ]
}

fn lists() -> Vec<Case<Vec<Flight>>> {
    vec![
        list_case(
            "Pickle",
            partd::Pickle::new(Arc::default()),
            |value| serde_pickle::to_vec(value, serde_pickle::SerOptions::new()).unwrap(),
            |bytes| serde_pickle::from_slice(bytes, serde_pickle::DeOptions::new()).unwrap(),
        ),
        list_case(
            "Msgpack",
            partd::Msgpack::new(Arc::default()),
            |value| rmp_serde::to_vec_named(value).unwrap(),
            |bytes| rmp_serde::from_slice(bytes).unwrap(),
        ),
    ]
}

/// The numbers of the flights as arrays.
fn arrays(rows: &[Vec<Flight>]) -> Vec<Array1<i64>> {
    let of = |flight: &Flight| [flight.0, flight.1, flight.2.unwrap_or(0), flight.6];
    let numbers: Vec<i64> = rows.iter().flatten().flat_map(of).collect();
    numbers.chunks(VALUE_BYTES / size_of::<i64>()).map(|part| part.to_vec().into()).collect()
}

fn numpy() -> Case<Array1<i64>> {
    let layer = Arc::new(partd::Numpy::new(Arc::default()));
    let same = Arc::clone(&layer);
    Case {
        name: "Numpy",
        library: Box::new(Fns(
            |array: &Array1<i64>| bytemuck::cast_slice(array.as_slice().unwrap()).to_vec(),
            |bytes: &[u8]| bytemuck::pod_collect_to_vec::<u8, i64>(bytes).into(),
            std::marker::PhantomData,
        )),
        has_frames: false,
        store: Arc::clone(layer.inner()),
        append: Box::new(move |values| layer.append(keyed(values)).unwrap()),
        get: Box::new(move |keys| same.get_many(0..keys).unwrap()),
        join: |mut parts| match parts.len() {
            1 => parts.remove(0),
            _ => {
                let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
                ndarray::concatenate(ndarray::Axis(0), &views).unwrap()
            }
        },
    }
}

/// The flights as record batches.
fn batches(rows: &[Vec<Flight>]) -> Vec<RecordBatch> {
    let batch = |rows: &Vec<Flight>| {
        let ints = |of: fn(&Flight) -> Option<i64>| -> ArrayRef {
            Arc::new(rows.iter().map(of).collect::<Int64Array>())
        };
        let texts = |of: fn(&Flight) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
        };
        RecordBatch::try_from_iter_with_nullable([
            ("month", ints(|flight| Some(flight.0)), true),
            ("day", ints(|flight| Some(flight.1)), true),
            ("delay", ints(|flight| flight.2), true),
            ("carrier", texts(|flight| &flight.3), true),
            ("origin", texts(|flight| &flight.4), true),
            ("dest", texts(|flight| &flight.5), true),
            ("miles", ints(|flight| Some(flight.6)), true),
        ])
        .unwrap()
    };
    rows.iter().map(batch).collect()
}

fn concat(parts: &[RecordBatch]) -> RecordBatch {
    arrow_select::concat::concat_batches(&parts[0].schema(), parts).unwrap()
}

fn arrow() -> Case<RecordBatch> {
    let layer = Arc::new(partd::Arrow::new(Arc::default()));
    let same = Arc::clone(&layer);
    Case {
        name: "Arrow",
        library: Box::new(Fns(
            |batch: &RecordBatch| {
                let mut stream =
                    arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
                stream.write(batch).unwrap();
                stream.into_inner().unwrap()
            },
            |bytes: &[u8]| {
                let mut stream = arrow_ipc::reader::StreamReader::try_new(bytes, None).unwrap();
                let batch = stream.next().unwrap().unwrap();
                assert!(stream.next().is_none());
                batch
            },
            std::marker::PhantomData,
        )),
        has_frames: true,
        store: Arc::clone(layer.inner()),
        append: Box::new(move |values| layer.append(keyed(values)).unwrap()),
        get: Box::new(move |keys| same.get_many(0..keys).unwrap()),
        join: |parts| concat(&parts),
    }
}

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
