//! Helpers: servers in this process and in others, and a hand-written ZMTP peer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partd::{Dict, Partd};
use partd_server::{Client, Limits, Server, ServerOptions};
use partd_testkit::children::Random;
use rustix::process::{Pid, Signal, kill_process};

/// The timeout for everything that must happen; generous, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory for a test, and the address of a socket in it.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn address(&self) -> String {
        format!("ipc://{}", self.join("socket").display())
    }
}

/// A server in this process.
pub(crate) struct Served {
    pub(crate) server: Server,
    pub(crate) dir: Dir,
}

impl Served {
    pub(crate) fn dict() -> Served {
        Served::of(Dict::new(), Server::options())
    }

    pub(crate) fn limited(limits: Limits) -> Served {
        Served::of(Dict::new(), Server::options().limits(limits))
    }

    pub(crate) fn of(store: impl Partd + 'static, options: ServerOptions) -> Served {
        let dir = Dir::new();
        let options = options.spool(dir.path());
        let server = options.bind(dir.address()).serve(store).unwrap();
        Served { server, dir }
    }

    pub(crate) fn client(&self) -> Client {
        Client::options().timeout(PATIENCE).connect(self.server.address()).unwrap()
    }

    pub(crate) fn raw(&self) -> Raw {
        let mut raw = Raw::connect(&self.dir.join("socket"));
        raw.handshake();
        raw
    }
}

/// Makes a random generator, seeded from `PARTD_SEED` or the time, and prints its seed.
pub(crate) fn random() -> Random {
    let random = quiet_random();
    println!("PARTD_SEED={}", random.0);
    random
}

/// Like [`random`], but does not print the seed; for one of many threads.
pub(crate) fn quiet_random() -> Random {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let given = std::env::var("PARTD_SEED").ok().and_then(|seed| seed.parse().ok());
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Random(given.unwrap_or(time.as_nanos() as u64 ^ (count << 50)))
}

/// Waits until `holds` returns true.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns how long a test runs: `PARTD_SECONDS` if set, else `short` seconds.
pub(crate) fn seconds(short: u64) -> Duration {
    let given = std::env::var("PARTD_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(short))
}

/// A running `partd-server` process.
pub(crate) struct Program {
    child: Child,
    pub(crate) addresses: Vec<String>,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    /// Starts it on a store, and waits until it has printed its addresses.
    pub(crate) fn serve(store: &Path, arguments: &[&str]) -> Program {
        let mut command = Program::command();
        command.arg(store).args(arguments);
        let binds = arguments.iter().filter(|argument| **argument == "--bind").count().max(1);
        Program::start(command, binds)
    }

    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_partd-server"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(mut command: Command, addresses: usize) -> Program {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut err = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = Vec::new();
            err.read_to_end(&mut log).unwrap();
            String::from_utf8_lossy(&log).into_owned()
        });
        let mut program = Program { child, addresses: Vec::new(), log: Some(log) };
        for _ in 0..addresses {
            let mut line = String::new();
            if out.read_line(&mut line).unwrap() == 0 {
                panic!("the program ended: {:?}", program.end());
            }
            program.addresses.push(line.trim_end().to_owned());
        }
        program
    }

    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&self) -> Client {
        Client::options().timeout(PATIENCE).connect(self.address()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end, and returns its status and its log.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the program does not end");
            std::thread::sleep(Duration::from_millis(2));
        };
        let log = self.log.take().map(|log| log.join().unwrap()).unwrap_or_default();
        (status, log)
    }

    /// Kills the process and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.end();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A hand-written ZMTP peer.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    pub(crate) fn connect(path: &Path) -> Raw {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Raw(stream)
    }

    /// Returns the greeting and the READY command of a DEALER with the NULL mechanism.
    pub(crate) fn hello() -> Vec<u8> {
        let mut bytes = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1];
        bytes.extend_from_slice(b"NULL");
        bytes.resize(64, 0);
        let ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0";
        bytes.extend_from_slice(&[4, ready.len() as u8]);
        bytes.extend_from_slice(ready);
        bytes
    }

    pub(crate) fn handshake(&mut self) {
        self.0.write_all(&Raw::hello()).unwrap();
        let mut greeting = [0; 64];
        self.0.read_exact(&mut greeting).unwrap();
        let (flags, _) = self.frame().unwrap();
        assert_eq!(flags, 4);
    }

    /// Encodes a message.
    pub(crate) fn message(frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            let more = u8::from(i + 1 < frames.len());
            match u8::try_from(frame.len()) {
                Ok(len) => bytes.extend_from_slice(&[more, len]),
                Err(_) => {
                    bytes.push(more | 2);
                    bytes.extend_from_slice(&(frame.len() as u64).to_be_bytes());
                }
            }
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    pub(crate) fn send(&mut self, frames: &[&[u8]]) {
        self.0.write_all(&Raw::message(frames)).unwrap();
    }

    fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let mut len = u64::from(head[1]);
        if head[0] & 2 != 0 {
            let mut rest = [0; 7];
            self.0.read_exact(&mut rest)?;
            len = rest.iter().fold(len, |len, byte| len << 8 | u64::from(*byte));
        }
        let mut body = vec![0; len as usize];
        self.0.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Receives a message, or `None` if the server has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            match self.frame() {
                Ok((flags, body)) => {
                    frames.push(body);
                    if flags & 1 == 0 {
                        return Some(frames);
                    }
                }
                Err(error) => {
                    let kind = error.kind();
                    let ends = [
                        std::io::ErrorKind::UnexpectedEof,
                        std::io::ErrorKind::ConnectionReset,
                        std::io::ErrorKind::BrokenPipe,
                    ];
                    assert!(ends.contains(&kind), "neither a message nor the end: {error}");
                    return None;
                }
            }
        }
    }

    /// Sends a command of the old protocol and expects its acknowledgement.
    pub(crate) fn old(&mut self, frames: &[&[u8]]) {
        self.send(frames);
        assert_eq!(self.receive().unwrap(), [b"ack"]);
    }
}
