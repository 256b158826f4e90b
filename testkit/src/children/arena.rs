//! Starts writers and readers on one directory, kills and stops them, logs what they acknowledge,
//! and counts the batches that dead writers leave pending.
//!
//! The test decides who dies and when.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partd_format::{Scanner, SegmentHeader, State};

use super::judge::Log;
use super::{Child, PATIENCE, Random, state_of, wait_for_state};

/// How many times a writer is asked for a long append before it is killed at whatever point it has
/// reached.
const TRIES: u32 = 6;

/// How the writers of an arena behave.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The longest pause between two operations of a writer, in microseconds.
    pub pause_us: u64,
    /// The filler of a long piece, in bytes.
    pub long_bytes: u64,
    /// Once in this many lives, a writer forks a child that outlives it; 0 for never.
    pub fork_every: u32,
}

/// Writers and readers on one directory.
#[derive(Debug)]
pub struct Arena {
    store: PathBuf,
    manner: Manner,
    /// The acknowledged operations.
    pub log: Arc<Log>,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
    random: Random,
    /// The forked children of dead writers, and the pipe ends that keep them alive.
    left_behind: Vec<(u32, ChildStdin)>,
    /// The process that created each segment.
    makers: HashMap<PathBuf, u32>,
    /// The delay from the start of a long append to the kill that should hit its middle, in
    /// microseconds.
    aim_us: u64,
}

#[derive(Debug)]
struct Writer {
    child: Option<Child>,
    life: u32,
    forked: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Reader {
    child: Option<Child>,
    reads: Arc<AtomicU64>,
}

impl Arena {
    /// Starts the children.
    pub fn start(store: &Path, writers: u32, readers: u32, manner: Manner, seed: u64) -> Arena {
        let mut arena = Arena {
            store: store.to_owned(),
            manner,
            log: Arc::new(Log::new(writers)),
            writers: Vec::new(),
            readers: Vec::new(),
            random: Random(seed),
            left_behind: Vec::new(),
            makers: HashMap::new(),
            aim_us: 500,
        };
        for writer in 0..writers {
            let (child, forked) = arena.new_writer(writer, 0);
            arena.writers.push(Writer { child: Some(child), life: 0, forked });
        }
        // Wait for the first appends: a read-only reader needs an existing store.
        for writer in 0..writers {
            arena.wait_for("its first append", |arena| arena.log.acked(writer) > 0);
        }
        for reader in 0..readers {
            let (child, reads) = arena.new_reader(reader);
            arena.readers.push(Reader { child: Some(child), reads });
        }
        for reader in 0..readers {
            arena.wait_for("its first read", |arena| arena.reads(reader) > 0);
        }
        arena
    }

    fn new_writer(&mut self, writer: u32, life: u32) -> (Child, Arc<AtomicU64>) {
        let Manner { pause_us, long_bytes, fork_every } = self.manner;
        let forks = fork_every > 0 && (writer + life).is_multiple_of(fork_every);
        let seed = self.random.next();
        let mut arguments = vec![self.store.display().to_string()];
        let numbers = [writer.into(), life.into(), seed, pause_us, long_bytes, forks.into()];
        arguments.extend(numbers.iter().map(u64::to_string));
        let log = Arc::clone(&self.log);
        let forked = Arc::new(AtomicU64::new(0));
        let set_forked = Arc::clone(&forked);
        let child = Child::start("writer", &arguments, move |report| {
            match report.strip_prefix("f ").map(str::parse) {
                Some(Ok(pid)) => set_forked.store(pid, Ordering::Release),
                _ => log.hear(writer, life, report),
            }
        });
        (child, forked)
    }

    fn new_reader(&mut self, reader: u32) -> (Child, Arc<AtomicU64>) {
        let reads = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&reads);
        let mut arguments = vec![self.store.display().to_string()];
        arguments.extend([self.random.next(), u64::from(reader % 2)].iter().map(u64::to_string));
        let child = Child::start("reader", &arguments, move |_| {
            count.fetch_add(1, Ordering::Release);
        });
        (child, reads)
    }

    /// The number of reads by a reader since its last start.
    pub fn reads(&self, reader: u32) -> u64 {
        self.readers[reader as usize].reads.load(Ordering::Acquire)
    }

    /// The number of writers and of readers.
    pub fn sizes(&self) -> (u32, u32) {
        (self.writers.len() as u32, self.readers.len() as u32)
    }

