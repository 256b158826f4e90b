//! Python's unchanged partd 1.4.2 as client and as server.
//!
//! `PARTD_SERVER_PYTHON` names the interpreter; `tests/python/venv.sh` of the repository
//! creates its environment, as in `.ci/run`.
//! Without the variable these tests are skipped; if `CI` is set, they fail instead.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use partd::{Batch, Buffer, Dict, Durability, Error, Key, Partd, Pickle, SegmentLog};
use partd_server::{AllowedKeys, Client, ErrorKind, KeyPair, RemoteError, Role, Server};

use crate::common::{Dir, PATIENCE, Program, Served, until};

/// Returns the interpreter, or prints why the test is skipped.
fn python() -> Option<String> {
    let python = std::env::var("PARTD_SERVER_PYTHON").ok();
    if python.is_none() {
        println!(
            "skipped: PARTD_SERVER_PYTHON is not set; see tests/python/venv.sh of the repository"
        );
        assert!(std::env::var_os("CI").is_none(), "CI must not skip this test");
    }
    python
}

fn script(name: &str) -> String {
    format!("{}/tests/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn start_client(python: &str, address: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(python);
    command.arg(script("client.py")).arg(address).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && out.stdout == b"done\n", "{said}");
}

#[test]
fn every_call_of_pythons_client_works_with_this_server() {
    let Some(python) = python() else { return };
    let log = SegmentLog::temporary().unwrap();
    let served = Served::of(Buffer::new(Dict::new(), log, 1 << 20), Server::options());
    finish(start_client(&python, &served.dir.address(), &["everything"]));
    let tcp = Server::bind(Dict::new(), "tcp://127.0.0.1:0").unwrap();
    finish(start_client(&python, tcp.address().as_str(), &["everything"]));
}

#[test]
fn clients_of_both_languages_share_a_server() {
    let Some(python) = python() else { return };
    let served = Served::of(SegmentLog::temporary().unwrap(), Server::options());
    let address = served.dir.address();
    let children: Vec<Child> = (0..3)
        .map(|i| start_client(&python, &address, &["append", &format!("python-|-{i}"), "300"]))
        .collect();
    let client = served.client();
    for i in 0..300 {
        client
            .append([(Key::from(("rust", "0")), format!("{i},")), (Key::from("all"), ".".into())])
            .unwrap();
    }
    children.into_iter().for_each(finish);
    let expected: String = (0..300).map(|i| format!("{i},")).collect();
    for key in [("python", "0"), ("python", "1"), ("python", "2"), ("rust", "0")] {
        assert_eq!(client.get(key).unwrap(), expected.as_bytes());
    }
    assert_eq!(client.len_of("all").unwrap(), 1200);
}

#[test]
fn the_close_of_pythons_client_stops_the_program_cleanly() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let mut program = Program::serve(&dir.join("store"), &["--bind", &dir.address()]);
    finish(start_client(&python, program.address(), &["close"]));
    assert_eq!(program.end().0.code(), Some(0));
    let store = SegmentLog::open_read_only(dir.join("store")).unwrap();
    assert_eq!(store.get("last").unwrap(), b"1");
}

/// Python's server, in a process of its own.
struct PythonServer {
    child: Child,
    address: String,
    _dir: Dir,
}

impl PythonServer {
    fn start(python: &str) -> PythonServer {
        let dir = Dir::new();
        let mut child = Command::new(python)
            .arg(script("server.py"))
            .arg(dir.join("files"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        PythonServer { child, address: line.trim_end().to_owned(), _dir: dir }
    }

    fn client(&self) -> Client {
        Client::options().timeout(PATIENCE).connect(&self.address).unwrap()
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kind(error: &Error) -> Option<ErrorKind> {
    RemoteError::of(error).map(|remote| remote.kind)
}

#[test]
fn this_client_can_use_everything_of_pythons_server() {
    let Some(python) = python() else { return };
    let server = PythonServer::start(&python);
    let client = server.client();
    assert!(!client.is_extended());
    client.append([("x", "Hello "), ("y", "123")]).unwrap();
    client.append([("x", "world"), ("x", "!")]).unwrap();
    client.append([(("a", "b", 1), "tuple")]).unwrap();
    assert_eq!(
        client.get_many(["y", "x", "missing"]).unwrap(),
        [&b"123"[..], b"Hello world!", b""]
    );
    assert_eq!(client.get(("a", "b", 1)).unwrap(), b"tuple");
    assert_eq!(client.get_many(Vec::<Key>::new()).unwrap(), Vec::<Vec<u8>>::new());
    client.append(Vec::<(Key, Vec<u8>)>::new()).unwrap();
    client.iset("once", "1").unwrap();
    assert_eq!(client.get("once").unwrap(), b"1");
    client.delete(["x"]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"");
    let big = vec![7; 3_000_000];
    client.append([("big", &big)]).unwrap();
    client.append([("big", &big)]).unwrap();
    assert!(client.get("big").unwrap() == big.repeat(2));
    client.clear().unwrap();
    assert_eq!(client.get("y").unwrap(), b"");
    let typed = Pickle::<i64, _>::new(&client);
    typed.append([("list", vec![1, 2])]).unwrap();
    typed.append([("list", vec![3])]).unwrap();
    assert_eq!(typed.get("list").unwrap(), [1, 2, 3]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for i in 0..50 {
                    client.append([(format!("thread {thread}"), format!("{i},"))]).unwrap();
                }
            });
        }
    });
    let expected: String = (0..50).map(|i| format!("{i},")).collect();
    for thread in 0..4 {
        assert_eq!(client.get(format!("thread {thread}")).unwrap(), expected.as_bytes());
    }
}

