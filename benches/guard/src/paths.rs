//! The hot paths: what is prepared, and what is counted.

use std::hint::black_box;
use std::path::Path;

use partd::{Batch, Buffer, Dict, Durability, Key, Op, Partd, SegmentLog};

type Error = Box<dyn std::error::Error>;

/// A path of the engine that must not get longer.
pub(crate) struct HotPath {
    pub(crate) name: &'static str,
    /// Prepares the path in a directory of its own, and runs it in the region.
    run: fn(&Path) -> Result<(), Error>,
}

/// The paths, in the order of the figures.
pub(crate) const PATHS: &[HotPath] = &[
    HotPath { name: "append_4kib", run: |dir| append(dir, 4096, 16) },
    HotPath { name: "append_128b", run: |dir| append(dir, 128, 200) },
    HotPath { name: "get_1000_extents", run: get_1000_extents },
    HotPath { name: "index_100000_extents", run: index_100000_extents },
    HotPath { name: "buffer_10000_keys", run: buffer_10000_keys },
];

/// Runs a path by name.
pub(crate) fn run(name: &str) -> Result<(), String> {
    let path = PATHS.iter().find(|path| path.name == name);
    let path = path.ok_or_else(|| format!("there is no path {name}"))?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    (path.run)(dir.path()).map_err(|error| format!("{name}: {error}"))
}

/// The part of a path that callgrind counts; it finds the function by this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "Rust" fn guard_region(
    work: &mut dyn FnMut() -> partd::Result<()>,
) -> partd::Result<()> {
    work()
}

/// A store without background work.
fn open(dir: &Path) -> partd::Result<SegmentLog> {
    SegmentLog::options().compaction_dead_share(None).open(dir.join("store"))
}

fn keys(number: usize) -> Vec<Key> {
    (0..number).map(|key| Key::from(("part", key))).collect()
}

fn batch<'v>(keys: &[Key], value: &'v [u8]) -> Batch<'v> {
    let mut batch = Batch::with_capacity(keys.len());
    keys.iter().for_each(|key| {
        batch.push(Op::Append(key.clone(), value));
    });
    batch
}

/// Appends values of one size to 256 keys, in a segment that is open.
fn append(dir: &Path, value: usize, appends: usize) -> Result<(), Error> {
    let (keys, value) = (keys(256), vec![7; value]);
    let log = open(dir)?;
    log.write(&batch(&keys, &value), Durability::Plain)?;
    guard_region(&mut || {
        (0..appends).try_for_each(|_| log.write(&batch(&keys, &value), Durability::Plain))
    })?;
    assert_eq!(log.len_of(keys[255].clone())?, (value.len() * (appends + 1)) as u64);
    Ok(())
}

/// Reads a key of 1,000 indexed extents of 1 KiB, ten times.
fn get_1000_extents(dir: &Path) -> Result<(), Error> {
    let keys = keys(2);
    let log = open(dir)?;
    for _ in 0..1000 {
        // The other key keeps the extents of the first apart.
        log.append([(keys[0].clone(), &[1_u8; 1024][..]), (keys[1].clone(), &[2_u8; 100][..])])?;
    }
    let read = |len: usize| -> partd::Result<()> {
        let value = log.get(keys[0].clone())?;
        assert_eq!(black_box(value).len(), len);
        Ok(())
    };
    read(1000 << 10)?;
    guard_region(&mut || (0..10).try_for_each(|_| read(1000 << 10)))?;
    Ok(())
}

/// Opens a store of 100,000 extents of 128 B in 1,000 keys, and finds the length of one.
fn index_100000_extents(dir: &Path) -> Result<(), Error> {
    let (keys, value) = (keys(1000), [3; 128]);
    let log = open(dir)?;
    for _ in 0..100 {
        log.write(&batch(&keys, &value), Durability::Plain)?;
    }
    drop(log);
    guard_region(&mut || {
        let log = open(dir)?;
        assert_eq!(log.len_of(keys[999].clone())?, 100 * 128);
        // Closing a store is not part of it.
        std::mem::forget(log);
        Ok(())
    })?;
    Ok(())
}

/// Appends 100 B to each of 10,000 keys of a `Buffer`, five times; the first creates the keys.
fn buffer_10000_keys(dir: &Path) -> Result<(), Error> {
    let (keys, value) = (keys(10_000), [4; 100]);
    let buffer = Buffer::new(Dict::new(), open(dir)?, 1 << 30);
    guard_region(&mut || {
        (0..5).try_for_each(|_| buffer.write(&batch(&keys, &value), Durability::Plain))
    })?;
    assert_eq!(buffer.len_of(keys[9999].clone())?, 500);
    Ok(())
}
