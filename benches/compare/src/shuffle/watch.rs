//! Runs a process and watches its memory and its descriptors.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

const PAUSE: Duration = Duration::from_millis(10);

/// The time of a process and its peaks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) time: Duration,
    /// Anonymous pages.
    pub(crate) own_mib: f64,
    /// All resident pages, with those of mapped files.
    pub(crate) resident_mib: f64,
    pub(crate) descriptors: f64,
}

/// Runs a command to its end; a failure is an error with what the process said.
pub(crate) fn run(mut command: Command) -> Result<Seen> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut pipe = child.stderr.take().context("a pipe")?;
    let errors = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let folder = format!("/proc/{}", child.id());
    let mut seen = Seen::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // The process may have ended in between.
        let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(0.0) / 1024.0
        };
        seen.own_mib = seen.own_mib.max(mib("RssAnon:"));
        seen.resident_mib = seen.resident_mib.max(mib("VmRSS:"));
        let descriptors = fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count);
        seen.descriptors = seen.descriptors.max(descriptors as f64);
        thread::sleep(PAUSE);
    };
    seen.time = start.elapsed();
    let errors = errors.join().map_err(|_| anyhow!("a thread has panicked"))??;
    ensure!(status.success(), "{status}: {}", errors.trim());
    Ok(seen)
}
