//! A soak test: several processes append, delete, clear, reopen, die and restart for a while, and
//! nothing grows.
//!
//! Each process owns some keys and tracks their contents, so every get is checked. A clear removes
//! the keys of all processes: it happens while no one else is at work, and is counted in a file
//! that all processes read. The parent kills a process now and then and restarts it, and samples
//! the disk usage of the store and the numbers of files and mappings that the processes report.
//! `PARTD_SOAK_SECONDS=300 cargo test --release --test processes soak:: -- --nocapture` is the long
//! run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partd::{Options, Partd, SegmentLog};

const PROCESSES: u64 = 3;
const SEGMENT: u64 = 256 << 10;
/// The approximate number of bytes that a process keeps alive.
const LIVE: usize = 2 << 20;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(SEGMENT).compaction_dead_share(0.25)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % n
    }
}

/// The open files and mappings of this process.
fn handles() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (files, maps.lines().filter(|line| line.ends_with(".seg") || line.contains(".seg ")).count())
}

/// The number of clears, shared by all processes in a locked file. A clear writes a byte before and
/// one after, which shows whether a process was killed in the middle of one.
struct Clears(std::fs::File);

impl Clears {
    fn open(store: &Path) -> Clears {
        let path = store.with_extension("clears");
        let mut options = std::fs::OpenOptions::new();
        Clears(options.read(true).append(true).create(true).open(path).unwrap())
    }

    /// Two for each clear.
    fn count(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    /// Waits until no clear is in progress, and completes the clear of a killed process.
    fn enter(&mut self, p: &SegmentLog) {
        fs2::FileExt::lock_shared(&self.0).unwrap();
        while !self.count().is_multiple_of(2) {
            fs2::FileExt::unlock(&self.0).unwrap();
            fs2::FileExt::lock_exclusive(&self.0).unwrap();
            if !self.count().is_multiple_of(2) {
                self.clear(p);
            }
            fs2::FileExt::unlock(&self.0).unwrap();
            fs2::FileExt::lock_shared(&self.0).unwrap();
        }
    }

    /// Clears the store while no one else uses it.
    fn clear(&mut self, p: &SegmentLog) {
        if self.count().is_multiple_of(2) {
            self.0.write_all(&[1]).unwrap();
        }
        p.clear().unwrap();
        assert!(p.keys().unwrap().is_empty());
        self.0.write_all(&[1]).unwrap();
    }

    /// Allows others to clear for a moment.
    fn leave(&self) {
        fs2::FileExt::unlock(&self.0).unwrap();
    }
}

/// Fails with the difference between two values.
fn assert_same(what: &str, found: &[u8], expected: &[u8]) {
    if found == expected {
        return;
    }
    let common = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    panic!(
        "{what}: {} bytes, expected {}; the first {common} are the same",
        found.len(),
        expected.len()
    );
}

/// Runs as a child: works on its own keys until the deadline, and prints its figures.
#[test]
fn child_that_soaks() {
    let Some(path) = std::env::var_os("PARTD_SOAK_STORE") else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (process, seconds) = (number("PARTD_SOAK_PROCESS"), number("PARTD_SOAK_CHILD_SECONDS"));
    let mut random = Random(number("PARTD_SOAK_SEED"));
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut clears = Clears::open(Path::new(&path));
    let mut p = options().open(&path).unwrap();
    clears.enter(&p);
    let mut cleared = clears.count();
    // The leftovers of a killed predecessor.
    p.delete((0..40).map(|key| format!("{process}/{key}"))).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut said = Instant::now() - Duration::from_secs(1);
    let mut ops = 0_u64;
    while Instant::now() < end {
        ops += 1;
        let key = format!("{process}/{}", random.below(40));
        match random.below(100) {
            0..70 => {
                let value = vec![random.below(256) as u8; random.below(8000)];
                p.append([(&key, &value)]).unwrap();
                model.entry(key).or_default().extend(value);
            }
            70..78 => {
                p.delete([&key]).unwrap();
                model.remove(&key);
            }
            78..80 => {
                let what = format!("process {process}, op {ops}, pop of {key}");
                let expected = model.remove(&key).unwrap_or_default();
                assert_same(&what, &p.pop([&key]).unwrap()[0], &expected);
            }
            80..99 => {
                let expected = model.get(&key).cloned().unwrap_or_default();
                let what = format!("process {process}, op {ops}, get of {key}");
                assert_same(&what, &p.get(&key).unwrap(), &expected);
            }
            _ => {
                // Reopen the store, or delete this process's keys or all keys.
                if random.below(4) == 0 {
                    drop(p);
                    p = options().open(&path).unwrap();
                }
                if random.below(8) == 0 {
                    p.delete(model.keys()).unwrap();
                    model.clear();
                }
                if random.below(40) == 0 {
                    clears.leave();
                    fs2::FileExt::lock_exclusive(&clears.0).unwrap();
                    clears.clear(&p);
                    clears.leave();
                    clears.enter(&p);
                }
            }
        }
        while model.values().map(Vec::len).sum::<usize>() > LIVE {
            let (key, _) = model.pop_first().unwrap();
            p.delete([&key]).unwrap();
        }
        if ops.is_multiple_of(16) {
            // Give way to processes that wait to clear.
            clears.leave();
            std::thread::sleep(Duration::from_millis(2));
            clears.enter(&p);
        }
        if clears.count() != cleared {
            cleared = clears.count();
            model.clear();
        }
        if said.elapsed() > Duration::from_millis(100) {
            let live: usize = model.values().map(Vec::len).sum();
            let (files, maps) = handles();
            println!("\nsample {live} {files} {maps} {ops}");
            std::io::stdout().flush().unwrap();
            said = Instant::now();
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    for (key, value) in &model {
        assert_same(&format!("{key} at the end"), &p.get(key).unwrap(), value);
    }
    println!("\nfinished {ops}");
}

fn disk_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap();
    // The file may have been removed.
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |m| m.blocks() * 512)).sum()
}

