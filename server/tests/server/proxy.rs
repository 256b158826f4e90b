//! A proxy that acts as an unreliable network: it cuts connections, and delays and splits their
//! bytes.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::quiet_random;

/// A proxy in front of a unix socket.
///
/// While it is unruly, it cuts connections at random, after any byte in either direction, and
/// forwards bytes late and in pieces. Bytes that a client sent before a cut may reach the server
/// long after the client has reconnected.
pub(crate) struct Proxy {
    path: PathBuf,
    unruly: Arc<AtomicBool>,
    pub(crate) cuts: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    threads: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(path: PathBuf, server: &Path) -> Proxy {
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let unruly = Arc::new(AtomicBool::new(true));
        let cuts = Arc::new(AtomicU64::new(0));
        let ends = Arc::new(AtomicBool::new(false));
        let threads = Arc::new(Mutex::new(Vec::new()));
        let server = server.to_owned();
        let shared =
            (Arc::clone(&unruly), Arc::clone(&cuts), Arc::clone(&ends), Arc::clone(&threads));
        let accepting = std::thread::spawn(move || {
            let (unruly, cuts, ends, threads) = shared;
            while !ends.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                // If the server is down, close the connection.
                let Ok(server) = UnixStream::connect(&server) else { continue };
                client.set_nonblocking(false).unwrap();
                let request = (client.try_clone().unwrap(), server.try_clone().unwrap(), true);
                for (from, to, is_request) in [request, (server, client, false)] {
                    let (unruly, cuts) = (Arc::clone(&unruly), Arc::clone(&cuts));
                    let carry = move || carry(from, to, is_request, &unruly, &cuts);
                    threads.lock().unwrap().push(std::thread::spawn(carry));
                }
            }
        });
        Proxy { path, unruly, cuts, ends, threads, accepting: Some(accepting) }
    }

    pub(crate) fn address(&self) -> String {
        format!("ipc://{}", self.path.display())
    }

    /// Stops cutting and delaying.
    pub(crate) fn calm(&self) {
        self.unruly.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for thread in self.threads.lock().unwrap().drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(
    mut from: UnixStream,
    mut to: UnixStream,
    is_request: bool,
    unruly: &AtomicBool,
    cuts: &AtomicU64,
) {
    let mut random = quiet_random();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let most = if unruly.load(Ordering::Relaxed) { 1 + random.below(20_000) } else { 65_536 };
        let Ok(len @ 1..) = from.read(&mut buffer[..most as usize]) else { break };
        let mut carried = len;
        if unruly.load(Ordering::Relaxed) {
            match random.below(40) {
                0 => carried = random.below(len as u64) as usize,
                1..=4 => std::thread::sleep(Duration::from_millis(random.below(8))),
                _ => {}
            }
        }
        if carried < len && is_request && random.below(2) == 0 {
            // The client sees the end at once; the server gets all of the bytes, later.
            cuts.fetch_add(1, Ordering::Relaxed);
            let _ = from.shutdown(std::net::Shutdown::Both);
            std::thread::sleep(Duration::from_millis(random.below(50)));
            let _ = to.write_all(&buffer[..len]);
            break;
        }
        if to.write_all(&buffer[..carried]).is_err() {
            break;
        }
        if carried < len {
            cuts.fetch_add(1, Ordering::Relaxed);
            break;
        }
    }
    if is_request {
        let _ = from.shutdown(std::net::Shutdown::Both);
    }
    // When the answers end, this shuts down the client's side, which also ends the requests.
    let _ = to.shutdown(std::net::Shutdown::Both);
}
