//! One run: an engine in a fresh process and a fresh directory, and what it reports.
//!
//! The child prints its seconds, then the length and checksum of every value that it has read back.
//! It computes these after the clock has stopped, and the parent compares them with its own.

use std::fmt;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::engine::{ENTRIES, Entry, Setup, Start};
use crate::python::Python;
use crate::workload::{Digest, Workload, read_pool};

/// The argument that makes this program a child.
pub(crate) const CHILD: &str = "child";
/// The exit code of an engine that does not support the workload.
const UNSUPPORTED: u8 = 3;
/// The bytes that one call may return.
const GROUP_BYTES: usize = 2 << 30;

/// The reason why an engine does not support a workload.
#[derive(Debug)]
pub(crate) struct Unsupported(pub(crate) String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

/// The times of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) append: Duration,
    pub(crate) get: Option<Duration>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Measured(Times),
    /// The engine does not support the workload, or is not installed.
    Unsupported(String),
    /// It was stopped after this time.
    TooSlow(Duration),
}

/// The parts that all runs of a workload share.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) workload: Workload,
    pub(crate) expected: &'a [Digest],
    /// Where the runs have their directories.
    pub(crate) base: &'a Path,
    pub(crate) pool: &'a Path,
    pub(crate) timeout: Duration,
}

impl Run<'_> {
    /// Measures an engine once. A value that differs is an error.
    pub(crate) fn measure(
        &self,
        entry: &Entry,
        threads: usize,
        python: &Python,
    ) -> Result<Outcome> {
        let dir = tempfile::Builder::new().prefix(entry.slug).tempdir_in(self.base)?;
        let Workload { value, keys, batches, call } = self.workload;
        let mut command = match entry.start {
            Start::Missing(why) => return Ok(Outcome::Unsupported(why.to_owned())),
            Start::Python(which) => match python.command("engine.py") {
                Ok(mut command) => {
                    command.arg(which);
                    command
                }
                Err(why) => return Ok(Outcome::Unsupported(why)),
            },
            Start::Rust(_) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([CHILD, entry.slug]);
                command
            }
        };
        command.arg(dir.path()).arg(self.pool);
        command.args([value, keys, batches, call, threads].map(|number| number.to_string()));
        // Stores that start threads by themselves get the same number.
        command.env("RAYON_NUM_THREADS", threads.to_string());
        let finished = finish(command, self.timeout)?;
        dir.close().context("cannot remove the directory of a run")?;
        let Some((code, out, err)) = finished else { return Ok(Outcome::TooSlow(self.timeout)) };
        if code == Some(i32::from(UNSUPPORTED)) {
            return Ok(Outcome::Unsupported(err.trim().to_owned()));
        }
        let at = || format!("{}, {}", entry.slug, self.workload.name());
        ensure!(code == Some(0), "{}: {}", at(), err.trim());
        let (times, digests) = parse(&out).with_context(|| format!("{}: {err}", at()))?;
        ensure!(times.get.is_some() == entry.reads, "{}: reads and does not, or reverse", at());
        if entry.reads {
            ensure!(digests.len() == keys, "{}: {} values of {keys}", at(), digests.len());
            let wrong = digests.iter().zip(self.expected).position(|(is, must)| is != must);
            if let Some(key) = wrong {
                let (is, must) = (digests[key], self.expected[key]);
                bail!("{}: key {key} has the bytes {is:?}, not {must:?}", at());
            }
        }
        Ok(Outcome::Measured(times))
    }
}

/// Runs a command to its end and returns its exit code and output; `None` if it was stopped.
fn finish(
    mut command: Command,
    timeout: Duration,
) -> Result<Option<(Option<i32>, String, String)>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let errors = thread::spawn(move || {
        let mut text = String::new();
        err.as_mut().map(|err| err.read_to_string(&mut text)).transpose().map(|_| text)
    });
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let read = out.as_mut().map(|out| out.read_to_string(&mut text)).transpose();
        // The receiver is gone if the child was stopped.
        let _ = sender.send(read.map(|_| text));
    });
    let text = receiver.recv_timeout(timeout);
    if text.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let join = |_| anyhow!("a thread that reads a child's output has panicked");
    reader.join().map_err(join)?;
    let errors = errors.join().map_err(join)??;
    match text {
        Ok(text) => Ok(Some((status.code(), text?, errors))),
        Err(_) => Ok(None),
    }
}