#[test]
fn a_call_that_the_old_protocol_cannot_express_fails_before_anything_is_sent() {
    let Some(python) = python() else { return };
    let server = PythonServer::start(&python);
    let client = server.client();
    client.append([("x", "1")]).unwrap();
    let refused = [
        client.keys().unwrap_err(),
        client.pop(["x"]).unwrap_err(),
        client.len_of("x").unwrap_err(),
        client.sync().unwrap_err(),
        client.append_durable([("x", "2")]).unwrap_err(),
        client.write(Batch::new().append("x", b"2").delete("y"), Durability::Plain).unwrap_err(),
        client.status().unwrap_err(),
        client.pipeline().unwrap_err(),
    ];
    for error in refused {
        assert_eq!(kind(&error), Some(ErrorKind::Unsupported), "{error}");
        assert!(
            error.to_string().contains("old protocol") || error.to_string().contains("partd/2")
        );
    }
    let error = client.append([("a-|-b", "1")]).unwrap_err();
    assert!(error.to_string().contains("-|-"), "{error}");
    assert_eq!(client.get("x").unwrap(), b"1");
}

#[test]
fn calls_to_a_python_server_with_a_dead_listener_fail_in_time() {
    let Some(python) = python() else { return };
    let server = PythonServer::start(&python);
    let options = Client::options().timeout(std::time::Duration::from_millis(500));
    let client = options.connect(&server.address).unwrap();
    client.append([("x", "1")]).unwrap();
    // An iset without a value kills the listener thread of Python's server, which then never
    // answers.
    let port: u16 = server.address.rsplit(':').next().unwrap().parse().unwrap();
    let mut raw = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    use std::io::{Read, Write};
    raw.write_all(&crate::common::Raw::hello()).unwrap();
    raw.read_exact(&mut [0; 100]).unwrap();
    raw.write_all(&crate::common::Raw::message(&[b"iset", b"alone"])).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let error = client.append([("x", "2")]).unwrap_err();
    let remote = RemoteError::of(&error).unwrap();
    assert_eq!((remote.kind, remote.may_have_happened), (ErrorKind::TimedOut, true));
}

#[test]
fn curve_works_with_libzmq_and_an_unknown_key_is_refused() {
    let Some(python) = python() else { return };
    let dir = Dir::new();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let pairs = ["server", "client", "stranger"].map(|name| {
        let pair = KeyPair::generate();
        pair.write(path(name)).unwrap();
        let secret = std::fs::read_to_string(path(name)).unwrap().trim().to_owned();
        (pair, secret)
    });
    let [(server_pair, _), (client_pair, client_secret), (stranger_pair, stranger_secret)] = pairs;
    let allowed = AllowedKeys::new().allow(client_pair.public(), Role::ALL);
    let server = Server::options()
        .bind("tcp://127.0.0.1:0")
        .curve(server_pair.clone(), allowed)
        .serve(Dict::new())
        .unwrap();
    let start = |public: String, secret: &str| {
        let mut command = Command::new(&python);
        command.arg(script("curve.py")).arg(server.address().as_str());
        command.args([&server_pair.public().to_string(), &public, secret]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    finish(start(client_pair.public().to_string(), &client_secret));
    let mut stranger = start(stranger_pair.public().to_string(), &stranger_secret);
    until("the stranger is refused", || server.status().refused_total > 0);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(server.status().writes_total, 2);
}
