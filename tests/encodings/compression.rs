//! Compressing layers keep the contract of every store: values round-trip and batches are atomic,
//! whatever the level, the store below and the number of threads.

use std::sync::Arc;

use crate::counted::Counted;
use partd::encode::compressions;
use partd::{
    Batch, Dict, Durability, Encode, Error, Key, MemoryStore, Op, Partd, Zlib, compression,
};

/// A small generator of random numbers with fixed seeds, so that the values are the same in every
/// run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Bytes that compress a little.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() % 19) as u8).collect()
    }
}

fn layers() -> Vec<(&'static str, Box<dyn Partd>)> {
    compressions().map(|name| (name, compression(name, Box::new(Dict::new())).unwrap())).collect()
}

/// Runs `test` with rayon pools of one and of several threads.
fn with_threads(test: impl Fn() + Send + Sync) {
    for threads in [1, 3] {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&test);
    }
}

#[test]
fn every_compression_layer_treats_random_batches_as_a_plain_store_does() {
    with_threads(|| {
        for (name, layer) in layers() {
            let mut random = Random(17);
            let plain = Dict::new();
            for round in 0..20 {
                let values: Vec<Vec<u8>> = (0..random.next() % 20)
                    .map(|_| {
                        let len = [0, 1, 7, 100, 5000, 20_000][random.next() as usize % 6];
                        random.bytes(len)
                    })
                    .collect();
                let mut batch = Batch::new();
                for value in &values {
                    let key = Key::from(random.next() % 6);
                    match random.next() % 12 {
                        0 => batch.set(key, value),
                        1 => batch.delete(key),
                        2 if random.next().is_multiple_of(9) => batch.clear(),
                        _ => batch.append(key, value),
                    };
                }
                layer.write(&batch, Durability::Plain).unwrap();
                plain.write(&batch, Durability::Durable).unwrap();
                let keys: Vec<Key> = (0..7).map(Key::from).collect();
                assert_eq!(layer.lens(&keys).unwrap(), plain.lens(&keys).unwrap(), "{name}");
                assert_eq!(layer.keys().unwrap(), plain.keys().unwrap(), "{name}");
                assert!(layer.read(&keys).unwrap() == plain.read(&keys).unwrap(), "{name}");
                if round % 5 == 0 {
                    let some = &keys[..3];
                    assert!(layer.take(some).unwrap() == plain.take(some).unwrap(), "{name}");
                }
            }
            layer.sync().unwrap();
        }
    });
}

#[test]
fn layers_nest_and_work_over_a_boxed_store() {
    let inner: Box<dyn Partd> = Box::new(Dict::new());
    let mut layer = inner;
    for name in compressions() {
        layer = compression(name, layer).unwrap();
    }
    layer.append([("x", "Hello "), ("y", ""), ("x", "world!")]).unwrap();
    assert_eq!(layer.get_many(["x", "y", "z"]).unwrap(), [&b"Hello world!"[..], b"", b""]);
    assert!(layer.contains("y").unwrap() && !layer.contains("z").unwrap());
    assert_eq!(layer.len_of("x").unwrap(), 12);
    assert_eq!(layer.pop(["x"]).unwrap(), [b"Hello world!"]);
    layer.clear().unwrap();
    assert_eq!(layer.keys().unwrap(), []);
}

#[test]
fn each_appended_value_is_one_frame_with_its_length_and_the_encoded_bytes() {
    let layer = Encode::from_fns(
        |value: &[u8]| Ok([value, b"!"].concat()),
        |frame| Ok(frame[..frame.len() - 1].to_vec()),
        |parts| Ok(parts.concat()),
        Dict::new(),
    );
    layer.append([("k", "ab"), ("k", "")]).unwrap();
    layer.iset("s", "c").unwrap();
    assert_eq!(layer.inner().get("k").unwrap(), b"\x03\0\0\0\0\0\0\0ab!\x01\0\0\0\0\0\0\0!");
    assert_eq!(layer.inner().get("s").unwrap(), b"\x02\0\0\0\0\0\0\0c!");
    assert_eq!(layer.get("k").unwrap(), b"ab");
}

#[test]
fn a_batch_with_an_unencodable_value_changes_nothing() {
    with_threads(|| {
        let layer = Encode::from_fns(
            |value: &[u8]| match value {
                b"bad" => Err("three letters too many".into()),
                _ => Ok(value.to_vec()),
            },
            |frame| Ok(frame.to_vec()),
            |parts| Ok(parts.concat()),
            Dict::new(),
        );
        let big = vec![0; 100_000];
        let error =
            layer.append([("a", &big[..]), ("b", &b"bad"[..]), ("c", &big[..])]).unwrap_err();
        assert_eq!(error.to_string(), "Encode: key \"b\": three letters too many");
        assert_eq!(layer.keys().unwrap(), []);
    });
}

