//! One measured process: runs one workload through one store.

use std::fmt;
use std::io::Read;
use std::ops::Range;
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
    /// Several keys in one call, as many as fit into a fourth of the memory.
    Many,
    /// A key as a stream.
    Stream,
    /// Record batches, lent one at a time.
    #[cfg(feature = "arrow")]
    Arrow,
}

const SIDES: &[Side] = &[
    Side::Raw,
    Side::Ranges,
    Side::Buffer,
    Side::Log,
    Side::Many,
    Side::Stream,
    #[cfg(feature = "arrow")]
    Side::Arrow,
];

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Raw => "disk",
            Side::Ranges => "ranges",
            Side::Buffer => "Buffer",
            Side::Log => "SegmentLog",
            Side::Many => "get_many",
            Side::Stream => "reader",
            #[cfg(feature = "arrow")]
            Side::Arrow => "Arrow",
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
        write!(f, "{value} B × {keys} keys, {times} × the memory")
    }
}

impl Case {
    /// Every workload, at each multiple of the memory limit.
    pub(crate) fn all(limit: u64, times: &[u64]) -> Vec<Case> {
        let shapes =
            [(4096, 256), (4096, 1024), (64 << 10, 64), (64 << 10, 1), (16, 64), (16, 1024)];
        let case = |times: u64, (value, keys): (usize, usize)| {
            let batches = (limit * times / (value * keys) as u64).max(1) as usize;
            Case { value, keys, batches, times }
        };
        shapes.iter().flat_map(|shape| times.iter().map(|times| case(*times, *shape))).collect()
    }

    /// The sides for which the workload makes sense. A record of 16 bytes is smaller than its index
    /// entry, and a single key is larger than the memory.
    pub(crate) fn sides(&self) -> impl Iterator<Item = Side> + use<> {
        let Case { value, keys, .. } = *self;
        let makes_sense = move |side: &Side| match side {
            Side::Ranges => true,
            Side::Buffer => keys > 1,
            Side::Raw | Side::Log | Side::Many => value >= 1024 && keys > 1,
            Side::Stream => keys == 1,
            #[cfg(feature = "arrow")]
            Side::Arrow => value >= 64 << 10,
        };
        SIDES.iter().copied().filter(makes_sense)
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

    /// The bytes of a key.
    fn key_bytes(&self) -> usize {
        self.value * self.batches
    }

    fn check(&self, pool: &[u8], key: usize, value: &[u8]) {
        let mut checked = Checked { case: self, pool, key, at: 0 };
        checked.add(value);
        checked.finish();
    }
}

/// The part of a key's value that was compared so far.
struct Checked<'a> {
    case: &'a Case,
    pool: &'a [u8],
    key: usize,
    at: usize,
}

impl Checked<'_> {
    fn add(&mut self, mut bytes: &[u8]) {
        let Checked { case, pool, key, .. } = *self;
        while !bytes.is_empty() {
            let (batch, within) = (self.at / case.value, self.at % case.value);
            assert!(batch < case.batches, "key {key} is too long");
            let expected = &case.value_of(pool, batch, key)[within..];
            let (part, rest) = bytes.split_at(expected.len().min(bytes.len()));
            assert!(part == &expected[..part.len()], "key {key} has wrong bytes in batch {batch}");
            self.at += part.len();
            bytes = rest;
        }
    }

    fn finish(&self) {
        assert_eq!(self.at, self.case.key_bytes(), "key {}", self.key);
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
            Figures { get: rate / f64::from(1 << 30), ..Figures::NONE }.print();
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
            if keys > 1 {
                return read_back(&case, &pool, appended, |key| ranges.get(key));
            }
            in_pieces(&case, &pool, appended, |found| ranges.each(0, found));
        }
        Side::Buffer => {
            let slow = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let p = Buffer::new(Dict::new(), slow, BUFFER_BYTES);
            let (keys, mut appended) = (case.names(), append(&case, &pool, &p));
            if case.key_bytes() as u64 > case.bytes() / case.times / 3 {
                // A value and a full buffer do not fit in memory together.
                let meter = Meter::start();
                p.flush().unwrap();
                appended += meter.stop().0;
            }
            read_back(&case, &pool, appended, |key| p.get(keys[key].clone()).unwrap());
        }
        Side::Log => {
            let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let (keys, appended) = (case.names(), append(&case, &pool, &p));
            read_back(&case, &pool, appended, |key| p.get(keys[key].clone()).unwrap());
        }
        Side::Many => {
            let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let (keys, appended) = (case.names(), append(&case, &pool, &p));
            many_at_once(&case, &pool, appended, |group| p.read(&keys[group]).unwrap());
        }
        Side::Stream => {
            let p = SegmentLog::options().temporary_in(dir.path()).unwrap();
            let (keys, appended) = (case.names(), append(&case, &pool, &p));
            in_pieces(&case, &pool, appended, |found| {
                let mut reader = p.reader(keys[0].clone()).unwrap();
                let mut piece = vec![0; 1 << 20];
                loop {
                    match reader.read(&mut piece).unwrap() {
                        0 => break,
                        len => found(&piece[..len]),
                    }
                }
            });
        }
        #[cfg(feature = "arrow")]
        Side::Arrow => arrow::run(&case, &pool, dir.path()),
    }
}

