//! The cases of the benchmark: each library as a program calls it, its layer, and the values of
//! both.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use ndarray::Array1;
use partd::{Codec, Dict, Encode, Partd, Typed};

/// The approximate size of each appended value: a producer's buffer for one key.
pub(crate) const VALUE_BYTES: usize = 64 << 10;

/// The number of times that the flights are appended, so that a round takes long enough to be
/// timed.
pub(crate) const COPIES: usize = 4;

/// The number of values appended to one key.
pub(crate) const VALUES_PER_KEY: usize = 4;

pub(crate) type Flight = (i64, i64, Option<i64>, String, String, String, i64);

/// The lines of the flights, split into values.
pub(crate) fn flights() -> Vec<Vec<u8>> {
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
pub(crate) fn rows(values: &[Vec<u8>]) -> Vec<Vec<Flight>> {
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
pub(crate) trait Library: Send {
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

pub(crate) type Append<V> = Box<dyn Fn(&[V]) + Send + Sync>;
pub(crate) type Get<V> = Box<dyn Fn(usize) -> Vec<V> + Send + Sync>;

/// One codec: the library by hand, and the layer.
pub(crate) struct Case<V> {
    pub(crate) name: &'static str,
    pub(crate) library: Box<dyn Library<Value = V>>,
    /// Whether each value is stored as a frame; otherwise the stored values are read as one.
    pub(crate) has_frames: bool,
    /// The store below the layer.
    pub(crate) store: Arc<Dict>,
    /// Appends the values under their keys.
    pub(crate) append: Append<V>,
    /// Reads `n` keys, joined.
    pub(crate) get: Get<V>,
    /// Joins values, as reading a key does.
    pub(crate) join: fn(Vec<V>) -> V,
}

/// The frames of a stored value: 8 bytes of length before each.
pub(crate) fn frames(stored: &[u8]) -> Vec<&[u8]> {
    let (mut frames, mut rest) = (Vec::new(), stored);
    while let Some((len, behind)) = rest.split_first_chunk() {
        let (frame, next) = behind.split_at(u64::from_le_bytes(*len) as usize);
        frames.push(frame);
        rest = next;
    }
    frames
}

/// The key of each value.
pub(crate) fn keyed<V>(values: &[V]) -> impl Iterator<Item = (usize, &V)> {
    values.iter().enumerate().map(|(i, value)| (i / VALUES_PER_KEY, value))
}

pub(crate) fn bytes_case<C: Codec<In = [u8], Out = Vec<u8>> + 'static>(
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

pub(crate) fn list_case<C: Codec<In = [Flight], Out = Vec<Flight>> + 'static>(
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

pub(crate) fn compressions() -> Vec<Case<Vec<u8>>> {
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

pub(crate) fn lists() -> Vec<Case<Vec<Flight>>> {
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
pub(crate) fn arrays(rows: &[Vec<Flight>]) -> Vec<Array1<i64>> {
    let of = |flight: &Flight| [flight.0, flight.1, flight.2.unwrap_or(0), flight.6];
    let numbers: Vec<i64> = rows.iter().flatten().flat_map(of).collect();
    numbers.chunks(VALUE_BYTES / size_of::<i64>()).map(|part| part.to_vec().into()).collect()
}

pub(crate) fn numpy() -> Case<Array1<i64>> {
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
pub(crate) fn batches(rows: &[Vec<Flight>]) -> Vec<RecordBatch> {
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

pub(crate) fn concat(parts: &[RecordBatch]) -> RecordBatch {
    arrow_select::concat::concat_batches(&parts[0].schema(), parts).unwrap()
}

pub(crate) fn arrow() -> Case<RecordBatch> {
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