    /// Waits until `is_true` holds. Panics if it takes too long.
    pub fn wait_for(&mut self, what: &str, is_true: impl Fn(&Arena) -> bool) {
        let since = Instant::now();
        while !is_true(self) {
            assert!(since.elapsed() < PATIENCE, "timed out waiting for {what}");
            let writers = self.writers.iter_mut().filter_map(|writer| writer.child.as_mut());
            let readers = self.readers.iter_mut().filter_map(|reader| reader.child.as_mut());
            for child in writers.chain(readers) {
                assert!(!child.has_ended(), "a child has ended; see its output above");
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Kills a writer, counts the batches that it leaves claimed but uncommitted, and restarts it.
    /// With `in_append`, the kill comes soon after the start of a long append, ideally during it.
    pub fn kill_writer(&mut self, writer: u32, in_append: bool) -> usize {
        let i = writer as usize;
        if in_append {
            self.stop_in_append(writer);
        }
        let child = self.writers[i].child.take().expect("every writer has a child");
        let pid = child.pid();
        let input = child.kill();
        let forked = self.writers[i].forked.load(Ordering::Acquire) as u32;
        if let Some(input) = input.filter(|_| forked > 0) {
            assert!(state_of(forked).is_some(), "the forked child outlives its parent");
            self.left_behind.push((forked, input));
        }
        let pending = self.pending_batches(pid);
        let life = self.writers[i].life + 1;
        let (child, forked) = self.new_writer(writer, life);
        self.writers[i] = Writer { child: Some(child), life, forked };
        pending
    }

    /// Stops a writer in a long append. On a busy machine this takes several tries, and can fail.
    fn stop_in_append(&mut self, writer: u32) {
        for _ in 0..TRIES {
            let long = self.log.long(writer);
            if let Some(child) = &mut self.writers[writer as usize].child {
                child.say("long");
            }
            self.wait_for("a long append", |arena| arena.log.long(writer) > long);
            std::thread::sleep(Duration::from_micros(self.random.below(2 * self.aim_us + 1)));
            self.child(writer).stop();
            let pid = self.child(writer).pid();
            if self.pending_batches(pid) > 0 {
                return;
            }
            // Too late or too early: adjust the delay.
            let late = self.log.last_is_acked(writer);
            self.aim_us = if late { self.aim_us * 3 / 4 } else { self.aim_us * 4 / 3 + 10 };
            self.child(writer).go_on();
        }
    }

    /// Kills a reader and restarts it.
    pub fn kill_reader(&mut self, reader: u32) {
        let child = self.readers[reader as usize].child.take().expect("every reader has a child");
        child.kill();
        let (child, reads) = self.new_reader(reader);
        self.readers[reader as usize] = Reader { child: Some(child), reads };
    }

    /// Stops a writer, waits until every other child makes progress, then resumes it or kills it.
    /// Returns the same as [`kill_writer`](Arena::kill_writer).
    pub fn stop_writer(&mut self, writer: u32, then_kill: bool) -> usize {
        self.child(writer).stop();
        let (writers, readers) = self.sizes();
        let others: Vec<u32> = (0..writers).filter(|other| *other != writer).collect();
        let acked: Vec<u64> = others.iter().map(|other| self.log.acked(*other)).collect();
        let reads: Vec<u64> = (0..readers).map(|reader| self.reads(reader)).collect();
        self.wait_for("progress beside a stopped writer", |arena| {
            others.iter().zip(&acked).all(|(other, before)| arena.log.acked(*other) > *before)
                && (0..readers).zip(&reads).all(|(reader, before)| arena.reads(reader) > *before)
        });
        if then_kill {
            return self.kill_writer(writer, false);
        }
        self.child(writer).go_on();
        0
    }

    fn child(&self, writer: u32) -> &Child {
        self.writers[writer as usize].child.as_ref().expect("every writer has a child")
    }

    /// Counts the claimed but uncommitted batches in the segments of a dead process.
    fn pending_batches(&mut self, pid: u32) -> usize {
        let mut pending = 0;
        for entry in fs::read_dir(&self.store).expect("the store can be listed") {
            let path = entry.expect("the store can be listed").path();
            if path.extension().is_none_or(|extension| extension != "seg") {
                continue;
            }
            let maker = match self.makers.get(&path) {
                Some(maker) => *maker,
                None => match read(&path).and_then(|bytes| maker_of(&bytes)) {
                    Some(maker) => *self.makers.entry(path.clone()).or_insert(maker),
                    None => continue,
                },
            };
            if maker != pid {
                continue;
            }
            if let Some(bytes) = read(&path) {
                let found = Scanner::new(&bytes).expect("a published segment has a header");
                pending += found.filter(|found| found.state == Ok(State::Pending)).count();
            }
        }
        pending
    }

    /// Asks every child to end, and checks that none reported a failure.
    pub fn finish(mut self) -> Arc<Log> {
        let (writers, readers) = (self.writers.drain(..), self.readers.drain(..));
        let children: Vec<Child> = writers
            .filter_map(|writer| writer.child)
            .chain(readers.filter_map(|reader| reader.child))
            .collect();
        children.into_iter().for_each(Child::finish);
        self.end()
    }

    /// Kills every child, all at about the same time.
    pub fn kill_all(mut self) -> Arc<Log> {
        for reader in self.readers.drain(..) {
            reader.child.map(Child::kill);
        }
        for writer in self.writers.drain(..) {
            writer.child.map(Child::kill);
        }
        self.end()
    }

    /// The number of forked children of dead writers that hold their parent's locks.
    pub fn left_behind(&self) -> usize {
        self.left_behind.len()
    }

    fn end(&mut self) -> Arc<Log> {
        for (pid, input) in self.left_behind.drain(..) {
            drop(input);
            wait_for_state(pid, &[None, Some('Z')]);
        }
        Arc::clone(&self.log)
    }
}

/// The bytes of a segment; `None` if a compaction has replaced it meanwhile.
fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.expect("a segment can be read")),
    }
}

/// The process that created a segment.
fn maker_of(bytes: &[u8]) -> Option<u32> {
    let header = SegmentHeader::decode(bytes, bytes.len() as u64);
    Some(header.expect("a published segment has a header").pid)
}
