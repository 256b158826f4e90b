//! Random mutations of the golden values, as a small fuzzer that runs with every test: no layer
//! panics, and none decodes more than its limit. The seed is fixed; `PARTD_MUTATIONS` sets the
//! number of mutations per golden value, and `PARTD_SEED` another seed.

use std::path::Path;

use partd::{
    Arrow, Blosc, Bz2, Dict, Error, Lz4, Msgpack, Numpy, Partd, Pickle, Snappy, Zlib, Zstd,
};

use crate::{arrow_sizes, values};

const LIMIT_BYTES: usize = 1 << 20;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// Changes, removes, inserts or moves some bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => {
                    let interesting: [i64; 8] = [0, -1, 1, 127, 128, 1 << 31, i64::MAX, 1 << 16];
                    let number = interesting[self.below(8)].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    for (byte, new) in bytes.iter_mut().skip(at).zip(&number[..width]) {
                        *byte = *new;
                    }
                }
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ if self.below(8) == 0 => bytes.truncate(at),
                _ => {}
            }
        }
    }
}

/// The files in a folder of golden values, by name.
fn golden(folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(values::golden(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() != Some(Path::new("dtype").as_os_str()))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder}");
    files
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Tries mutations of the first frame of each golden value in a folder.
fn try_changes(folder: &str, read: impl Fn(Dict) -> Result<(), Error>) {
    try_changes_of(folder, golden(folder), read);
}

/// Tries mutations of the first frame of each value.
fn try_changes_of(
    folder: &str,
    values: Vec<(String, Vec<u8>)>,
    read: impl Fn(Dict) -> Result<(), Error>,
) {
    let seed = number("PARTD_SEED", 0x9E37_79B9_7F4A_7C15);
    let (mut decoded, mut refused) = (0, 0);
    for (name, value) in values {
        let len = u64::from_le_bytes(value[..8].try_into().unwrap()) as usize;
        let body = &value[8..8 + len];
        let mut random = Random(seed ^ len as u64);
        for i in 0..number("PARTD_MUTATIONS", 300) {
            let mut changed = body.to_vec();
            random.mutate(&mut changed);
            let dict = Dict::new();
            dict.append([("k", (changed.len() as u64).to_le_bytes())]).unwrap();
            dict.append([("k", &changed)]).unwrap();
            match read(dict) {
                Ok(()) => decoded += 1,
                Err(Error::Decode { offset: 0, frame: 0, reason, .. }) => {
                    assert!(!reason.is_empty());
                    refused += 1;
                }
                Err(other) => panic!("{name}, change {i} of seed {seed:#x}: {other}"),
            }
        }
    }
    println!("{folder}: {decoded} changed values decoded, {refused} were refused");
    assert!(refused > 0);
}

macro_rules! compression {
    ($test:ident, $folder:literal, $layer:ident) => {
        #[test]
        fn $test() {
            try_changes($folder, |dict| {
                let layer = $layer::new(dict).with_max_decoded_bytes(LIMIT_BYTES);
                layer.get("k").map(|value| assert!(value.len() <= LIMIT_BYTES))
            });
        }
    };
}

compression!(changed_zlib_is_read_or_refused, "zlib", Zlib);
compression!(changed_snappy_is_read_or_refused, "snappy", Snappy);
compression!(changed_lz4_is_read_or_refused, "lz4", Lz4);
compression!(changed_bz2_is_read_or_refused, "bz2", Bz2);
compression!(changed_blosc_is_read_or_refused, "blosc", Blosc);
compression!(changed_zstd_is_read_or_refused, "zstd", Zstd);

#[test]
fn changed_pickles_are_read_or_refused() {
    try_changes("pickle", |dict| {
        Pickle::<values::Row, _>::new(dict).with_max_decoded_bytes(LIMIT_BYTES).get("k").map(drop)
    });
    try_changes("pickle", |dict| {
        let layer = Pickle::<Vec<i64>, _>::new(dict).with_max_decoded_bytes(LIMIT_BYTES);
        layer.get("k").map(drop)
    });
}

#[test]
fn changed_messages_are_read_or_refused() {
    try_changes("msgpack", |dict| {
        Msgpack::<values::Row, _>::new(dict).with_max_decoded_bytes(LIMIT_BYTES).get("k").map(drop)
    });
}

#[test]
fn changed_arrow_streams_are_read_joined_and_shown_or_refused() {
    try_changes("arrow", |dict| {
        let stored = dict.get("k").unwrap();
        dict.append([("k", stored)]).unwrap();
        let batch = Arrow::new(dict).with_max_decoded_bytes(LIMIT_BYTES).get("k")?;
        assert!(format!("{batch:?}").len() > 2);
        Ok(())
    });
}

/// Streams of every column type that is not plain.
#[test]
fn changed_arrow_streams_of_all_types_are_read_joined_and_appended_again_or_refused() {
    let rows: Vec<usize> = (0..12).collect();
    let stream = |make: arrow_sizes::Make| {
        let p = Arrow::new(Dict::new());
        p.append([("k", arrow_sizes::batch(make(&rows)))]).unwrap();
        p.inner().get("k").unwrap()
    };
    let streams = arrow_sizes::TYPES.map(|(name, make)| (name.to_owned(), stream(make)));
    try_changes_of("arrow types", streams.to_vec(), |dict| {
        let stored = dict.get("k").unwrap();
        dict.append([("k", stored)]).unwrap();
        let p = Arrow::new(dict).with_max_decoded_bytes(LIMIT_BYTES);
        for batch in p.batches("k")? {
            let batch = batch?;
            assert!(format!("{batch:?}").len() > 2);
            // A value that is read can be rewritten without change.
            let again = Arrow::new(Dict::new());
            again.append([("k", &batch), ("k", &batch.slice(0, batch.num_rows() / 2))]).unwrap();
            assert_eq!(again.batches("k").unwrap().next().unwrap().unwrap(), batch);
        }
        match p.get("k") {
            Err(Error::Join { .. }) => Ok(()),
            other => other.map(drop),
        }
    });
}

#[test]
fn changed_dtypes_are_read_or_refused() {
    let mut random = Random(number("PARTD_SEED", 7));
    for dtype in ["<i8", "|O", "<M8[ns]", "[('a', '<i4')]"] {
        for _ in 0..300 {
            let mut changed = dtype.as_bytes().to_vec();
            random.mutate(&mut changed);
            let dict = Dict::new();
            dict.append([("k.dtype", &changed[..]), ("k", &[0; 24])]).unwrap();
            match Numpy::<i64, _>::new(dict).get("k") {
                Ok(array) => assert!(array.len() == 3 && changed[1..] == *b"i8"),
                Err(Error::Decode { .. } | Error::Mismatch { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}
