//! The server beside Python's, and beside bare copies of as many bytes through a unix socket.
//!
//! ```text
//! PARTD_SERVER_PYTHON="$(../tests/python/venv.sh ../target/python-server \
//!     tests/python/requirements.txt partd.zmq)" cargo bench --bench speed
//! ```
//!
//! Every side is processes of its own: a server, and one or four clients that begin together. The sides
//! take turns in each round; the figures are medians of the rounds, and the ratios are of those. Batches
//! are 256 values of 4 KiB. Both servers keep what they get in a buffer in memory, as Python's does unless
//! told otherwise, and have been in use: the clients first append as much as they will append later, and
//! delete it once all have appended. After the clocks have stopped, every client compares its last get,
//! and the values of every key that it appended to; the copies compare what they have. The receiver of the
//! bare copy reuses memory that fits in the CPU's caches; that of the kept copy keeps all batches in
//! memory, as a server must for appends. *In process* is threads of one process that call the same kind of
//! store directly, one for each client. `PARTD_ROUNDS` is the number of rounds.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use partd::{Buffer, Dict, Partd, SegmentLog};
use partd_server::{Client, Server};

const KEYS: usize = 256;
const VALUE_BYTES: usize = 4096;
const BATCH_BYTES: usize = KEYS * VALUE_BYTES;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--client", address, name, batches, gets] => {
            client(address, name, batches.parse().unwrap(), gets.parse().unwrap());
        }
        ["--in-process", threads, batches] => {
            in_process(threads.parse().unwrap(), batches.parse().unwrap());
        }
        ["--copy-server", path, kept] => copy_server(Path::new(path), kept.parse().unwrap()),
        ["--copy-client", path, batches] => copy_client(Path::new(path), batches.parse().unwrap()),
        ["--requests", address, name, per_second] => requests(address, name, per_second),
        _ => compare(),
    }
}

/// Waits for a line of the parent.
fn wait() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

fn client(address: &str, name: &str, batches: usize, gets: usize) {
    let client = Client::connect(address).unwrap();
    let values: Vec<Vec<u8>> = (0..KEYS).map(|i| value_of(name, i)).collect();
    let keys: Vec<String> = (0..KEYS).map(|i| format!("{name}-{i}")).collect();
    let read: Vec<String> = (0..KEYS).map(|i| format!("{name}-get-{i}")).collect();
    client.append(read.iter().zip(&values)).unwrap();
    // A server in use has its memory; a new one waits for the system, and on a virtual machine for the
    // host, to provide it.
    let removed: Vec<String> = (0..KEYS).map(|i| format!("{name}-removed-{i}")).collect();
    let mut pipeline = client.pipeline().unwrap();
    for _ in 0..batches {
        pipeline.append(removed.iter().zip(&values)).unwrap();
    }
    pipeline.flush().unwrap();
    drop(pipeline);
    // Not before every client has appended, or the server would never hold the memory of all.
    say("filled");
    wait();
    client.delete(&removed).unwrap();
    say("ready");
    wait();
    let start = Instant::now();
    let mut pipeline = client.pipeline().unwrap();
    for _ in 0..batches {
        pipeline.append(keys.iter().zip(&values)).unwrap();
    }
    pipeline.flush().unwrap();
    say(start.elapsed().as_secs_f64());
    drop(pipeline);
    wait();
    let start = Instant::now();
    let mut got = Vec::new();
    for _ in 0..gets {
        got = client.get_many(&read).unwrap();
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), BATCH_BYTES);
    }
    say(start.elapsed().as_secs_f64());
    assert!(got == values, "a get returned other bytes");
    for (key, value) in keys.iter().zip(&values) {
        assert!(client.get(key).unwrap() == value.repeat(batches), "{key} has other bytes");
    }
    say("verified");
}

/// Does what the server does for its clients, without the server: each thread is a client.
fn in_process(threads: usize, batches: usize) {
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(dir.path().join("store")).unwrap();
    let p = Buffer::new(Dict::new(), log, 1 << 30);
    let names: Vec<String> = (0..threads).map(|thread| format!("thread{thread}")).collect();
    let values: Vec<Vec<Vec<u8>>> =
        names.iter().map(|name| (0..KEYS).map(|i| value_of(name, i)).collect()).collect();
    let keys = |kind: &str| -> Vec<Vec<String>> {
        let keys_of = |name| (0..KEYS).map(|i| format!("{name}-{kind}{i}")).collect();
        names.iter().map(keys_of).collect()
    };
    let (keys, read, removed) = (keys(""), keys("get-"), keys("removed-"));
    let each = |work: &(dyn Fn(usize) + Sync)| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            (0..threads).for_each(|thread| drop(scope.spawn(move || work(thread))));
        });
        start.elapsed().as_secs_f64()
    };
    let append = |keys: &[Vec<String>], thread: usize| {
        for _ in 0..batches {
            p.append(keys[thread].iter().zip(&values[thread])).unwrap();
        }
    };
    each(&|thread| append(&removed, thread));
    removed.iter().for_each(|removed| p.delete(removed).unwrap());
    (0..threads).for_each(|thread| p.append(read[thread].iter().zip(&values[thread])).unwrap());
    say("ready");
    wait();
    say(each(&|thread| append(&keys, thread)));
    wait();
    say(each(&|thread| {
        let mut got = Vec::new();
        for _ in 0..batches {
            got = p.get_many(&read[thread]).unwrap();
        }
        assert!(got == values[thread], "a get returned other bytes");
    }));
    for (key, value) in keys.iter().flatten().zip(values.iter().flatten()) {
        assert!(p.get(key).unwrap() == value.repeat(batches), "{key} has other bytes");
    }
    say("verified");
}

