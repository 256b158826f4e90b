//! Access control: users, keys, roles, and the ownership of sockets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use partd::{Batch, Dict, Durability, Error, Key, Partd};
use partd_server::{Address, AllowedKeys, Client, ErrorKind, KeyPair, RemoteError, Role, Server};

use crate::common::{Dir, PATIENCE, Program, Served};

fn kind(error: &Error) -> Option<ErrorKind> {
    RemoteError::of(error).map(|remote| remote.kind)
}

#[test]
fn a_role_allows_what_it_includes_and_an_error_names_the_role() {
    let read_append = Role::READ.with(Role::APPEND);
    let served = Served::of(Dict::new(), Server::options().role(read_append));
    let client = served.client();
    client.append([("x", "1")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"1");
    let refused = [
        client.delete(["x"]).unwrap_err(),
        client.clear().unwrap_err(),
        client.pop(["x"]).unwrap_err(),
        client.delete_prefix("x").unwrap_err(),
    ];
    for error in refused {
        assert_eq!(kind(&error), Some(ErrorKind::Forbidden));
        assert!(error.to_string().contains("this client has read,append"), "{error}");
    }
    // The server closes the connection of an old client, and does nothing.
    for command in [&b"drop"[..], b"close"] {
        let mut raw = served.raw();
        raw.send(&[command]);
        assert_eq!(raw.receive(), None);
    }
    assert_eq!(client.get("x").unwrap(), b"1");
    assert_eq!(served.server.status().health, "ok");
    assert!(client.status().is_ok());
}

#[test]
fn a_client_that_may_not_drop_the_store_cannot_delete_the_empty_prefix_either() {
    let served = Served::of(Dict::new(), Server::options().role(Role::ALL.without(Role::DROP)));
    let client = served.client();
    client.append([("x", "1"), ("y", "2")]).unwrap();
    let refused = [
        client.clear().unwrap_err(),
        client.delete_prefix("").unwrap_err(),
        client
            .write(Batch::new().append("z", b"3").delete_prefix(""), Durability::Plain)
            .unwrap_err(),
    ];
    for error in refused {
        assert_eq!(kind(&error), Some(ErrorKind::Forbidden), "{error}");
    }
    assert_eq!(client.keys().unwrap().len(), 2);
    client.delete_prefix("x").unwrap();
    assert_eq!(client.keys().unwrap(), [Key::from("y")]);
}

#[test]
fn an_address_that_others_can_reach_is_refused_without_keys_and_the_error_says_what_to_do() {
    for address in ["tcp://*:0", "tcp://0.0.0.0:0", "tcp://[::]:0"] {
        let error = Server::bind(Dict::new(), address).unwrap_err().to_string();
        assert!(error.contains("keygen") && error.contains("--curve-clients"), "{error}");
    }
    let passed = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let error = Server::options().tcp_listener(passed).serve(Dict::new()).unwrap_err().to_string();
    assert!(error.contains("keygen"), "{error}");
}

#[test]
fn tcp_at_a_loopback_address_needs_no_keys() {
    let server = Server::bind(Dict::new(), "tcp://127.0.0.1:0").unwrap();
    let client = Client::connect(server.address()).unwrap();
    client.append([("x", "1"), ("y", "2")]).unwrap();
    assert_eq!(client.get_many(["y", "x"]).unwrap(), [b"2", b"1"]);
}

#[test]
fn curve_accepts_the_keys_of_the_list_with_their_roles_and_no_others() {
    let (server_pair, writer, reader) =
        (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
    let allowed =
        AllowedKeys::new().allow(writer.public(), Role::ALL).allow(reader.public(), Role::READ);
    let server = Server::options()
        .bind("tcp://0.0.0.0:0")
        .curve(server_pair.clone(), allowed)
        .serve(Dict::new())
        .unwrap();
    let port = server.address().as_str().rsplit(':').next().unwrap().to_owned();
    let address = format!("tcp://127.0.0.1:{port}");
    let options = || Client::options().timeout(Duration::from_secs(5));
    let as_owner = |pair: &KeyPair| options().curve(pair.clone(), server_pair.public());
    let client = as_owner(&writer).connect(&address).unwrap();
    let value = vec![7; 3_000_000];
    client.append([("x", &value), ("y", &vec![])]).unwrap();
    let mut pipeline = client.pipeline().unwrap();
    for _ in 0..200 {
        pipeline.append([("z", "piece")]).unwrap();
    }
    pipeline.flush().unwrap();
    drop(pipeline);
    let read = as_owner(&reader).connect(&address).unwrap();
    assert!(read.get("x").unwrap() == value);
    assert_eq!(read.len_of("z").unwrap(), 1000);
    assert_eq!(kind(&read.append([("x", "1")]).unwrap_err()), Some(ErrorKind::Forbidden));
    // An unknown key, no key, and the wrong key of the server.
    let stranger = as_owner(&KeyPair::generate()).connect(&address).unwrap_err();
    assert!(stranger.to_string().contains("refused"), "{stranger}");
    assert!(options().timeout(Duration::from_millis(500)).connect(&address).is_err());
    let other = options().curve(writer.clone(), KeyPair::generate().public());
    assert!(other.timeout(Duration::from_millis(500)).connect(&address).is_err());
    assert_eq!(client.get("y").unwrap(), b"");
}

#[test]
fn a_process_of_another_user_is_refused() {
    // Only root can start a process of another user.
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a process as another user");
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        return;
    }
    let served = Served::dict();
    // Open the directory and the socket, so that only the check of the user can refuse the process.
    fs::set_permissions(served.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = served.dir.join("socket");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let script = "import socket, sys\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\n\
                  s.settimeout(60)\n\
                  try: print(len(s.recv(64)))\n\
                  except ConnectionResetError: print(0)";
    let run = |user: &str| {
        let out = Command::new("setpriv")
            .args([
                &format!("--reuid={user}"),
                "--clear-groups",
                "/usr/bin/env",
                "python3",
                "-c",
                script,
            ])
            .arg(&socket)
            .env("PATH", "/usr/bin:/bin:/usr/local/bin")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    assert_eq!(run("65534"), "0");
    assert_eq!(served.server.status().refused_total, 1);
    assert!(served.client().is_extended());
}

#[test]
fn the_socket_of_a_killed_server_is_replaced_and_that_of_a_running_one_is_not() {
    let dir = Dir::new();
    let address = dir.address();
    let mut first = Program::serve(&dir.join("store"), &["--bind", &address]);
    let second = Program::command()
        .arg(dir.join("other store"))
        .args(["--bind", &address])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another server owns this socket"), "{said}");
    first.client().append([("x", "1")]).unwrap();
    first.kill();
    assert!(dir.join("socket").exists());
    let again = Program::serve(&dir.join("store"), &["--bind", &address]);
    assert_eq!(again.client().get("x").unwrap(), b"1");
}

#[test]
fn the_default_address_of_a_store_is_private_and_the_same_for_server_and_client() {
    let dir = Dir::new();
    let store = dir.join("store");
    for runtime in [Some(dir.join("runtime")), None] {
        let mut command = Program::command();
        command.arg(&store);
        match &runtime {
            Some(runtime) => {
                fs::create_dir(runtime).unwrap();
                command.env("XDG_RUNTIME_DIR", runtime);
            }
            None => {
                command.env_remove("XDG_RUNTIME_DIR");
            }
        }
        let program = Program::start(command, 1);
        let socket = Path::new(program.address().strip_prefix("ipc://").unwrap()).to_owned();
        let parent = socket.parent().unwrap();
        assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let expected = match &runtime {
            Some(runtime) => runtime.join("partd"),
            None => dir.join("store.server"),
        };
        assert_eq!(parent, expected.canonicalize().unwrap());
        let mut status = Program::command();
        status.args(["status"]).arg(&store);
        match &runtime {
            Some(runtime) => status.env("XDG_RUNTIME_DIR", runtime),
            None => status.env_remove("XDG_RUNTIME_DIR"),
        };
        assert_eq!(status.output().unwrap().status.code(), Some(0));
    }
}

#[test]
fn a_directory_for_sockets_that_is_open_to_others_is_refused() {
    let dir = Dir::new();
    let runtime = dir.join("runtime");
    fs::create_dir_all(runtime.join("partd")).unwrap();
    fs::set_permissions(runtime.join("partd"), fs::Permissions::from_mode(0o755)).unwrap();
    let out = Program::command()
        .arg(dir.join("store"))
        .env("XDG_RUNTIME_DIR", &runtime)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("chmod 700"));
}

#[test]
fn an_error_names_the_address_at_which_no_server_listens() {
    let address: Address = "ipc:///tmp/x.sock".parse().unwrap();
    assert_eq!(address.path(), Some(Path::new("/tmp/x.sock")));
    let missing = Client::options().timeout(Duration::from_millis(50)).connect(&address);
    let error = missing.unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::Disconnected));
    assert!(error.to_string().starts_with("cannot connect to ipc:///tmp/x.sock: "), "{error}");
}

