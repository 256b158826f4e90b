//! Servers and clients that are killed at random, and a network that cuts connections.
//!
//! Each writer appends numbered records to a key of its own and notes the result of each:
//! acknowledged, or unsure if the error says that the append may have happened. In the end its
//! value must contain every acknowledged record once and in order, each unsure record at most once,
//! and nothing else.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};
use partd_server::{Client, ErrorKind, RemoteError, Server};
use rustix::process::Signal;

use crate::common::{Dir, PATIENCE, Program, Served, quiet_random, random, seconds, until};
use crate::proxy::Proxy;

/// The results of a writer's appends.
#[derive(Default)]
struct Notes {
    acknowledged: Vec<u64>,
    unsure: HashSet<u64>,
    /// The appends that were under way when their client was killed. The server may apply them after
    /// the first appends of the writer's next client.
    orphaned: HashSet<u64>,
}

fn record(writer: u64, number: u64) -> String {
    format!("{writer}:{number};")
}

/// Checks the value of a writer against its notes.
fn judge(writer: u64, notes: &Notes, value: &[u8]) {
    let text = std::str::from_utf8(value).unwrap();
    let mut acknowledged = notes.acknowledged.iter().copied().peekable();
    let mut orphaned = notes.orphaned.clone();
    let mut last = None;
    for piece in text.split_terminator(';') {
        let (by, number) = piece.split_once(':').unwrap();
        let number: u64 = number.parse().unwrap();
        assert_eq!(by.parse(), Ok(writer), "a record of another writer");
        if orphaned.remove(&number) {
            continue;
        }
        assert!(last < Some(number), "writer {writer}: {number} behind {last:?}");
        last = Some(number);
        if acknowledged.peek() == Some(&number) {
            acknowledged.next();
        } else {
            assert!(notes.unsure.contains(&number), "writer {writer}: {number} was never sent");
        }
    }
    assert_eq!(acknowledged.next(), None, "writer {writer}: an acknowledged record is lost");
}

/// Appends until `stop` is set, and notes the result of each append.
fn write(client: &Client, writer: u64, stop: &AtomicBool, durable: bool) -> Notes {
    let mut notes = Notes::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let pair = [(format!("writer {writer}"), record(writer, number))];
        let done = if durable { client.append_durable(pair) } else { client.append(pair) };
        match done {
            Ok(()) => notes.acknowledged.push(number),
            Err(error) => {
                let remote = RemoteError::of(&error).unwrap_or_else(|| panic!("{error}"));
                if remote.may_have_happened {
                    notes.unsure.insert(number);
                }
            }
        }
    }
    notes
}

#[test]
fn plain_appends_survive_kills_of_the_server_or_report_that_they_may_not() {
    killed_server(false);
}

#[test]
fn durable_appends_are_applied_once_despite_kills_of_the_server() {
    killed_server(true);
}

fn killed_server(durable: bool) {
    let dir = Dir::new();
    let store = dir.join("store");
    let address = dir.address();
    let mut random = random();
    let stop = AtomicBool::new(false);
    let writers: Vec<u64> = (0..4).collect();
    let start = |dir: &Dir| Program::serve(&dir.join("store"), &["--bind", &address]);
    let mut program = start(&dir);
    let (notes, kills) = std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter()
            .map(|&writer| {
                let (stop, address) = (&stop, &address);
                scope.spawn(move || {
                    let client = Client::options().timeout(PATIENCE).connect(address).unwrap();
                    write(&client, writer, stop, durable)
                })
            })
            .collect();
        let began = Instant::now();
        let mut kills = 0;
        while began.elapsed() < seconds(3) {
            std::thread::sleep(Duration::from_millis(50 + random.below(300)));
            program.kill();
            kills += 1;
            program = start(&dir);
        }
        stop.store(true, Ordering::Relaxed);
        let notes: Vec<Notes> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (notes, kills)
    });
    let client = program.client();
    for (&writer, notes) in writers.iter().zip(&notes) {
        judge(writer, notes, &client.get(format!("writer {writer}")).unwrap());
        assert!(!notes.acknowledged.is_empty());
        // A durable append is never unsure: the client can resend it to any server on the same
        // store.
        assert!(!durable || notes.unsure.is_empty(), "{:?}", notes.unsure);
    }
    assert!(kills > 2);
    drop(client);
    program.signal(Signal::TERM);
    let (status, _) = program.end();
    assert_eq!(status.code(), Some(0));
    let engine = SegmentLog::open_read_only(&store).unwrap();
    engine.verify().unwrap();
}

