//! Rates by the size of the store and by the number of keys.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Bench;
use crate::child::{Outcome, Run};
use crate::curve::Curve;
use crate::engine::{ENTRIES, Entry};
use crate::python::Python;
use crate::samples::rate;
use crate::workload::{Workload, thousands};

const ENGINES: [&str; 3] = ["segment-log", "buffer", "ranges"];
const NAMES: [&str; 3] = ["SegmentLog", "Buffer", "ranges"];
const TIMEOUT: Duration = Duration::from_secs(600);
/// Larger stores are filled and read once.
pub(super) const ONCE_ABOVE_BYTES: u64 = 8 << 30;

/// Append and get of 4 KiB values of 256 keys, from 10 MiB to the largest store asked for.
pub(crate) fn sizes(bench: &Bench<'_>) -> Result<[Curve; 2]> {
    let most = bench.asked.scaled(bench.asked.disk << 10);
    let all = [10, 100, 1 << 10, 4 << 10, 20 << 10, most];
    let mut mib: Vec<u64> = all.into_iter().filter(|mib| *mib <= most).collect();
    mib.sort_unstable();
    mib.dedup();
    let xs = mib.iter().map(|mib| match mib {
        mib if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    });
    let workload = |mib: &u64| Workload::new(4096, 256, *mib as usize);
    let workloads: Vec<Workload> = mib.iter().map(workload).collect();
    measure(bench, "4 KiB × 256 keys", ("size", xs.collect()), &workloads)
}

/// Append and get of 256 B values, 4096 in an append, of 10 to 10⁶ keys.
pub(crate) fn keys(bench: &Bench<'_>) -> Result<[Curve; 2]> {
    let values = bench.asked.scaled(512 << 20) as usize / 256;
    let keys: Vec<usize> =
        (1..=6).map(|power| 10_usize.pow(power)).filter(|keys| *keys <= values).collect();
    let workload =
        |&keys: &usize| Workload { value: 256, keys, batches: values / keys, call: 4096 };
    let workloads: Vec<Workload> = keys.iter().map(workload).collect();
    let xs = keys.iter().map(|&keys| thousands(keys)).collect();
    let title = format!("256 B, {} MiB", (values * 256) >> 20);
    measure(bench, &title, ("keys", xs), &workloads)
}

fn measure(
    bench: &Bench<'_>,
    title: &str,
    (x, xs): (&'static str, Vec<String>),
    workloads: &[Workload],
) -> Result<[Curve; 2]> {
    let threads = std::thread::available_parallelism()?.get();
    let curve = |what: &str| {
        Curve::new(&format!("{what}, {title}, over {x}"), (x, xs.clone()), "GiB/s", &NAMES)
    };
    let mut curves = [curve("Append"), curve("Get")];
    let is_one = |slug: &&str| ENTRIES.iter().find(|entry| entry.slug == *slug);
    let entries: Vec<&Entry> = ENGINES.iter().filter_map(is_one).collect();
    for (i, &workload) in workloads.iter().enumerate() {
        let expected = workload.expected(bench.pool);
        let run = Run {
            workload,
            expected: &expected,
            base: bench.base,
            pool: bench.pool_path,
            timeout: TIMEOUT,
        };
        let rounds = if workload.bytes() > ONCE_ABOVE_BYTES { 1 } else { bench.asked.rounds };
        for round in 0..rounds {
            eprintln!("{title}, {} {x}, round {}", xs[i], round + 1);
            for (number, entry) in entries.iter().enumerate() {
                let Outcome::Measured(times) = run.measure(entry, threads, &Python::none())? else {
                    bail!("{} is not measured with {}", entry.slug, workload.name())
                };
                let bytes = workload.bytes();
                let [append, get] = &mut curves;
                append.series[number].points[i].push(rate(bytes, times.append));
                let time = times.get.unwrap_or_default();
                get.series[number].points[i].push(rate(bytes, time));
            }
        }
    }
    Ok(curves)
}