/// The latest report of a process: its live bytes, and the maximum numbers of files and mappings
/// over time.
#[derive(Debug, Default)]
struct Said {
    live: u64,
    /// Seconds since the start, open files, mappings.
    samples: Vec<(f64, u64, u64)>,
    ops: u64,
    lives: u64,
}

type Soaking = (Child, std::thread::JoinHandle<()>);

/// Starts a process; its reports go to `said`.
fn start(
    path: &Path,
    process: u64,
    seed: u64,
    seconds: u64,
    since: Instant,
    said: &Arc<Mutex<Said>>,
) -> Soaking {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "soak::child_that_soaks", "--nocapture"])
        .env("PARTD_SOAK_STORE", path)
        .env("PARTD_SOAK_PROCESS", process.to_string())
        .env("PARTD_SOAK_SEED", seed.to_string())
        .env("PARTD_SOAK_CHILD_SECONDS", seconds.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = Arc::clone(said);
    said.lock().unwrap().lives += 1;
    let reader = std::thread::spawn(move || {
        let mut before = 0;
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            let what = words.next();
            let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            let mut said = said.lock().unwrap();
            if let (Some("sample"), &[live, files, maps, ops]) = (what, &numbers[..]) {
                said.live = live;
                said.samples.push((since.elapsed().as_secs_f64(), files, maps));
                said.ops += ops - before;
                before = ops;
            }
        }
    });
    (child, reader)
}

