//! A soak: several processes append, delete, clear and reopen for a while, and nothing grows.
//!
//! Each process owns some keys and knows what they must hold, so every get is checked. The parent
//! samples the disk space of the store and what the processes say of their files and mappings.
//! `PARTD_SOAK_SECONDS=300 cargo test --release --test soak -- --nocapture` runs it for longer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use partd::{Options, Partd, SegmentLog};

const PROCESSES: u64 = 3;
const SEGMENT: u64 = 256 << 10;
/// The bytes that a process keeps alive, about.
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

/// Open files and mappings of this process.
fn handles() -> (usize, usize) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (files, maps.lines().filter(|line| line.ends_with(".seg") || line.contains(".seg ")).count())
}

/// Run as a child: works on its own keys until the deadline, and prints its figures.
#[test]
fn child_that_soaks() {
    let Some(path) = std::env::var_os("PARTD_SOAK_STORE") else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (process, seconds) = (number("PARTD_SOAK_PROCESS"), number("PARTD_SOAK_CHILD_SECONDS"));
    let mut random = Random(process + 1);
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut p = options().open(&path).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut said = Instant::now();
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
                assert!(p.pop([&key]).unwrap() == [model.remove(&key).unwrap_or_default()]);
            }
            80..99 => {
                let expected = model.get(&key).cloned().unwrap_or_default();
                assert!(p.get(&key).unwrap() == expected, "process {process}, op {ops}, {key}");
            }
            _ => {
                // Reopening, and everything that is this process's is gone.
                if random.below(4) == 0 {
                    drop(p);
                    p = options().open(&path).unwrap();
                }
                if random.below(8) == 0 {
                    p.delete(model.keys()).unwrap();
                    model.clear();
                }
            }
        }
        while model.values().map(Vec::len).sum::<usize>() > LIVE {
            let (key, _) = model.pop_first().unwrap();
            p.delete([&key]).unwrap();
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
        assert!(p.get(key).unwrap() == *value, "{key} at the end");
    }
    println!("\nfinished {ops}");
}

fn disk_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap();
    // A file may be gone by now.
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |m| m.blocks() * 512)).sum()
}

#[test]
fn space_files_and_mappings_stay_bounded_while_processes_come_and_go() {
    let seconds: u64 =
        std::env::var("PARTD_SOAK_SECONDS").map_or(6, |seconds| seconds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(options().open(&path).unwrap());
    let children: Vec<Child> = (0..PROCESSES)
        .map(|process| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_soaks", "--nocapture"])
                .env("PARTD_SOAK_STORE", &path)
                .env("PARTD_SOAK_PROCESS", process.to_string())
                .env("PARTD_SOAK_CHILD_SECONDS", seconds.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let readers: Vec<_> = children
        .into_iter()
        .map(|mut child| {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            std::thread::spawn(move || {
                let (mut samples, mut ops) = (Vec::new(), None);
                for line in lines.map(Result::unwrap) {
                    let words: Vec<&str> = line.split(' ').collect();
                    let numbers = || words[1..].iter().map(|word| word.parse::<u64>().unwrap());
                    match words[0] {
                        "sample" => samples.push(numbers().collect::<Vec<u64>>()),
                        "finished" => ops = numbers().next(),
                        _ => {}
                    }
                }
                assert!(child.wait().unwrap().success(), "a child failed");
                (samples, ops.expect("a child that finished says so"))
            })
        })
        .collect();
    let start = Instant::now();
    let mut sizes = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(100));
        sizes.push(disk_bytes(&path));
    }
    let results: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let live: u64 = PROCESSES * LIVE as u64;
    // While a compaction runs, its output lies beside what it replaces.
    let bound = 2 * live + 16 * SEGMENT;
    let largest = sizes.iter().copied().max().unwrap();
    for (samples, ops) in &results {
        assert!(*ops > 100, "{ops} operations");
        let (early, late) = samples.split_at(samples.len() / 2);
        for figure in [1, 2] {
            let most =
                |half: &[Vec<u64>]| half.iter().map(|sample| sample[figure]).max().unwrap_or(0);
            assert!(
                most(late) <= most(early) * 3 / 2 + 32,
                "figure {figure} grows: {} then {}",
                most(early),
                most(late)
            );
        }
    }
    let p = options().open(&path).unwrap();
    let stats = p.stats().unwrap();
    println!(
        "{seconds} s: {} operations, {} compactions, largest store {largest} bytes of {bound}, \
         live at most {live}, most files {:?}, most mappings {:?}",
        results.iter().map(|(_, ops)| ops).sum::<u64>(),
        stats.compactions,
        results.iter().flat_map(|(s, _)| s.iter().map(|s| s[1])).max(),
        results.iter().flat_map(|(s, _)| s.iter().map(|s| s[2])).max(),
    );
    assert!(stats.compactions > 0, "nothing was compacted: {stats:?}");
    assert!(largest <= bound, "the store took {largest} bytes, more than {bound}");
    p.verify().unwrap();
}