/// Parses the output of a child.
fn parse(text: &str) -> Result<(Times, Vec<Digest>)> {
    let mut lines = text.lines();
    let first = lines.next().context("a child has printed nothing")?;
    let (append, get) = first.split_once(' ').context("two times")?;
    let seconds =
        |text: &str| -> Result<Duration> { Ok(Duration::try_from_secs_f64(text.parse()?)?) };
    let get = if get == "-" { None } else { Some(seconds(get)?) };
    let digest = |line: &str| -> Result<Digest> {
        let (len, crc) = line.split_once(' ').context("a length and a checksum")?;
        Ok(Digest { len: len.parse()?, crc: crc.parse()? })
    };
    Ok((Times { append: seconds(append)?, get }, lines.map(digest).collect::<Result<_>>()?))
}

/// The child's `main`.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let is_unsupported = error.is::<Unsupported>();
            if is_unsupported { ExitCode::from(UNSUPPORTED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [slug, dir, pool, numbers @ ..] = arguments else { bail!("too few arguments") };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [value, keys, batches, call, threads] = numbers[..] else { bail!("five numbers") };
    let workload = Workload { value, keys, batches, call };
    let pool = read_pool(Path::new(pool))?;
    let entry = ENTRIES.iter().find(|entry| entry.slug == slug);
    let Some(Entry { start: Start::Rust(open), reads, .. }) = entry else { bail!("no {slug}") };
    let readers = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut engine = open(&Setup { dir: Path::new(dir), workload })?;

    let start = Instant::now();
    let mut pieces = Vec::with_capacity(call);
    for call in 0..workload.calls() {
        workload.pieces(&pool, call, &mut pieces);
        engine.append(&pieces)?;
    }
    let append = start.elapsed().as_secs_f64();
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !reads {
        writeln!(out, "{append} -")?;
        return Ok(out.flush()?);
    }

    // Values that do not fit into memory together are read in parts.
    let group = (GROUP_BYTES / (value * batches)).clamp(1, keys);
    let mut digests = Vec::with_capacity(keys);
    let mut get = Duration::ZERO;
    for first in (0..keys).step_by(group) {
        let start = Instant::now();
        if first == 0 {
            engine.finish_appends()?;
        }
        let values = readers.install(|| engine.get_many(first..keys.min(first + group)))?;
        get += start.elapsed();
        digests.extend(values.iter().map(|value| Digest::of(value)));
    }

    writeln!(out, "{append} {}", get.as_secs_f64())?;
    for Digest { len, crc } in digests {
        writeln!(out, "{len} {crc}")?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::create_pool;

    #[test]
    fn every_engine_returns_the_bytes_that_were_appended() {
        let dir = tempfile::tempdir().unwrap();
        let pool = create_pool(&dir.path().join("pool")).unwrap();
        // The second needs several segments, and makes *ranges* and `Buffer` spill.
        for workload in [Workload::new(100, 30, 7), Workload::new(1 << 20, 3, 75)] {
            let expected = workload.expected(&pool);
            for entry in ENTRIES {
                let Start::Rust(open) = entry.start else { continue };
                let dir = tempfile::tempdir().unwrap();
                let mut engine = open(&Setup { dir: dir.path(), workload }).unwrap();
                let mut pieces = Vec::new();
                for call in 0..workload.calls() {
                    workload.pieces(&pool, call, &mut pieces);
                    engine.append(&pieces).unwrap();
                }
                if !entry.reads {
                    continue;
                }
                engine.finish_appends().unwrap();
                let values = engine.get_many(0..workload.keys).unwrap();
                let digests: Vec<Digest> = values.iter().map(|value| Digest::of(value)).collect();
                assert_eq!(digests, expected, "{}", entry.slug);
            }
        }
    }

    #[test]
    fn a_childs_output_is_parsed_and_a_command_that_does_not_end_is_stopped() {
        let (times, digests) = parse("0.5 1.25\n7 9\n0 0\n").unwrap();
        assert_eq!(times.append, Duration::from_millis(500));
        assert_eq!(times.get, Some(Duration::from_millis(1250)));
        assert_eq!(digests, [Digest { len: 7, crc: 9 }, Digest { len: 0, crc: 0 }]);
        assert!(parse("0.5 -\n").unwrap().0.get.is_none());
        assert!(parse("").is_err());
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        assert!(finish(sleep, Duration::from_millis(50)).unwrap().is_none());
    }
}