/// The value of a client's key: 512 numbers that no other key has.
fn value_of(name: &str, key: usize) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (name, key).hash(&mut hasher);
    let first = hasher.finish();
    let numbers = (0..VALUE_BYTES as u64 / 8).map(|i| first.wrapping_add(i << 32 | i));
    numbers.flat_map(u64::to_le_bytes).collect()
}

/// Reads into memory for the last `kept` batches, which has been written to before.
fn copy_server(path: &Path, kept: usize) {
    let listener = UnixListener::bind(path).unwrap();
    say("ready");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            let mut memory = vec![1; kept * BATCH_BYTES];
            stream.write_all(&[1]).unwrap();
            for batch in (0..kept).cycle() {
                let place = &mut memory[batch * BATCH_BYTES..][..BATCH_BYTES];
                if stream.read_exact(place).is_err() || stream.write_all(&[1]).is_err() {
                    break;
                }
            }
            let is_same = memory.iter().all(|byte| *byte == b'v');
            let _ = stream.write_all(&[u8::from(is_same)]);
        });
    }
}

fn copy_client(path: &Path, batches: usize) {
    let mut stream = UnixStream::connect(path).unwrap();
    let memory = vec![b'v'; BATCH_BYTES];
    let mut acks = [0; 16];
    stream.read_exact(&mut acks[..1]).unwrap();
    say("ready");
    wait();
    let start = Instant::now();
    let mut acknowledged = 0;
    for sent in 1..=batches {
        stream.write_all(&memory).unwrap();
        if sent - acknowledged > 8 {
            acknowledged += stream.read(&mut acks).unwrap();
        }
    }
    while acknowledged < batches {
        acknowledged += stream.read(&mut acks).unwrap();
    }
    say(start.elapsed().as_secs_f64());
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut acks[..1]).unwrap();
    assert_eq!(acks[0], 1, "the copy has other bytes");
    say("verified");
}

/// Requests of 100 bytes at a steady rate; each is timed from the moment at which it was due.
fn requests(address: &str, name: &str, per_second: &str) {
    let client = Client::connect(address).unwrap();
    let pause = Duration::from_secs_f64(1.0 / per_second.parse::<f64>().unwrap());
    say("ready");
    wait();
    let start = Instant::now();
    let mut micros = Vec::new();
    let mut due = start;
    while start.elapsed() < Duration::from_secs(5) {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        client.append([(name, [b'v'; 100])]).unwrap();
        micros.push(due.elapsed().as_micros());
        due += pause;
    }
    let seconds = start.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    say(format!("{} {} {} {}", micros.len() as f64 / seconds, at(0.5), at(0.99), at(1.0)));
}

/// A child, and the lines that it says.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mut command: Command) -> Worker {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Worker { child, stdin, out }
    }

    fn itself(arguments: &[&str]) -> Worker {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(arguments);
        Worker::start(command)
    }

    fn go(&mut self) {
        writeln!(self.stdin).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets workers do their next step together: the bytes of all per second of the slowest.
fn together(workers: &mut [Worker], bytes: usize) -> f64 {
    workers.iter_mut().for_each(Worker::go);
    let seconds = workers.iter_mut().map(|worker| worker.line().parse::<f64>().unwrap());
    bytes as f64 / seconds.fold(0.0, f64::max)
}

/// Append and get rates of clients, in MiB/s.
fn rates(clients: usize, batches: usize, start: impl Fn(&str) -> Worker) -> (f64, f64) {
    let names = (0..clients).map(|i| format!("client{i}"));
    let mut workers: Vec<Worker> = names.map(|name| start(&name)).collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "filled");
    }
    workers.iter_mut().for_each(Worker::go);
    rates_of(&mut workers, clients * batches * BATCH_BYTES)
}

fn rates_of(workers: &mut [Worker], bytes: usize) -> (f64, f64) {
    for worker in &mut *workers {
        assert_eq!(worker.line(), "ready");
    }
    let mib = f64::from(1 << 20);
    let append = together(workers, bytes) / mib;
    let get = together(workers, bytes) / mib;
    expect_verified(workers);
    (append, get)
}

