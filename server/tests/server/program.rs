//! The binary: signals, exit codes, status, metrics, sockets from systemd, and a full store.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use partd::{Partd, SegmentLog};
use partd_server::{Client, ErrorKind, RemoteError};
use rustix::process::Signal;

use crate::common::{Dir, PATIENCE, Program};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = Program::command().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn sigterm_and_sigint_stop_the_server_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = Dir::new();
        let store = dir.join("store");
        let mut program = Program::serve(&store, &["--bind", &dir.address(), "--memory", "1MiB"]);
        let client = program.client();
        client.append([("x", "in memory")]).unwrap();
        assert_eq!(SegmentLog::open_read_only(&store).unwrap().get("x").unwrap(), b"");
        program.signal(signal);
        let (status, log) = program.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
        assert_eq!(SegmentLog::open_read_only(&store).unwrap().get("x").unwrap(), b"in memory");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let dir = Dir::new();
    let mut program = Program::serve(&dir.join("store"), &["--bind", &dir.address()]);
    let client = program.client();
    for _ in 0..30 {
        client.append([("x", vec![1; 1 << 20])]).unwrap();
    }
    // A client that does not read its answer delays the shutdown.
    let mut raw = crate::common::Raw::connect(&dir.join("socket"));
    raw.handshake();
    raw.send(&[b"get", b"x"]);
    std::thread::sleep(Duration::from_millis(200));
    program.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    program.signal(Signal::TERM);
    let (status, _) = program.end();
    assert_eq!(status.code(), Some(128 + 15));
}

#[test]
fn the_old_close_command_stops_the_server_cleanly_unless_forbidden() {
    let dir = Dir::new();
    let mut program = Program::serve(&dir.join("store"), &["--bind", &dir.address()]);
    let mut raw = crate::common::Raw::connect(&dir.join("socket"));
    raw.handshake();
    raw.old(&[b"append", b"x", b"1"]);
    raw.old(&[b"close"]);
    assert_eq!(program.end().0.code(), Some(0));
    let arguments = ["--bind", &dir.address(), "--forbid", "drop,close"];
    let program = Program::serve(&dir.join("store"), &arguments);
    for command in [&b"close"[..], b"drop"] {
        let mut raw = crate::common::Raw::connect(&dir.join("socket"));
        raw.handshake();
        raw.send(&[command]);
        assert_eq!(raw.receive(), None);
    }
    assert_eq!(program.client().get("x").unwrap(), b"1");
}

#[test]
fn usage_errors_have_exit_code_2_and_say_what_to_do() {
    let dir = Dir::new();
    let store = dir.join("store");
    let store = store.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&[], "give the directory of a store"),
        (&[store, "--bind", "http://x"], "is not an address"),
        (&[store, "--bind", "tcp://0.0.0.0:0"], "keygen"),
        (&[store, "--memory", "much"], "64KiB"),
        (&[store, "--idle-time", "soon"], "30s"),
        (&[store, "--role", "boss"], "use read, append"),
        (&[store, "--metrics", "0.0.0.0:0", "--bind", &dir.address()], "for this machine alone"),
        (&["status", "ipc:///nobody/there", "--timeout", "100ms"], "cannot connect"),
    ];
    for (arguments, says) in cases {
        let (code, _, said) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    std::fs::write(dir.join("file"), "no store").unwrap();
    let file = dir.join("file");
    assert_eq!(run(&[file.to_str().unwrap(), "--bind", &dir.address()]).0, Some(1));
}

#[test]
fn help_completions_and_the_man_page_are_printed() {
    let (code, help, _) = run(&["--help"]);
    assert!(code == Some(0) && help.contains("Examples:") && help.contains("--max-in-flight"));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert!(code == Some(0) && script.contains("partd-server"));
    }
    let (code, page, _) = run(&["man"]);
    assert!(code == Some(0) && page.starts_with(".ie") && page.contains(".SH KEYGEN"));
}