/// Plays the processes of the next test.
#[test]
fn child_that_forks() {
    use partd_testkit::children::fork;
    let Ok(address) = std::env::var("PARTD_TEST_FORKS") else { return };
    if !fork::children_begin_a_pid_namespace() {
        println!("no namespaces");
        return;
    }
    let Some(pid) = fork::fork_beside_idle_threads() else {
        fork::end_after(|| {
            assert_eq!(std::process::id(), 1);
            let client = Client::options().timeout(PATIENCE).connect(&address).unwrap();
            client.append([("k", "1")]).unwrap();
            let idle = Client::options().timeout(PATIENCE).connect(&address).unwrap();
            let mut pipeline = client.pipeline().unwrap();
            pipeline.append([("k", "2")]).unwrap();
            assert!(fork::children_begin_a_pid_namespace());
            let Some(grandchild) = fork::fork_beside_idle_threads() else {
                fork::end_after(|| {
                    // By its process id, the child is its own parent.
                    assert_eq!(std::process::id(), 1);
                    let forked = |error| matches!(error, Some(Error::Forked { .. }));
                    assert!(forked(client.get("k").err()), "a read");
                    assert!(forked(client.append([("k", "x")]).err()), "an append");
                    assert!(forked(client.pipeline().err()), "a new pipeline");
                    assert!(forked(pipeline.append([("k", "x")]).err()), "an append in a pipeline");
                    assert!(forked(pipeline.flush().err()), "a flush");
                    drop(pipeline);
                    drop(idle);
                    let own = Client::options().timeout(PATIENCE).connect(&address).unwrap();
                    own.append([("own", "3")]).unwrap();
                });
            };
            assert!(fork::wait_for_success(grandchild), "the grandchild failed or hangs");
            pipeline.append([("k", "4")]).unwrap();
            pipeline.flush().unwrap();
            drop(pipeline);
            assert_eq!(client.get("k").unwrap(), b"124");
            assert_eq!(idle.get("k").unwrap(), b"124");
        });
    };
    println!("{}", if fork::wait_for_success(pid) { "it went well" } else { "it failed" });
}

#[test]
fn a_client_belongs_to_its_parent_although_the_child_has_the_same_process_id() {
    let served = Served::dict();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "safety::child_that_forks", "--nocapture"])
        .env("PARTD_TEST_FORKS", served.server.address().to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("no namespaces") {
        println!("skipped: process namespaces need CAP_SYS_ADMIN");
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        return;
    }
    assert!(said.contains("it went well"), "{said}");
    assert_eq!(served.client().get_many(["k", "own"]).unwrap(), [b"124".to_vec(), b"3".to_vec()]);
}
