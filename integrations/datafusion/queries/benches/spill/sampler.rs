//! Samples the descriptors, files and memory of a process while it runs, every few
//! milliseconds, but for at most a fiftieth of the time: many files take long to count.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(10);

/// The most that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peaks {
    pub(crate) descriptors: u64,
    /// Descriptors of the run's directory and of the files in it, deleted ones included. The others
    /// are the standard streams and tokio's.
    pub(crate) spill_descriptors: u64,
    pub(crate) files: u64,
    pub(crate) anonymous_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// A thread that looks.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peaks>,
}

impl Sampler {
    /// Watches this process and the files below `dir`.
    pub(crate) fn start(dir: &Path) -> Sampler {
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, stopped) = (dir.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut peaks = Peaks::default();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                peaks.look(&dir);
                std::thread::sleep(PAUSE_MIN.max(start.elapsed() * 50));
            }
            peaks
        });
        Sampler { stop, thread }
    }

    pub(crate) fn stop(self) -> Peaks {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

impl Peaks {
    fn look(&mut self, dir: &Path) {
        let (descriptors, spill_descriptors) = descriptors(dir);
        let (files, disk_bytes) = below(dir.to_owned());
        self.descriptors = self.descriptors.max(descriptors);
        self.spill_descriptors = self.spill_descriptors.max(spill_descriptors);
        self.files = self.files.max(files);
        self.disk_bytes = self.disk_bytes.max(disk_bytes);
        self.anonymous_bytes = self.anonymous_bytes.max(status("RssAnon:"));
    }
}

/// The open descriptors of this process, without the one that lists them, and how many of them lead
/// to `dir` or below it.
fn descriptors(dir: &Path) -> (u64, u64) {
    let (mut all, mut below) = (0, 0);
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        // One may be closed meanwhile.
        let Ok(file) = fs::read_link(entry.path()) else { continue };
        all += 1;
        below += u64::from(file.starts_with(dir));
    }
    (all.max(1) - 1, below)
}

/// The files below a directory, and their disk space.
fn below(dir: PathBuf) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut files, mut bytes, mut dirs) = (0, 0, vec![dir]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            // A file may be gone meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                files += 1;
                bytes += metadata.blocks() * 512;
            }
        }
    }
    (files, bytes)
}

/// A number of bytes in `/proc/self/status`.
pub(crate) fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// The bytes of pages that this process has made dirty, for the disk.
pub(crate) fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// The load averages of the machine.
pub(crate) fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