#[test]
fn keygen_makes_a_pair_that_the_server_and_a_client_use() {
    let dir = Dir::new();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["server.key", "client.key"] {
        let (code, out, _) = run(&["keygen", &path(name)]);
        assert!(code == Some(0) && out.lines().next().unwrap().len() == 40);
        assert_eq!(run(&["keygen", &path(name)]).0, Some(2));
    }
    std::fs::copy(path("client.key.pub"), path("allowed")).unwrap();
    let arguments = [
        "--bind",
        "tcp://0.0.0.0:0",
        "--curve-key",
        &path("server.key"),
        "--curve-clients",
        &path("allowed"),
    ];
    let program = Program::serve(&dir.join("store"), &arguments);
    let address = program.address().replace("0.0.0.0", "127.0.0.1");
    let status = [
        "status",
        &address,
        "--curve-key",
        &path("client.key"),
        "--server-key",
        &path("server.key.pub"),
    ];
    let (code, out, said) = run(&status);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.starts_with("health    ok\n"), "{out}");
    assert_eq!(run(&["status", &address, "--timeout", "1s"]).0, Some(2));
}

#[test]
fn status_is_text_or_json_and_metrics_are_served() {
    let dir = Dir::new();
    let arguments = ["--bind", &dir.address(), "--metrics", "127.0.0.1:0", "--log-format", "json"];
    let mut program = Program::serve(&dir.join("store"), &arguments);
    let client = program.client();
    client.append_durable([("x", "1")]).unwrap();
    let (code, text, _) = run(&["status", program.address()]);
    assert_eq!(code, Some(0));
    assert!(text.contains("1 writes") && text.contains("durable up to 1"), "{text}");
    let (code, json, _) = run(&["status", "--json", program.address()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["health"], &json["durable_seq"]), (Some(0), &"ok".into(), &1.into()));
    assert_eq!(client.status().unwrap().writes_total, 1);
    drop(client);
    // The log, complete once the program has ended, has the address of the metrics.
    program.signal(Signal::TERM);
    let (_, log) = program.end();
    let line = log.lines().find(|line| line.contains("metrics at")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "INFO");
}

