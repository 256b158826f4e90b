//! Child processes of a test: the test program started again in a role, with a pipe in each
//! direction.
//!
//! A test binary that uses them has an ignored test `child` that calls [`roles::play`]. The parent
//! starts its own program with that one test. A child reports by writing lines that begin with `@`
//! to its standard output. It ends when its standard input ends, and dies with the thread that
//! started it. Reports written before a `kill -9` are in the pipe and are read; a line cut short by
//! the death is ignored.
//!
//! This file does not depend on what the children do ([`roles`]) or on what is correct ([`judge`]).

pub mod arena;
pub mod fork;
pub mod judge;
pub mod pieces;
pub mod roles;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The timeout for anything that must happen, on a machine that may be busy with other work.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable that names the role of a child. Its arguments are in further variables.
const ROLE: &str = "PARTD_TEST_ROLE";
const ARGUMENTS: &str = "PARTD_TEST_ARGUMENTS";

/// How to start a child.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The program; the current one if unset.
    pub program: Option<PathBuf>,
    /// The user and group to run as; those of the test if unset.
    pub user: Option<u32>,
}

/// A running child process.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts a child in a role. `heard` receives its reports, line by line, until it ends.
    pub fn start(
        role: &str,
        arguments: &[String],
        heard: impl FnMut(&str) + Send + 'static,
    ) -> Child {
        Child::start_as(&Start::default(), role, arguments, heard)
    }

    /// Like [`start`](Child::start), with another program or another user.
    pub fn start_as(
        start: &Start,
        role: &str,
        arguments: &[String],
        mut heard: impl FnMut(&str) + Send + 'static,
    ) -> Child {
        let own = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(start.program.as_ref().unwrap_or(&own));
        command
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments.join("\n"))
            .env("RUST_TEST_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(id) = start.user {
            command.uid(id).gid(id).current_dir("/");
        }
        let mut process = loop {
            match command.spawn() {
                // The program file is a fresh copy. A child that another thread has just forked
                // still has it open for writing, until that child calls exec.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
                spawned => break spawned.expect("the test program can be started again"),
            }
        };
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("the pipe was requested");
        let reader = thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|len| len > 0) {
                // Lines that are not reports come from the child's test harness. A line without an
                // end was cut short by its death.
                if let Some((_, report)) = line.split_once('@')
                    && let Some(report) = report.strip_suffix('\n')
                {
                    heard(report);
                }
                line.clear();
            }
        });
        Child { process, stdin, reader: Some(reader) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        // The child is not reaped yet, so the process id is still its own.
        kill_process(pid, signal).expect("a child can be sent a signal");
    }

    /// Sends a line to the child.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the pipe was requested");
        // A dead child cannot be written to; the next wait for it notices the death.
        let _ = stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
    }

    /// Stops the child; returns once it is stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        wait_for_state(self.pid(), &[Some('T'), Some('Z')]);
    }

    /// Resumes the child.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the child at an arbitrary instruction; returns when it is dead and all its reports
    /// were handled. The returned pipe end keeps the standard input of the child's own children
    /// open.
    pub fn kill(mut self) -> Option<ChildStdin> {
        self.signal(Signal::KILL);
        let status = self.process.wait().expect("a child can be waited for");
        assert_eq!(status.signal(), Some(9), "the child ended by itself before it was killed");
        self.join();
        self.stdin.take()
    }

    /// Asks the child to end, waits for it, and checks that it reported no failure.
    pub fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.wait();
        assert!(status.success(), "a child ended with {status}; see its output above");
    }

    /// Waits until the child has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("a child can be waited for") {
                self.join();
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "a child does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the child has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("a child can be waited for").is_some()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reports are handled");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A failing test leaves no process running. Both calls do nothing to a child that has
        // ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a child whose reports arrive through a channel.
pub fn start_with_channel(
    start: &Start,
    role: &str,
    arguments: &[String],
) -> (Child, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel();
    // If the receiver is gone, the test is about to end.
    let heard = move |report: &str| drop(sender.send(report.to_owned()));
    (Child::start_as(start, role, arguments, heard), receiver)
}

/// The state letter of a process in /proc; `None` if the process is gone.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it can contain anything, even a parenthesis.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until a process is in one of the given states; `None` means that it is gone.
pub fn wait_for_state(pid: u32, states: &[Option<char>]) {
    let since = Instant::now();
    while !states.contains(&state_of(pid)) {
        assert!(since.elapsed() < PATIENCE, "process {pid} stays {:?}", state_of(pid));
        thread::sleep(Duration::from_micros(200));
    }
}

/// In a child: sends a report to the parent.
pub fn report(report: &str) {
    let mut out = std::io::stdout().lock();
    let line = format!("@{report}\n");
    // The parent may be gone.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// In a child: its role and its arguments; `None` if this process is not a child.
fn own_role() -> Option<(String, Vec<String>)> {
    let role = std::env::var(ROLE).ok()?;
    let arguments = std::env::var(ARGUMENTS).unwrap_or_default();
    Some((role, arguments.split('\n').map(str::to_owned).collect()))
}

/// In a child: ask the kernel to kill this process when the thread that started it dies.
fn die_with_parent() {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("prctl succeeds");
}

/// A number from an environment variable, or `ordinary` if the variable is unset.
pub fn from_env(name: &str, ordinary: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => ordinary,
    }
}

/// The seed of a run: `PARTD_SEED`, or a new one. It is printed.
pub fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let new = now.map_or(1, |now| now.as_nanos() as u64);
    let seed = from_env("PARTD_SEED", new);
    println!("PARTD_SEED={seed}");
    seed
}

/// A small generator of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Reports that a test cannot run here, and why. Panics in CI, where every test must run.
pub fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped in CI: {reason}");
    // Not `println!`: the harness hides what a passing test prints.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// A directory for a store, removed when the value is dropped; on disk, not in memory.
pub fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path: &Path = dir.path();
    let store = path.join("store");
    (dir, store)
}