#[test]
fn appends_over_a_network_that_cuts_connections_are_applied_once() {
    let served = Served::of(SegmentLog::temporary().unwrap(), Server::options());
    let proxy = Proxy::start(served.dir.join("proxy"), &served.dir.join("socket"));
    let stop = AtomicBool::new(false);
    let notes: Vec<Notes> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (stop, address) = (&stop, proxy.address());
                scope.spawn(move || {
                    let client = Client::options().timeout(PATIENCE).connect(address).unwrap();
                    write(&client, writer, stop, writer % 2 == 0)
                })
            })
            .collect();
        std::thread::sleep(seconds(3));
        stop.store(true, Ordering::Relaxed);
        proxy.calm();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(proxy.cuts.load(Ordering::Relaxed) > 5);
    let client = served.client();
    for (writer, notes) in notes.iter().enumerate() {
        assert!(notes.unsure.is_empty() && notes.acknowledged.len() > 10);
        judge(writer as u64, notes, &client.get(format!("writer {writer}")).unwrap());
    }
    assert!(served.server.status().repeated_total > 0);
}

#[test]
fn pipelines_and_large_reads_survive_a_network_that_cuts_connections() {
    let served = Served::of(SegmentLog::temporary().unwrap(), Server::options());
    let proxy = Proxy::start(served.dir.join("proxy"), &served.dir.join("socket"));
    let client = Client::options().timeout(PATIENCE).connect(proxy.address()).unwrap();
    let mut pipeline = client.pipeline().unwrap();
    let mut expected = Vec::new();
    let mut number = 0_u64;
    while number < 600 {
        let piece = number.to_string().repeat(1 + (number % 50) as usize * 10);
        expected.extend_from_slice(piece.as_bytes());
        pipeline.append([("x", piece)]).unwrap();
        number += 1;
    }
    pipeline.flush().unwrap();
    drop(pipeline);
    for _ in 0..5 {
        // The proxy may cut the answer anywhere; the client then starts the read again.
        assert!(client.get("x").unwrap() == expected);
    }
    assert!(proxy.cuts.load(Ordering::Relaxed) > 0);
}

