//! `get_many` uses two threads: one huge key is split as well as many small ones are spread.
//!
//! Its own file, so that nothing runs beside it. A machine whose two cores cannot copy twice as much
//! as one is measured too, in the same rounds: two threads that do nothing but copy and checksum.

use std::time::{Duration, Instant};

use partd::{Key, Partd, SegmentLog};

const ROUNDS: usize = 5;
/// It must be reached in one of so many tries.
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

/// Copies the bytes into fresh memory and checksums them, on so many threads.
fn plain_copy(bytes: &[u8], threads: usize) -> Duration {
    timed(|| {
        std::thread::scope(|scope| {
            for part in bytes.chunks(bytes.len().div_ceil(threads)) {
                scope.spawn(|| {
                    let mut copy = Vec::with_capacity(part.len());
                    for piece in part.chunks(MIB / 4) {
                        copy.extend_from_slice(piece);
                        std::hint::black_box(crc32fast::hash(piece));
                    }
                    std::hint::black_box(copy);
                });
            }
        });
    })
}

#[test]
fn get_many_on_two_threads_is_one_and_a_half_times_one_thread() {
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
        let get = || {
            let values = log.get_many(&keys).expect("readable");
            let right = values
                .iter()
                .all(|value| value.len() == 256 * MIB / keys.len() && value[..MIB] == huge[..MIB]);
            assert!(right, "other bytes than were appended");
        };
        // Whatever else the machine does only takes away from the second core.
        let reached = (0..TRIES).any(|_| {
            let mut times: [Vec<Duration>; 4] = Default::default();
            for _ in 0..ROUNDS {
                times[0].push(one.install(|| timed(get)));
                times[1].push(two.install(|| timed(get)));
                times[2].push(plain_copy(&huge, 1));
                times[3].push(plain_copy(&huge, 2));
            }
            let [one, two, copy_one, copy_two] = times.map(median);
            let (ratio, limit) = (one / two, copy_one / copy_two);
            println!("{what}: two threads are {ratio:.2} x one; of plain copies, {limit:.2} x");
            ratio >= (0.9 * limit).min(1.5)
        });
        assert!(reached, "{what}: two threads are not 1.5 x one, in {TRIES} tries");
    }
}