#[test]
fn space_files_and_mappings_stay_bounded_while_processes_come_and_go() {
    let seconds: u64 =
        std::env::var("PARTD_SOAK_SECONDS").map_or(8, |seconds| seconds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(options().open(&path).unwrap());
    let since = Instant::now();
    let mut random = Random(7);
    let said: Vec<Arc<Mutex<Said>>> = (0..PROCESSES).map(|_| Arc::default()).collect();
    let mut children: Vec<Soaking> = (0..PROCESSES)
        .map(|process| start(&path, process, process, seconds, since, &said[process as usize]))
        .collect();
    // Live bytes and disk usage, at the same moments.
    let mut samples: Vec<(u64, u64)> = Vec::new();
    let mut next_kill = Duration::from_secs(1);
    while since.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(100));
        let live = said.iter().map(|said| said.lock().unwrap().live).sum();
        samples.push((live, disk_bytes(&path)));
        let rest = Duration::from_secs(seconds).saturating_sub(since.elapsed());
        if since.elapsed() > next_kill && rest > Duration::from_secs(2) {
            next_kill = since.elapsed() + Duration::from_millis(500 + random.below(3000) as u64);
            let process = random.below(PROCESSES as usize);
            let said = &said[process];
            let seed = 100 + samples.len() as u64;
            let (child, reader) = &mut children[process];
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "a child failed: {ended:?}");
            child.kill().unwrap();
            child.wait().unwrap();
            let again = start(&path, process as u64, seed, rest.as_secs(), since, said);
            let (_, reader) =
                (std::mem::replace(child, again.0), std::mem::replace(reader, again.1));
            reader.join().unwrap();
        }
    }
    for (mut child, reader) in children {
        assert!(child.wait().unwrap().success(), "a child failed");
        reader.join().unwrap();
    }
    // Recently live data may not be compacted yet on a busy machine.
    let (moment, mut beyond) = (50, 0);
    for (i, (_, size)) in samples.iter().enumerate() {
        let live = samples[i.saturating_sub(moment)..=i].iter().map(|(live, _)| *live).max();
        let bound = 2 * live.unwrap_or(0).max(LIVE as u64) + 16 * SEGMENT;
        beyond += usize::from(*size > bound);
        assert!(*size <= 2 * bound, "sample {i}: {size} bytes on disk, more than twice {bound}");
    }
    // Nothing throttles the appends while the compacting thread gets no processor time.
    assert!(beyond * 50 <= samples.len(), "{beyond} of {} samples", samples.len());
    let said: Vec<Said> =
        said.iter().map(|said| std::mem::take(&mut *said.lock().unwrap())).collect();
    let half = seconds as f64 / 2.0;
    let mut figures = Vec::new();
    for of in &said {
        assert!(of.ops > 100, "{} operations", of.ops);
        for figure in [|s: &(f64, u64, u64)| s.1, |s: &(f64, u64, u64)| s.2] {
            let most = |late: bool| {
                of.samples.iter().filter(|s| (s.0 >= half) == late).map(figure).max().unwrap_or(0)
            };
            let (early, late) = (most(false), most(true));
            assert!(late <= early * 3 / 2 + 32, "files or mappings grow: {early} then {late}");
            figures.push((early, late));
        }
    }
    let p = options().open(&path).unwrap();
    let stats = p.stats().unwrap();
    let mean =
        |of: fn(&(u64, u64)) -> u64| samples.iter().map(of).sum::<u64>() / samples.len() as u64;
    println!(
        "{seconds} s: {} operations of {} processes, {} clears, {} compactions; live {} on the \
         mean, on disk {} on the mean and {} at most, {beyond} of {} samples \
         beyond 2 x live and 16 segments; files and mappings of each in the first and \
         second half: {figures:?}",
        said.iter().map(|said| said.ops).sum::<u64>(),
        said.iter().map(|said| said.lives).sum::<u64>(),
        Clears::open(&path).count() / 2,
        stats.compactions,
        mean(|sample| sample.0),
        mean(|sample| sample.1),
        samples.iter().map(|sample| sample.1).max().unwrap_or(0),
        samples.len(),
    );
    assert!(stats.compactions > 0, "nothing was compacted: {stats:?}");
    p.verify().unwrap();
    // In the end everything is deleted, and all files but the open ones are removed.
    p.delete(p.keys().unwrap()).unwrap();
    p.compact().unwrap();
    let stats = p.stats().unwrap();
    assert!(stats.segments() <= 2 && stats.live_bytes == 0, "{stats:?}");
    assert!(stats.disk_bytes <= SEGMENT + 8192, "{stats:?}");
}