#[test]
fn an_answer_that_is_cut_every_time_fails_in_time() {
    let served = Served::dict();
    served.client().append([("x", vec![1; 30 << 20])]).unwrap();
    let proxy = Proxy::start(served.dir.join("proxy"), &served.dir.join("socket"));
    let options = Client::options().timeout(Duration::from_secs(1));
    let client = options.connect(proxy.address()).unwrap();
    let start = Instant::now();
    let error = client.get("x").unwrap_err();
    let remote = RemoteError::of(&error).unwrap();
    // The last cut and the timeout race.
    let kinds = [ErrorKind::Disconnected, ErrorKind::TimedOut];
    assert!(kinds.contains(&remote.kind) && !remote.may_have_happened, "{remote}");
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_pop_whose_answer_is_lost_is_answered_again() {
    let served = Served::dict();
    let proxy = Proxy::start(served.dir.join("proxy"), &served.dir.join("socket"));
    let direct = served.client();
    let client = Client::options().timeout(PATIENCE).connect(proxy.address()).unwrap();
    let began = Instant::now();
    let mut number = 0_u64;
    while began.elapsed() < seconds(2) {
        let value = number.to_string().repeat(300);
        direct.append([("x", &value)]).unwrap();
        assert_eq!(client.pop(["x"]).unwrap(), [value.as_bytes()]);
        number += 1;
    }
    assert!(!direct.contains("x").unwrap());
}

#[test]
fn a_client_that_dies_within_a_message_changes_nothing() {
    let served = Served::dict();
    let message = crate::common::Raw::message(&[b"append", b"a", b"1", b"b", &[2; 100_000]]);
    for cut in [3, 20, 40, 5000, message.len() - 1] {
        let mut raw = served.raw();
        raw.0.write_all(&message[..cut]).unwrap();
        drop(raw);
    }
    until("they are gone", || served.server.status().connections == 0);
    assert_eq!(served.client().keys().unwrap(), []);
}

#[test]
fn calls_to_a_stopped_server_fail_in_time() {
    let served = Served::dict();
    let options = Client::options().timeout(Duration::from_millis(400));
    let client = options.connect(served.server.address()).unwrap();
    client.append([("x", "1")]).unwrap();
    let Served { server, dir } = served;
    server.stop().unwrap();
    let start = Instant::now();
    for error in [client.append([("x", "2")]).unwrap_err(), client.get("x").unwrap_err()] {
        let remote = RemoteError::of(&error).unwrap();
        assert_eq!(remote.kind, ErrorKind::Disconnected);
        assert!(!remote.may_have_happened, "nothing was sent: {remote}");
    }
    assert!(start.elapsed() < PATIENCE);
    // Once a server listens at the address again, the client works again.
    let again = Server::bind(partd::Dict::new(), dir.address()).unwrap();
    client.append([("x", "3")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"3");
    drop(again);
}

/// The body of a client process of [`clients_and_servers_are_killed_at_random`].
#[test]
#[ignore = "another test runs it in a process of its own"]
fn client_process() {
    let Ok(address) = std::env::var("PARTD_TEST_ADDRESS") else { return };
    let writer: u64 = std::env::var("PARTD_TEST_WRITER").unwrap().parse().unwrap();
    let first: u64 = std::env::var("PARTD_TEST_FIRST").unwrap().parse().unwrap();
    let client = Client::options().timeout(PATIENCE).connect(address).unwrap();
    let mut out = std::io::stdout();
    for number in first.. {
        // A short line is written by one system call, so it is complete or missing.
        out.write_all(format!("\n@sent {number}\n").as_bytes()).unwrap();
        let pair = [(format!("writer {writer}"), record(writer, number))];
        let fate = match client.append(pair) {
            Ok(()) => "done",
            Err(error) if RemoteError::of(&error).is_some_and(|r| r.may_have_happened) => "unsure",
            Err(error) => panic!("{error}"),
        };
        out.write_all(format!("\n@{fate} {number}\n").as_bytes()).unwrap();
    }
}

/// Runs a client process for a while, kills it, and reads the results that it printed.
fn run_and_kill(address: &str, writer: u64, first: u64, time: Duration, notes: &mut Notes) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::client_process", "--ignored", "--nocapture"])
        .env("PARTD_TEST_ADDRESS", address)
        .env("PARTD_TEST_WRITER", writer.to_string())
        .env("PARTD_TEST_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(out).unwrap());
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut next, mut under_way) = (first, None);
    for line in reader.join().unwrap().lines() {
        let Some((fate, number)) = line.strip_prefix('@').and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let number: u64 = number.parse().unwrap();
        next = number + 1;
        under_way = (fate == "sent").then_some(number);
        match fate {
            "sent" => {}
            "unsure" => {
                notes.unsure.insert(number);
            }
            _ => notes.acknowledged.push(number),
        }
    }
    notes.orphaned.extend(under_way);
    next
}

#[test]
fn clients_and_servers_are_killed_at_random() {
    const WRITERS: u64 = 8;
    let dir = Dir::new();
    let address = dir.address();
    let start = || Program::serve(&dir.join("store"), &["--bind", &address]);
    let program = Mutex::new(start());
    let time = seconds(6);
    let killed = AtomicU64::new(0);
    let notes: Vec<Notes> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (address, killed) = (&address, &killed);
                scope.spawn(move || {
                    let (mut notes, mut next) = (Notes::default(), 0);
                    let mut random = quiet_random();
                    let began = Instant::now();
                    while began.elapsed() < time || notes.acknowledged.is_empty() {
                        assert!(began.elapsed() < time + PATIENCE, "nothing is acknowledged");
                        let life = Duration::from_millis(500 + random.below(1500));
                        next = run_and_kill(address, writer, next, life, &mut notes);
                        killed.fetch_add(1, Ordering::Relaxed);
                    }
                    notes
                })
            })
            .collect();
        let mut random = random();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(300 + random.below(700)));
            let mut program = program.lock().unwrap();
            program.kill();
            *program = start();
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let client = program.lock().unwrap().client();
    let mut total = 0;
    for (writer, notes) in notes.iter().enumerate() {
        judge(writer as u64, notes, &client.get(format!("writer {writer}")).unwrap());
        total += notes.acknowledged.len();
    }
    println!("{total} acknowledged, {} clients killed", killed.load(Ordering::Relaxed));
    assert!(killed.load(Ordering::Relaxed) >= WRITERS);
}

#[test]
fn a_clean_shutdown_loses_no_acknowledged_append_even_from_a_buffer() {
    let dir = Dir::new();
    let store = dir.join("store");
    let address = dir.address();
    let arguments = ["--bind", &address, "--memory", "64MiB"];
    let mut program = Program::serve(&store, &arguments);
    let stop = AtomicBool::new(false);
    let options = || Client::options().timeout(Duration::from_millis(300));
    let notes: Vec<Notes> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (stop, address) = (&stop, &address);
                scope.spawn(move || {
                    let client = options().connect(address).unwrap();
                    write(&client, writer, stop, false)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        program.signal(Signal::TERM);
        let (status, log) = program.end();
        assert_eq!(status.code(), Some(0), "{log}");
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let engine = SegmentLog::open_read_only(&store).unwrap();
    for (writer, notes) in notes.iter().enumerate() {
        assert!(!notes.acknowledged.is_empty());
        judge(writer as u64, notes, &engine.get(format!("writer {writer}")).unwrap());
    }
    assert!(!Path::new(&address["ipc://".len()..]).exists());
}
