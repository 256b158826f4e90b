//! One measured process: runs one workload through one store.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use partd::{Batch, Buffer, Dict, Durability, Key, Op, Partd, SegmentLog};
use partd_testkit::cgroup::{self, Cgroup};

use super::figures::{Figures, Meter, memory_mib, rate};
use super::ranges::Ranges;
use super::raw;

/// The first argument of a measured process.
pub(crate) const CHILD: &str = "measured-child";
/// The memory in which a side can buffer values.
const BUFFER_BYTES: u64 = 64 << 20;

/// The store or method that runs a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The disk itself, with extents of the size that a get of [`Side::Log`] reads.
    Raw,
    Ranges,
    Buffer,
    Log,
}

const SIDES: [Side; 4] = [Side::Raw, Side::Ranges, Side::Buffer, Side::Log];

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Raw => "disk",
            Side::Ranges => "ranges",
            Side::Buffer => "Buffer",
            Side::Log => "SegmentLog",
        })
    }
}

/// Values of one size, for some keys, adding up to a multiple of the memory limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    value: usize,
    keys: usize,
    batches: usize,
    times: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { value, keys, times, .. } = self;
        write!(f, "{value} B x {keys} keys, {times} x the memory, {} MiB", self.bytes() >> 20)
    }
}

impl Case {
    /// Every workload, at each multiple of the memory limit.
    pub(crate) fn all(limit: u64, times: &[u64]) -> Vec<Case> {
        let shapes = [(4096, 256), (4096, 1024), (64 << 10, 64), (16, 64), (16, 1024)];
        let case = |times: u64, (value, keys): (usize, usize)| {
            let batches = (limit * times / (value * keys) as u64).max(1) as usize;
            Case { value, keys, batches, times }
        };
        shapes.iter().flat_map(|shape| times.iter().map(|times| case(*times, *shape))).collect()
    }

    /// The sides for which the workload makes sense: a record of 16 bytes is smaller than its index
    /// entry.
    pub(crate) fn sides(&self) -> impl Iterator<Item = Side> + use<> {
        let is_large = self.value >= 1024;
        SIDES
            .into_iter()
            .filter(move |side| is_large || matches!(side, Side::Ranges | Side::Buffer))
    }

    /// Whether the command line selects the case.
    pub(crate) fn is_wanted(&self, side: Side, only: &str) -> bool {
        format!("{self} {side}").contains(only)
    }

    fn bytes(&self) -> u64 {
        (self.value * self.keys * self.batches) as u64
    }

    /// The value of a key in a batch: a window of shared bytes, so that it can be checked.
    fn value_of<'p>(&self, pool: &'p [u8], batch: usize, key: usize) -> &'p [u8] {
        let start = (batch * 7919 + key * 104_729) % (pool.len() - self.value);
        &pool[start..start + self.value]
    }

    fn check(&self, pool: &[u8], key: usize, value: &[u8]) {
        assert_eq!(value.len(), self.value * self.batches, "key {key}");
        let mut parts = value.chunks_exact(self.value);
        let is_right = |batch| parts.next() == Some(self.value_of(pool, batch, key));
        assert!((0..self.batches).all(is_right), "key {key} has wrong bytes");
    }
}

/// Measures a side in a separate process inside the cgroup.
pub(crate) fn run(cgroup: &Cgroup, dir: &Path, case: &Case, side: Side) -> Result<Figures, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let side_number = SIDES.iter().position(|other| *other == side).unwrap_or_default();
    let numbers = [case.value, case.keys, case.batches, case.times as usize, side_number];
    let child = Command::new(this)
        .arg(CHILD)
        .arg(cgroup.path())
        .arg(dir)
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&child.stdout);
    Figures::parse(&text)
        .filter(|_| child.status.success())
        .ok_or_else(|| format!("{case}, {side}: {} ({text})", child.status))
}

/// The measured process.
pub(crate) fn child(mut arguments: impl Iterator<Item = String>) {
    let (cgroup, dir) = (arguments.next().unwrap(), arguments.next().unwrap());
    let numbers: Vec<usize> = arguments.map(|number| number.parse().unwrap()).collect();
    let [value, keys, batches, times, side] = numbers[..] else { panic!("five numbers") };
    let case = Case { value, keys, batches, times: times as u64 };
    cgroup::join(Path::new(&cgroup));
    let dir = tempfile::tempdir_in(dir).unwrap();
    let pool: Vec<u8> = (0..4_u64 << 17)
        .flat_map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i >> 7)).to_le_bytes())
        .collect();
    match SIDES[side] {
        Side::Raw => {
            let path = dir.path().join("raw");
            let rate = raw::random_reads(&path, case.bytes().min(2 << 30), value as u64, &pool);
            let get = rate / f64::from(1 << 30);
            Figures { get, append: f64::NAN, ..Figures::default() }.print();
        }
        Side::Ranges => {
            let mut ranges = Ranges::new(&dir.path().join("ranges"), keys, BUFFER_BYTES as usize);
            let meter = Meter::start();
            for batch in 0..batches {
                for key in 0..keys {
                    ranges.append(key, case.value_of(&pool, batch, key));
                }
            }
            let appended = meter.stop().0;
            read_back(&case, &pool, appended, |key| ranges.get(key));
        }
        Side::Buffer => {
            let slow = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let buffer = Buffer::new(Dict::new(), slow, BUFFER_BYTES);
            through(&case, &pool, &buffer);
        }
        Side::Log => {
            let log = SegmentLog::options().temporary_in(dir.path()).unwrap();
            through(&case, &pool, &log);
        }
    }
}

fn through<P: Partd>(case: &Case, pool: &[u8], p: &P) {
    let keys: Vec<Key> = (0..case.keys).map(|key| Key::from(("part", key))).collect();
    let meter = Meter::start();
    for number in 0..case.batches {
        let mut batch = Batch::with_capacity(case.keys);
        for (key, name) in keys.iter().enumerate() {
            batch.push(Op::Append(name.clone(), case.value_of(pool, number, key)));
        }
        p.write(&batch, Durability::Plain).unwrap();
    }
    let appended = meter.stop().0;
    read_back(case, pool, appended, |key| p.get(keys[key].clone()).unwrap());
}

/// Reads every key once, checks it and drops it; then prints the figures.
fn read_back(case: &Case, pool: &[u8], appended: Duration, get: impl Fn(usize) -> Vec<u8>) {
    let (mut time, mut read, mut faults) = (Duration::ZERO, 0, 0);
    let (mut own_mib, mut mapped_mib) = (0.0_f64, 0.0_f64);
    for key in 0..case.keys {
        let meter = Meter::start();
        let value = get(key);
        let (one, bytes, major) = meter.stop();
        (time, read, faults) = (time + one, read + bytes, faults + major);
        let (own, mapped) = memory_mib();
        (own_mib, mapped_mib) = (own_mib.max(own), mapped_mib.max(mapped));
        case.check(pool, key, &value);
    }
    let figures = Figures {
        append: rate(case.bytes(), appended),
        get: rate(case.bytes(), time),
        amplification: read as f64 / case.bytes() as f64,
        faults: faults as f64,
        own_mib,
        mapped_mib,
    };
    figures.print();
}
