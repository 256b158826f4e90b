//! Descriptors, threads and memory: all are released, and idle clients cost little.

use std::fs;
use std::time::Duration;

use partd::Partd;
use rustix::process::Signal;

use crate::common::{Dir, Program, Raw, until};

fn count(process: u32, what: &str) -> usize {
    fs::read_dir(format!("/proc/{process}/{what}")).map_or(0, Iterator::count)
}

/// Returns the resident memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let dir = Dir::new();
    let mut program = Program::serve(&dir.join("store"), &["--bind", &dir.address()]);
    let client = program.client();
    client.append([("x", "1")]).unwrap();
    let before = (count(program.id(), "fd"), count(program.id(), "task"));
    for round in 0..1000 {
        let mut raw = Raw::connect(&dir.join("socket"));
        // Some connections send nothing, some end at once, some after the handshake, some after a
        // message.
        match round % 4 {
            0 => {}
            1 => raw.0.shutdown(std::net::Shutdown::Both).unwrap(),
            2 => raw.handshake(),
            _ => {
                raw.handshake();
                raw.old(&[b"append", b"x", b"1"]);
            }
        }
    }
    until("threads and descriptors are released", || {
        (count(program.id(), "fd"), count(program.id(), "task")) == before
    });
    assert_eq!(client.len_of("x").unwrap(), 251);
    drop(client);
    program.signal(Signal::TERM);
    assert_eq!(program.end().0.code(), Some(0));
}

#[test]
fn dropped_clients_leave_no_connections_behind() {
    let dir = Dir::new();
    let program = Program::serve(&dir.join("store"), &["--bind", &dir.address()]);
    for round in 0..200 {
        let client = program.client();
        client.append_durable([("x", round.to_string())]).unwrap();
    }
    let kept = program.client();
    until("the server has closed their connections", || kept.status().unwrap().connections == 1);
}

#[test]
fn a_thousand_idle_clients_need_little_memory() {
    let dir = Dir::new();
    let program = Program::serve(
        &dir.join("store"),
        &["--bind", &dir.address(), "--max-connections", "1100"],
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut raw = Raw::connect(&dir.join("socket"));
        raw.handshake();
        raw.old(&[b"append", b"x", &[1; 100]]);
        clients.push(raw);
    }
    std::thread::sleep(Duration::from_millis(100));
    let taken = resident(program.id());
    println!("1,000 idle clients: {:.1} MiB", taken as f64 / f64::from(1 << 20));
    assert!(taken < 64 << 20, "{taken}");
    assert_eq!(program.client().status().unwrap().connections, 1001);
}