fn expect_verified(workers: &mut [Worker]) {
    workers.iter_mut().for_each(|worker| assert_eq!(worker.line(), "verified"));
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare() {
    let rounds = env::var("PARTD_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let python = env::var("PARTD_SERVER_PYTHON").ok();
    if python.is_none() {
        println!("PARTD_SERVER_PYTHON is not set: without Python's server (tests/python/venv.sh)");
    }
    println!(
        "clients  what    MiB/s  copy MiB/s  ÷ copy  kept MiB/s  ÷ kept  in process  Python MiB/s  ÷ Python"
    );
    for (clients, batches) in [(1, 256), (4, 64)] {
        let (mut ours, mut theirs, mut direct) = (Vec::new(), Vec::new(), Vec::new());
        let (mut copies, mut kept_copies) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            copies.push(copy(clients, batches, 1));
            kept_copies.push(copy(clients, batches, batches));
            ours.push(our_rates(clients, batches));
            direct.push(in_process_rates(clients, batches));
            if let Some(python) = &python {
                theirs.push(python_rates(python, clients, batches));
                // Otherwise the next sides run beside the writeback of Python's files.
                rustix::fs::sync();
            }
        }
        let (copy, kept) = (median(&mut copies), median(&mut kept_copies));
        for (what, of) in [("append", (|r| r.0) as fn(&(f64, f64)) -> f64), ("get", |r| r.1)] {
            let rate = median(&mut ours.iter().map(of).collect::<Vec<f64>>());
            let direct = median(&mut direct.iter().map(of).collect::<Vec<f64>>());
            let mut line = format!(
                "{clients:>7}  {what:<6}  {rate:>5.0}  {copy:>10.0}  {:>6.2}  {kept:>10.0}  {:>6.2}  {direct:>10.0}",
                rate / copy,
                rate / kept
            );
            if python.is_some() {
                let python = median(&mut theirs.iter().map(of).collect::<Vec<f64>>());
                line.push_str(&format!("  {python:>12.0}  {:>8.1}", rate / python));
            }
            println!("{line}");
        }
    }
    steady();
}

fn our_rates(clients: usize, batches: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_partd-server"));
    let address = format!("ipc://{}", dir.path().join("socket").display());
    command.arg(dir.path().join("store")).args(["--bind", &address, "--memory", "1GiB"]);
    command.args(["--log-level", "error"]);
    let mut server = Worker::start(command);
    assert_eq!(server.line(), address);
    let number = batches.to_string();
    rates(clients, batches, |name| Worker::itself(&["--client", &address, name, &number, &number]))
}

fn in_process_rates(threads: usize, batches: usize) -> (f64, f64) {
    let mut worker =
        [Worker::itself(&["--in-process", &threads.to_string(), &batches.to_string()])];
    rates_of(&mut worker, threads * batches * BATCH_BYTES)
}

fn python_rates(python: &str, clients: usize, batches: usize) -> (f64, f64) {
    let here = env!("CARGO_MANIFEST_DIR");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command.arg(format!("{here}/tests/python/server.py")).arg(dir.path().join("files"));
    let mut server = Worker::start(command);
    let address = server.line();
    let number = batches.to_string();
    rates(clients, batches, |name| {
        let mut command = Command::new(python);
        command.arg(format!("{here}/benches/speed.py"));
        command.args([address.as_str(), name, &number, &number]);
        Worker::start(command)
    })
}

fn copy(clients: usize, batches: usize, kept: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let path = path.to_str().unwrap();
    let mut server = Worker::itself(&["--copy-server", path, &kept.to_string()]);
    assert_eq!(server.line(), "ready");
    let number = batches.to_string();
    let mut workers: Vec<Worker> =
        (0..clients).map(|_| Worker::itself(&["--copy-client", path, &number])).collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "ready");
    }
    let rate = together(&mut workers, clients * batches * BATCH_BYTES) / f64::from(1 << 20);
    expect_verified(&mut workers);
    rate
}

/// 10,000 requests of 100 bytes each second from 8 clients.
fn steady() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}", dir.path().join("socket").display());
    let store = SegmentLog::open(dir.path().join("store")).unwrap();
    let server = Server::bind(store, &address).unwrap();
    let mut workers: Vec<Worker> = (0..8)
        .map(|i| Worker::itself(&["--requests", &address, &format!("client{i}"), "1250"]))
        .collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "ready");
    }
    workers.iter_mut().for_each(Worker::go);
    println!("requests of 100 bytes, 8 clients, 1,250/s each:");
    let mut total = 0.0;
    for worker in &mut workers {
        let line = worker.line();
        let figures: Vec<f64> = line.split(' ').map(|figure| figure.parse().unwrap()).collect();
        total += figures[0];
        println!(
            "  {:>6.0}/s, p50 {:>5.0} µs, p99 {:>6.0} µs, longest {:>7.0} µs",
            figures[0], figures[1], figures[2], figures[3]
        );
    }
    println!("  {total:>6.0}/s together");
    server.stop().unwrap();
}
