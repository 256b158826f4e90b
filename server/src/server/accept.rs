//! The thread that accepts connections, and the thread of each connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use omq_proto::{CurveServerOptions, MechanismSetup};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::connection::{Connection, End};
use super::shared::Shared;
use super::stats::count;
use crate::Role;
use crate::curve::{AllowedKeys, KeyPair};
use crate::net::channel::ChannelOptions;
use crate::net::error::ChannelError;
use crate::net::listener::{Listener, Peer};
use crate::net::socket::Socket;

/// The stack of a connection's thread. Pages that are never touched take no memory.
const STACK_BYTES: usize = 1 << 20;
/// How many connections to accept from one listener before the next has its turn.
const TURN: usize = 64;
/// The pause between two ticks of the shared state.
const SECOND: Duration = Duration::from_secs(1);

/// How clients authenticate, and their roles.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The role of a client that authenticates without a key.
    pub(crate) role: Role,
    /// If set, every TCP client must authenticate with a key of the list.
    pub(crate) curve: Option<(KeyPair, Arc<AllowedKeys>)>,
}

/// The accepting thread. It runs until [`stop`](Acceptor::stop).
#[derive(Debug)]
pub(crate) struct Acceptor {
    stop: Arc<(AtomicBool, OwnedFd)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Acceptor {
    pub(crate) fn start(
        listeners: Vec<Listener>,
        admission: Admission,
        shared: Arc<Shared>,
    ) -> io::Result<Acceptor> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new((AtomicBool::new(false), wake));
        let told = Arc::clone(&stop);
        let accept = move || {
            let (mut next, mut ticked) = (0, Instant::now());
            while !told.0.load(Ordering::Acquire) {
                wait(&listeners, &told.1);
                for listener in &listeners {
                    accept_some(listener, &admission, &shared, &mut next);
                }
                // Tick by the clock: a flood of connections must not start a new second of warnings
                // early.
                if ticked.elapsed() >= SECOND {
                    ticked = Instant::now();
                    shared.tick();
                }
            }
        };
        let thread = std::thread::Builder::new().name("partd-accept".into()).spawn(accept)?;
        Ok(Acceptor { stop, thread: Some(thread) })
    }

    /// Stops accepting, and drops the listeners.
    pub(crate) fn stop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        // The write fails only if the counter is full, and then the thread wakes as well.
        let _ = rustix::io::write(&self.stop.1, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, it would have stopped as well.
            let _ = thread.join();
        }
    }
}

/// Waits until a connection arrives or the thread must stop, for at most a second.
fn wait(listeners: &[Listener], wake: &OwnedFd) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    fds.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
    // After an interruption or a shortage of memory, this turn may accept no connection.
    if poll(&mut fds, Some(&second)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn accept_some(listener: &Listener, admission: &Admission, shared: &Arc<Shared>, next: &mut u64) {
    for _ in 0..TURN {
        match listener.accept() {
            Ok((socket, peer)) => {
                *next += 1;
                admit(socket, peer, *next, listener, admission, shared);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return,
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => {
                    // Most likely too many open files. The connections wait in the backlog.
                    if shared.may_warn() {
                        tracing::warn!(error = %error, "cannot accept a connection yet");
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    return;
                }
            },
        }
    }
}

/// Serves a client on a thread of its own, or refuses it.
fn admit(
    socket: Socket,
    peer: Peer,
    number: u64,
    listener: &Listener,
    admission: &Admission,
    shared: &Arc<Shared>,
) {
    count(&shared.stats.connections_total);
    let refuse = |why: &str| {
        count(&shared.stats.refused_total);
        if shared.may_warn() {
            tracing::warn!(peer = %peer, "refused a connection: {why}");
        }
    };
    if let Peer::Process { uid, .. } = peer
        && uid != rustix::process::geteuid().as_raw()
    {
        return refuse("the process belongs to another user");
    }
    if !shared.enter(number, &socket) {
        return refuse("the connection limit is reached");
    }
    let admission = admission.clone();
    let needs_key = listener.is_tcp();
    let in_thread = Arc::clone(shared);
    let serve = move || {
        // Dropped last, after everything that belongs to the connection.
        let exit = Exit { shared: &in_thread, number };
        serve(socket, peer, number, &admission, needs_key, &in_thread);
        drop(exit);
    };
    let thread =
        std::thread::Builder::new().name(format!("partd-{number}")).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(serve) {
        shared.exit(number);
        refuse(&format!("cannot start a thread: {error}"));
    }
}

/// Removes a connection from the shared state, even if its thread panics in a store.
struct Exit<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Exit<'_> {
    fn drop(&mut self) {
        self.shared.exit(self.number);
    }
}

fn serve(
    socket: Socket,
    peer: Peer,
    number: u64,
    admission: &Admission,
    needs_key: bool,
    shared: &Arc<Shared>,
) {
    let shown = Arc::new(Mutex::new(None));
    let mechanism = match &admission.curve {
        Some((pair, allowed)) if needs_key => curve(pair, allowed, &shown),
        _ => MechanismSetup::Null,
    };
    let options = ChannelOptions {
        is_server: true,
        mechanism,
        message_bytes: shared.limits.message_bytes,
        frames: shared.limits.frames,
        handshake: shared.limits.handshake,
        message: shared.limits.message,
    };
    let mut connection = Connection::new(socket, shared, options, admission.role);
    if let Err(error) = connection.handshake() {
        // A client that only probes whether a server listens deserves no warning.
        let is_quiet = matches!(error, ChannelError::Io(_));
        count(&shared.stats.refused_total);
        if !is_quiet && shared.may_warn() {
            tracing::warn!(connection = number, peer = %peer, "the handshake failed: {error}");
        }
        return;
    }
    if let Some(role) = *shown.lock().unwrap_or_else(PoisonError::into_inner) {
        connection.role = role;
    }
    tracing::debug!(connection = number, peer = %peer, role = %connection.role, "connected");
    let why = match connection.serve() {
        End::Closed => None,
        // The network failed, or the client died.
        End::Channel(ChannelError::Io(error)) => {
            tracing::debug!(connection = number, "lost: {error}");
            None
        }
        End::Channel(ChannelError::TimedOut(what)) if what.starts_with("nothing came") => {
            tracing::debug!(connection = number, "closed: {what}");
            None
        }
        End::Channel(error) => Some(error.to_string()),
        End::Refused(why) => Some(why),
    };
    if let Some(why) = why {
        count(&shared.stats.dropped_total);
        if shared.may_warn() {
            tracing::warn!(connection = number, peer = %peer, "closed: {why}");
        }
    }
    tracing::debug!(connection = number, "ended");
}

/// Sets up CURVE: a client must authenticate with a key of the list, which determines its role.
fn curve(
    pair: &KeyPair,
    allowed: &Arc<AllowedKeys>,
    shown: &Arc<Mutex<Option<Role>>>,
) -> MechanismSetup {
    let (allowed, shown) = (Arc::clone(allowed), Arc::clone(shown));
    let options = CurveServerOptions::new().authenticator(move |peer| {
        let role = allowed.role_of(&peer.public_key);
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = role;
        role.is_some()
    });
    MechanismSetup::CurveServer { our_keypair: pair.0.clone(), options }
}
