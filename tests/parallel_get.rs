//! `get_many` uses two threads: a huge key is split, and many small ones are distributed.
//!
//! It has its own test binary, so that nothing runs beside it. The capability of the machine is
//! measured in the same rounds, by plain copies into vectors of the same lengths: two cores may not
//! copy twice as fast as one, and glibc sometimes returns freed memory to the kernel and sometimes
//! keeps it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use partd::{Key, Partd, SegmentLog};
// Links the engine that `testkit` has compiled already, instead of compiling it again.
use partd_testkit as _;
use rayon::prelude::*;

const ROUNDS: usize = 5;
/// The ratio must be reached in one of this many attempts.
const TRIES: usize = 6;
const MIB: usize = 1 << 20;

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Copies values of `len` bytes into vectors of their own and checksums them, as simply as
/// possible.
///
/// With many vectors, most of the time is spent by the allocator and the kernel, on the threads of
/// the same pool.
fn plain_copies(bytes: &[u8], len: usize) {
    let values: Vec<Vec<u8>> = match bytes.len() == len {
        true => {
            let mut copy = vec![0; len];
            copy.par_chunks_mut(MIB).zip(bytes.par_chunks(MIB)).for_each(|(to, from)| {
                to.copy_from_slice(from);
                black_box(crc32fast::hash(to));
            });
            vec![copy]
        }
        false => {
            let copied = |value: &[u8]| {
                let mut copy = Vec::with_capacity(len);
                copy.extend_from_slice(value);
                black_box(crc32fast::hash(&copy));
                copy
            };
            bytes.par_chunks(len).map(copied).collect()
        }
    };
    black_box(values);
}

#[test]
fn get_many_on_two_threads_is_at_least_one_and_a_half_times_as_fast_as_on_one() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: this machine has one core");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let log = SegmentLog::open(dir.path()).expect("a new store");
    let piece: Vec<u8> = (0..MIB as u64 / 8).flat_map(|i| (i * i).to_le_bytes()).collect();
    let small: Vec<Key> = (0..256_u64).map(Key::from).collect();
    for key in &small {
        log.append([(Key::from("huge"), &piece), (key.clone(), &piece)]).expect("appended");
    }
    let huge = vec![piece.clone(); 256].concat();
    let (one, two) = (pool(1), pool(2));
    for (what, keys) in
        [("one key of 256 MiB", vec![Key::from("huge")]), ("256 keys of 1 MiB", small)]
    {
        let len = huge.len() / keys.len();
        let get = || {
            let values = log.get_many(&keys).expect("readable");
            let right =
                values.iter().all(|value| value.len() == len && value[..MIB] == huge[..MIB]);
            assert!(right, "wrong bytes");
        };
        // Other load on the machine can only slow down the second core.
        let reached = (0..TRIES).any(|_| {
            let mut times: [Vec<Duration>; 4] = Default::default();
            for _ in 0..ROUNDS {
                times[0].push(one.install(|| timed(get)));
                times[1].push(two.install(|| timed(get)));
                times[2].push(one.install(|| timed(|| plain_copies(&huge, len))));
                times[3].push(two.install(|| timed(|| plain_copies(&huge, len))));
            }
            let [one, two, copy_one, copy_two] = times.map(median);
            let (ratio, limit) = (one / two, copy_one / copy_two);
            println!("{what}: two threads are {ratio:.2} x one; of plain copies, {limit:.2} x");
            ratio >= (0.85 * limit).min(1.5)
        });
        assert!(reached, "{what}: two threads gain too little in {TRIES} attempts");
    }
}
