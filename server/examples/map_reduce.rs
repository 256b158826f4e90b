//! Counts the words of a text with worker processes that shuffle through one server.
//!
//! Each map process reads a share of the lines and appends every word to the partition of its hash,
//! in batches, through a pipeline. Each reduce process gets its partitions and counts their words.
//! The processes share only the address of the server.
//!
//! ```text
//! cargo run --release --example map_reduce -- [FILE] [MAPPERS] [REDUCERS]
//! ```

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::process::{Child, Command, ExitCode, Stdio};

use partd::{Buffer, Dict, Partd, SegmentLog};
use partd_server::{Client, Server};

const PARTITIONS: u64 = 32;
/// Lines whose words go into one batch.
const LINES_PER_BATCH: usize = 8;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The workers run this program again, with `--map` or `--reduce`.
    let result = match arguments[..] {
        ["--map", address, file, share, of] => map(address, file, share, of),
        ["--reduce", address, share, of] => reduce(address, share, of),
        [] => lead(concat!(env!("CARGO_MANIFEST_DIR"), "/WIRE.md"), "4", "2"),
        [file] => lead(file, "4", "2"),
        [file, mappers, reducers] => lead(file, mappers, reducers),
        _ => Err("usage: map_reduce [FILE] [MAPPERS] [REDUCERS]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("map_reduce: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves a store, runs the map processes, then the reduce processes, and merges their counts.
fn lead(file: &str, mappers: &str, reducers: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = SegmentLog::open(dir.path().join("store"))?;
    let store = Buffer::new(Dict::new(), log, 64 << 20);
    let server = Server::bind(store, format!("ipc://{}", dir.path().join("socket").display()))?;
    let address = server.address().as_str();

    let maps = number(mappers)?;
    let children = (0..maps)
        .map(|share| start(&["--map", address, file, &share.to_string(), mappers]))
        .collect::<Result<Vec<Child>>>()?;
    children.into_iter().try_for_each(|child| finish(child).map(|_| ()))?;

    let reduces = number(reducers)?;
    let children = (0..reduces)
        .map(|share| start(&["--reduce", address, &share.to_string(), reducers]))
        .collect::<Result<Vec<Child>>>()?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for child in children {
        for line in finish(child)?.lines() {
            let (count, word) =
                line.split_once(' ').ok_or("a reducer printed a line that is not a count")?;
            counts.insert(word.to_owned(), count.parse()?);
        }
    }
    check(file, &counts)?;
    let mut most: Vec<(&String, &u64)> = counts.iter().collect();
    most.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), *word));
    for (word, count) in most.iter().take(5) {
        println!("{count:>6} {word}");
    }
    let status = server.status();
    println!(
        "{} words, {} different; {} appends and {} gets by {} clients",
        counts.values().sum::<u64>(),
        counts.len(),
        status.writes_total,
        status.reads_total,
        status.connections_total
    );
    server.stop()?;
    Ok(())
}

/// Appends each word of this share's lines to the partition of the word.
fn map(address: &str, file: &str, share: &str, of: &str) -> Result<()> {
    let (share, of) = (number(share)?, number(of)?);
    let client = Client::connect(address)?;
    let mut pipeline = client.pipeline()?;
    let text = std::fs::read_to_string(file)?;
    let own: Vec<&str> = text.lines().skip(share).step_by(of).collect();
    for lines in own.chunks(LINES_PER_BATCH) {
        let mut partitions: BTreeMap<u64, String> = BTreeMap::new();
        for word in lines.iter().flat_map(|line| words(line)) {
            let words = partitions.entry(partition(word)).or_default();
            words.push_str(word);
            words.push('\n');
        }
        pipeline.append(partitions.iter().map(|(p, words)| (("words", *p), words)))?;
    }
    Ok(pipeline.flush()?)
}

/// Counts and prints the words of this share's partitions.
fn reduce(address: &str, share: &str, of: &str) -> Result<()> {
    let (share, of) = (number(share)?, number(of)?);
    let client = Client::connect(address)?;
    let own: Vec<u64> = (0..PARTITIONS).skip(share).step_by(of).collect();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for value in client.get_many(own.iter().map(|p| ("words", *p)))? {
        for word in std::str::from_utf8(&value)?.lines() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    counts.iter().for_each(|(word, count)| println!("{count} {word}"));
    Ok(())
}

/// Compares the counts with those that this process makes from the file.
fn check(file: &str, counts: &BTreeMap<String, u64>) -> Result<()> {
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for word in std::fs::read_to_string(file)?.lines().flat_map(words) {
        *expected.entry(word.to_owned()).or_default() += 1;
    }
    match *counts == expected {
        true => Ok(()),
        false => Err("the counts differ from those of the file".into()),
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn partition(word: &str) -> u64 {
    word.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte)) % PARTITIONS
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| format!("{text:?} is not a number").into())
}

fn start(arguments: &[&str]) -> Result<Child> {
    let child = Command::new(env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?;
    Ok(child)
}

fn finish(child: Child) -> Result<String> {
    let out = child.wait_with_output()?;
    match out.status.success() {
        true => Ok(String::from_utf8(out.stdout)?),
        false => Err(format!("a worker failed: {}", out.status).into()),
    }
}