#[test]
fn metrics_are_served_at_their_path_and_nothing_elsewhere() {
    let dir = Dir::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let metrics = format!("127.0.0.1:{port}");
    let arguments = ["--bind", &dir.address(), "--metrics", &metrics];
    let program = Program::serve(&dir.join("store"), &arguments);
    program.client().append([("x", "1")]).unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&metrics).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\npartd_writes_total 1\n"));
    assert!(get("/").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_socket_from_systemd_is_used_and_systemd_is_notified() {
    let dir = Dir::new();
    let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    // Do what systemd does: pass the socket as descriptor 3, and set the variables.
    let script = "import os, socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.bind(sys.argv[1])\n\
                  s.listen()\n\
                  if s.fileno() != 3: os.dup2(s.fileno(), 3)\n\
                  os.set_inheritable(3, True)\n\
                  os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
                  os.execv(sys.argv[2], sys.argv[2:])";
    let mut command = std::process::Command::new("python3");
    command
        .args(["-c", script])
        .arg(dir.join("passed"))
        .arg(env!("CARGO_BIN_EXE_partd-server"))
        .arg(dir.join("store"))
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut program = Program::start(command, 1);
    assert_eq!(program.address(), format!("ipc://{}", dir.join("passed").display()));
    let mut told = [0; 100];
    let len = notify.recv(&mut told).unwrap();
    assert_eq!(told[..len].trim_ascii(), b"READY=1");
    program.client().append([("x", "1")]).unwrap();
    program.signal(Signal::TERM);
    let len = notify.recv(&mut told).unwrap();
    assert_eq!(told[..len].trim_ascii(), b"STOPPING=1");
    assert_eq!(program.end().0.code(), Some(0));
    // The socket file belongs to systemd and must stay.
    assert!(dir.join("passed").exists());
}

#[test]
fn a_full_store_is_an_error_and_deletes_still_work() {
    let dir = Dir::new();
    let arguments = ["--bind", &dir.address(), "--max-store", "200MiB"];
    let program = Program::serve(&dir.join("store"), &arguments);
    let client = program.client();
    let value = vec![1; 8 << 20];
    let error = loop {
        if let Err(error) = client.append([("x", &value)]) {
            break error;
        }
    };
    let remote = RemoteError::of(&error).unwrap();
    assert_eq!((remote.kind, remote.may_have_happened), (ErrorKind::Full, false), "{remote}");
    assert_eq!(client.get("x").unwrap().len() % value.len(), 0);
    // The server closes the connection of an old client.
    let mut raw = crate::common::Raw::connect(&dir.join("socket"));
    raw.handshake();
    raw.send(&[b"append", b"y", &value]);
    assert_eq!(raw.receive(), None);
    client.delete(["x"]).unwrap();
    assert_eq!(run(&["status", program.address()]).0, Some(0));
}

#[test]
fn the_log_at_its_default_level_names_no_key_and_no_value() {
    let dir = Dir::new();
    let arguments = ["--bind", &dir.address(), "--encode", "zlib"];
    let mut program = Program::serve(&dir.join("store"), &arguments);
    program.client().append([("secret-key", "secret-value")]).unwrap();
    for message in [&[&b"secret-command"[..]][..], &[b"iset", b"secret-key"]] {
        let mut raw = crate::common::Raw::connect(&dir.join("socket"));
        raw.handshake();
        raw.send(message);
        assert_eq!(raw.receive(), None);
    }
    program.signal(Signal::TERM);
    let (_, log) = program.end();
    assert!(log.contains("an unknown command"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn a_closed_standard_output_does_not_stop_the_server() {
    let dir = Dir::new();
    let mut command = Program::command();
    command.arg(dir.join("store")).args(["--bind", &dir.address()]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening at") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the program ended");
    }
    let client = Client::options().timeout(PATIENCE).connect(dir.address()).unwrap();
    client.append([("x", "1")]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_flood_of_connections_fills_no_log() {
    let dir = Dir::new();
    let arguments = ["--bind", &dir.address(), "--max-connections", "1"];
    let mut program = Program::serve(&dir.join("store"), &arguments);
    let client = program.client();
    client.append([("x", "y")]).unwrap();
    let start = std::time::Instant::now();
    let mut refused = 0_usize;
    while start.elapsed() < Duration::from_millis(1500) || refused < 500 {
        // The server closes the connection, or the client does so first.
        drop(std::os::unix::net::UnixStream::connect(dir.join("socket")));
        refused += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(client);
    program.signal(Signal::TERM);
    let (_, log) = program.end();
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    // At most twenty warnings and one line about the rest in each second, including partial
    // seconds.
    let most = (seconds as usize + 3) * 21;
    assert!(warnings >= 20, "{warnings} warnings in {seconds} s: {log}");
    assert!(warnings <= most && most < refused, "{warnings} of {refused} in {seconds} s");
}

#[test]
fn a_file_size_limit_is_an_error_that_names_it_and_no_signal() {
    let dir = Dir::new();
    let store = dir.join("store");
    let store = store.to_str().unwrap();
    let target = dir.join("output");
    let output = |limit: u64, arguments: &[&str]| {
        let mut command = std::process::Command::new("prlimit");
        command.arg(format!("--fsize={limit}:{limit}")).arg(env!("CARGO_BIN_EXE_partd-server"));
        let file = std::fs::File::create(&target).unwrap();
        let output = command.args(arguments).stdout(file).output().expect("util-linux is there");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [&["--help"][..], &["--version"], &["man"], &["completions", "bash"]] {
        for limit in [0, 5] {
            let (status, said) = output(limit, arguments);
            assert_eq!(status.code(), Some(2), "{arguments:?}: {said}, {status}");
            assert!(said.contains("cannot write to standard output"), "{said}");
            assert!(said.contains("ulimit -f"), "{said}");
        }
    }
    // The store cannot be created.
    let (status, said) = output(0, &[store, "--bind", &dir.address()]);
    assert!(matches!(status.code(), Some(1 | 2)), "{said}, {status}");
    assert!(said.contains("ulimit -f"), "{said}");
}