impl Case {
    fn names(&self) -> Vec<Key> {
        (0..self.keys).map(|key| Key::from(("part", key))).collect()
    }
}

/// Appends all values, and returns the time it took.
fn append<P: Partd>(case: &Case, pool: &[u8], p: &P) -> Duration {
    let keys = case.names();
    let meter = Meter::start();
    for number in 0..case.batches {
        let mut batch = Batch::with_capacity(case.keys);
        for (key, name) in keys.iter().enumerate() {
            batch.push(Op::Append(name.clone(), case.value_of(pool, number, key)));
        }
        p.write(&batch, Durability::Plain).unwrap();
    }
    meter.stop().0
}

/// Reads every key once, checks it and drops it; then prints the figures.
fn read_back(case: &Case, pool: &[u8], appended: Duration, get: impl Fn(usize) -> Vec<u8>) {
    let mut reading = Reading::default();
    for key in 0..case.keys {
        let value = reading.measure(|| get(key));
        case.check(pool, key, &value);
    }
    reading.print(case, appended);
}

/// Reads groups of keys, each in one call.
fn many_at_once(
    case: &Case,
    pool: &[u8],
    appended: Duration,
    get: impl Fn(Range<usize>) -> Vec<Vec<u8>>,
) {
    let memory = (case.bytes() / case.times) as usize;
    let group = (memory / 4 / case.key_bytes()).max(1);
    let mut reading = Reading::default();
    for first in (0..case.keys).step_by(group) {
        let keys = first..case.keys.min(first + group);
        let values = reading.measure(|| get(keys.clone()));
        assert_eq!(values.len(), keys.len());
        keys.zip(values).for_each(|(key, value)| case.check(pool, key, &value));
    }
    reading.print(case, appended);
}

/// Reads the only key in pieces. The comparison is part of the time.
fn in_pieces(
    case: &Case,
    pool: &[u8],
    appended: Duration,
    read: impl FnOnce(&mut dyn FnMut(&[u8])),
) {
    let mut reading = Reading::default();
    let mut checked = Checked { case, pool, key: 0, at: 0 };
    let mut most = (0.0_f64, 0.0_f64);
    reading.measure(|| {
        let mut pieces = 0;
        read(&mut |piece| {
            checked.add(piece);
            pieces += 1;
            if pieces % 256 == 0 {
                let (own, mapped) = memory_mib();
                most = (most.0.max(own), most.1.max(mapped));
            }
        });
    });
    checked.finish();
    reading.own_mib = reading.own_mib.max(most.0);
    reading.mapped_mib = reading.mapped_mib.max(most.1);
    reading.print(case, appended);
}

/// The time, memory and disk reads of the reads of a process.
#[derive(Default)]
struct Reading {
    time: Duration,
    read: u64,
    faults: u64,
    own_mib: f64,
    mapped_mib: f64,
}

impl Reading {
    fn measure<T>(&mut self, read: impl FnOnce() -> T) -> T {
        let meter = Meter::start();
        let found = read();
        let (time, read, faults) = meter.stop();
        self.time += time;
        self.read += read;
        self.faults += faults;
        let (own, mapped) = memory_mib();
        self.own_mib = self.own_mib.max(own);
        self.mapped_mib = self.mapped_mib.max(mapped);
        found
    }

    fn print(&self, case: &Case, appended: Duration) {
        let figures = Figures {
            append: rate(case.bytes(), appended),
            get: rate(case.bytes(), self.time),
            amplification: self.read as f64 / case.bytes() as f64,
            faults: self.faults as f64,
            own_mib: self.own_mib,
            mapped_mib: self.mapped_mib,
        };
        figures.print();
    }
}

/// Record batches of one column of integers, whose bytes are the values of the workload.
#[cfg(feature = "arrow")]
mod arrow {
    use std::path::Path;
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use partd::{Arrow, SegmentLog};

    use super::{Case, Checked, Meter, Reading};

    fn rows(value: &[u8]) -> RecordBatch {
        let numbers = value.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    /// Appends and reads back. Making the batches and comparing the rows are part of the time.
    pub(super) fn run(case: &Case, pool: &[u8], dir: &Path) {
        let p = Arrow::new(SegmentLog::options().temporary_in(dir).unwrap());
        let keys = case.names();
        let meter = Meter::start();
        for number in 0..case.batches {
            let values = (0..case.keys).map(|key| rows(case.value_of(pool, number, key)));
            p.append(keys.iter().cloned().zip(values)).unwrap();
        }
        let appended = meter.stop().0;
        let mut reading = Reading::default();
        for (key, name) in keys.iter().enumerate() {
            let mut checked = Checked { case, pool, key, at: 0 };
            reading.measure(|| {
                for batch in p.lend_batches(name.clone()).unwrap() {
                    let batch = batch.unwrap();
                    let column = batch.column(0).as_primitive::<Int64Type>();
                    checked.add(column.values().inner());
                }
            });
            checked.finish();
        }
        reading.print(case, appended);
    }
}