#[test]
fn taking_an_undecodable_value_leaves_it_and_its_neighbours_in_the_store() {
    let (name, layer) = ("zlib", Zlib::new(Dict::new()));
    layer.append([("good", "1"), ("bad", "2")]).unwrap();
    layer.inner().append([("bad", b"\x01\0\0\0\0\0\0\0x")]).unwrap();
    let before = layer.inner().get_many(["good", "bad"]).unwrap();
    let error = layer.pop(["good", "bad"]).unwrap_err();
    let Error::Decode { key, frame, offset, .. } = &error else { panic!("{name}: {error}") };
    assert_eq!((key, *frame), (&Key::from("bad"), 1));
    assert_eq!(*offset, before[1].len() as u64 - 9);
    assert_eq!(layer.inner().get_many(["good", "bad"]).unwrap(), before);
}

/// A store in which another writer appends between a read and a take.
struct Raced {
    dict: Dict,
    intruder: Vec<u8>,
}

impl Partd for Raced {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> partd::Result<()> {
        self.dict.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> partd::Result<Vec<Vec<u8>>> {
        self.dict.read(keys)
    }
    fn take(&self, keys: &[Key]) -> partd::Result<Vec<Vec<u8>>> {
        self.dict.append([(keys[0].clone(), &self.intruder)])?;
        self.dict.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> partd::Result<Vec<Option<u64>>> {
        self.dict.lens(keys)
    }
    fn keys(&self) -> partd::Result<Vec<Key>> {
        self.dict.keys()
    }
    fn sync(&self) -> partd::Result<()> {
        self.dict.sync()
    }
}

#[test]
fn appends_between_the_check_and_the_take_are_taken_too_or_put_back() {
    let other = Zlib::new(Dict::new());
    other.append([("k", "world!")]).unwrap();
    let intruder = other.inner().get("k").unwrap();
    let layer = Zlib::new(Raced { dict: Dict::new(), intruder });
    layer.append([("k", "Hello ")]).unwrap();
    assert_eq!(layer.pop(["k"]).unwrap(), [b"Hello world!"]);
    assert_eq!(layer.keys().unwrap(), []);

    let layer = Zlib::new(Raced { dict: Dict::new(), intruder: b"\x01".to_vec() });
    layer.append([("k", "Hello ")]).unwrap();
    let frame = layer.inner().dict.get("k").unwrap();
    let error = layer.pop(["k", "none"]).unwrap_err().to_string();
    assert!(error.ends_with("; the bytes taken were written back"), "{error}");
    assert_eq!(layer.inner().dict.get("k").unwrap(), [&frame[..], b"\x01"].concat());
    assert_eq!(layer.keys().unwrap(), [Key::from("k")]);
}

#[test]
fn errors_for_an_unknown_codec_a_missing_feature_or_a_bad_level_list_the_choices() {
    let refuse = |name: &str| {
        let error = compression(name, Box::new(Dict::new())).err().unwrap();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        error.to_string()
    };
    let unknown = refuse("zip");
    assert!(unknown.contains("there is no compression \"zip\""), "{unknown}");
    for name in compressions() {
        assert!(unknown.contains(name), "{unknown}");
    }
    for name in ["zlib", "snappy", "lz4", "bz2", "blosc", "zstd"] {
        if !compressions().any(|here| here == name) {
            let missing = refuse(name);
            assert!(missing.contains(&format!("turn on the cargo feature `{name}`")), "{missing}");
        }
    }
    assert_eq!(refuse("zlib:10"), "Zlib: there is no level 10; choose from 0 to 9");
    assert_eq!(refuse("ZLIB:-1"), "Zlib: there is no level -1; choose from 0 to 9");
    assert!(refuse("zlib:best").contains("\"best\" is not a number"));
    #[cfg(feature = "snappy")]
    assert!(refuse("snappy:1").contains("this compression has no levels"));
    #[cfg(feature = "bz2")]
    assert_eq!(refuse("bz2:0"), "Bz2: there is no level 0; choose from 1 to 9");
    #[cfg(feature = "zstd")]
    assert_eq!(refuse("zstd:23"), "Zstd: there is no level 23; choose from -7 to 22");
    #[cfg(feature = "blosc")]
    assert_eq!(refuse("blosc:10"), "Blosc: there is no level 10; choose from 0 to 9");
}

#[test]
fn every_option_of_a_layer_can_be_set_at_run_time() {
    let open = |text: &str| compression(text, Box::new(Dict::new()));
    let refuse = |text: &str| open(text).err().unwrap().to_string();
    for name in compressions() {
        let p = open(&format!("{name}:max_decoded_bytes=1000")).unwrap();
        p.append([("fits", vec![7; 1000]), ("k", vec![7; 1001])]).unwrap();
        assert_eq!(p.get("fits").unwrap().len(), 1000);
        assert!(p.get("k").unwrap_err().to_string().contains("the limit"), "{name}");
        for (setting, value) in [("element_bytes", "4"), ("inner", "lz4")] {
            let text = format!("{name}:{setting}={value}");
            assert!(name == "blosc" || refuse(&text).contains("settings of blosc only"), "{text}");
        }
    }
    assert!(refuse("zlib:9:8").contains("\"8\" repeats a setting"));
    assert!(refuse("zlib:max_decoded_bytes=many").contains("not a number of bytes: \"many\""));
    assert!(refuse("zlib:speed=9").contains("there is no setting \"speed\"; the settings are"));
    #[cfg(feature = "blosc")]
    {
        let stored = |text: &str| {
            let store = Arc::new(Dict::new());
            let p = compression(text, Box::new(store.clone())).unwrap();
            p.append([("k", [1_u32, 2, 3, 4].map(u32::to_le_bytes).concat().repeat(500))]).unwrap();
            store.get("k").unwrap()
        };
        // In a frame's header, byte 2 names the inner codec and byte 3 the element size.
        let frame = stored("blosc:5:element_bytes=4:inner=zstd");
        assert_eq!((frame[8 + 2] >> 5, frame[8 + 3]), (4, 4));
        let frame = stored("blosc");
        assert_eq!((frame[8 + 2] >> 5, frame[8 + 3]), (0, 8));
        assert!(refuse("blosc:inner=snappy").contains("no inner codec \"snappy\"; choose"));
        assert!(refuse("blosc:element_bytes=0").contains("choose from 1 to 255"));
    }
}

#[test]
fn every_level_round_trips_the_value() {
    let value = Random(3).bytes(10_000);
    let ranges = [("zlib", 0..=9), ("bz2", 1..=9), ("blosc", 0..=9), ("zstd", -7..=22)];
    for (name, levels) in ranges {
        if !compressions().any(|here| here == name) {
            continue;
        }
        for level in levels {
            let layer = compression(&format!("{name}:{level}"), Box::new(Dict::new())).unwrap();
            layer.append([("k", &value)]).unwrap();
            assert!(layer.get("k").unwrap() == value, "{name}:{level}");
        }
    }
}

#[test]
fn clear_and_delete_keep_their_place_among_the_frames_of_a_batch() {
    for (name, layer) in layers() {
        let mut batch = Batch::new();
        batch.append("a", b"gone").clear().append("a", b"1").append("b", b"2").delete("b");
        batch.push(Op::Append(Key::from("a"), b"3"));
        layer.write(&batch, Durability::Plain).unwrap();
        assert_eq!(layer.get("a").unwrap(), b"13", "{name}");
        assert_eq!(layer.keys().unwrap(), [Key::from("a")], "{name}");
    }
}

#[test]
fn presence_and_stored_size_come_from_the_store_below_and_decode_nothing() {
    let store = Arc::new(Counted::default());
    let layer = Zlib::new(store.clone());
    layer.append([("heavy", vec![7; 5000]), ("light", vec![7; 10])]).unwrap();
    assert_eq!(store.calls(), ["write"]);
    let dynamic: &dyn Partd = &layer;
    assert!((&dynamic).contains("light").unwrap() && !layer.contains("none").unwrap());
    assert_eq!(store.calls(), ["present", "present"]);
    assert_eq!(layer.heaviest(1).unwrap(), [Key::from("heavy")]);
    assert_eq!(store.calls(), ["heaviest"]);
    let batch = |layer: &dyn MemoryStore, limit_bytes| {
        layer.write_within(Batch::new().append("more", &[7; 100_000]), limit_bytes).unwrap()
    };
    // A hundred thousand equal bytes compress to very little.
    assert!(!batch(&layer, 10) && batch(&layer, store.memory_bytes() + 5000));
    assert_eq!(store.calls(), ["write_within", "write_within"]);
    assert_eq!(layer.len_of("more").unwrap(), 100_000);
}

#[test]
fn a_buffer_over_a_compressing_layer_reads_a_key_only_to_flush_it() {
    let store = Arc::new(Counted::default());
    let p = partd::Buffer::new(Zlib::new(store.clone()), Dict::new(), 20 << 10);
    let mut random = Random(5);
    for i in 0..60 {
        p.append([(i % 3, random.bytes(1000))]).unwrap();
    }
    p.flush().unwrap();
    assert!(p.stats().flushes > 1);
    let calls = store.calls();
    let reads = calls.iter().filter(|call| ["visit", "read", "lens"].contains(call)).count();
    let moves = calls.iter().filter(|call| **call == "write").count();
    assert!(reads <= moves, "{calls:?}");
    assert_eq!(p.len_of(0).unwrap(), 20_000);
}
