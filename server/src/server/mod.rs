//! The server: serves any [`Partd`] to many clients.
//!
//! | file | |
//! |---|---|
//! | `accept` | the accepting thread, who is let in, a thread for each connection |
//! | `connection` | messages in their order, old protocol or extension |
//! | `old`, `extended` | what a request means |
//! | `carry_out` | what requests of the extension do with the store |
//! | `permissions` | what a request needs to be allowed |
//! | `sessions`, `records` | requests that are sent again: in memory, and in the store |
//! | `answer`, `budget` | the memory of answers and of all that is in flight |
//! | `stats` | counters and the status |
//! | `shared` | what connections share |
//!
//! Threads, and no runtime: a store is called where its request was read, without a queue between.

mod accept;
mod answer;
mod budget;
mod carry_out;
pub(crate) mod connection;
mod extended;
mod old;
mod permissions;
mod records;
mod sessions;
pub(crate) mod shared;
pub(crate) mod stats;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use partd::{Partd, Result};

use self::accept::{Acceptor, Admission};
use self::shared::Shared;
use self::stats::MemoryGauge;
pub use self::stats::Status;
use crate::curve::{AllowedKeys, KeyPair};
use crate::error::{io_error, refused};
use crate::limits::Limits;
use crate::net::listener::{Listener, private_directory};
use crate::{Address, Role};

/// A server of a store.
///
/// It listens until it is [stopped](Server::stop) or dropped. What clients append is in the store, in
/// the order in which the server took it; see `README.md` for what an acknowledgement promises.
///
/// ```
/// use partd::{Dict, Partd};
/// use partd_server::{Client, Server};
///
/// let dir = tempfile::tempdir()?;
/// let address = format!("ipc://{}", dir.path().join("socket").display());
/// let server = Server::bind(Dict::new(), &address)?;
/// let client = Client::connect(server.address())?;
/// client.append([("x", "Hello "), ("y", "123")])?;
/// client.append([("x", "world!")])?;
/// assert_eq!(client.get("x")?, b"Hello world!");
/// server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Acceptor,
    addresses: Vec<Address>,
    is_stopped: bool,
}

/// How a [`Server`] is made.
#[derive(Debug)]
#[must_use]
pub struct ServerOptions {
    binds: Vec<Bind>,
    limits: Limits,
    role: Role,
    curve: Option<(KeyPair, AllowedKeys)>,
    spool: PathBuf,
    memory: MemoryGauge,
}

#[derive(Debug)]
enum Bind {
    Address(String),
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        let kept = Path::new("/var/tmp");
        let spool = if kept.is_dir() { kept.to_owned() } else { std::env::temp_dir() };
        ServerOptions {
            binds: Vec::new(),
            limits: Limits::default(),
            role: Role::ALL,
            curve: None,
            spool,
            memory: MemoryGauge::default(),
        }
    }
}

impl ServerOptions {
    /// Listens at an address, `ipc://PATH` or `tcp://HOST:PORT`; with port 0 the system chooses one.
    /// May be called more than once.
    pub fn bind(mut self, address: impl AsRef<str>) -> ServerOptions {
        self.binds.push(Bind::Address(address.as_ref().to_owned()));
        self
    }

    /// Listens at a unix socket that is bound already.
    pub fn unix_listener(mut self, listener: UnixListener) -> ServerOptions {
        self.binds.push(Bind::Unix(listener));
        self
    }

    /// Listens at a TCP port that is bound already.
    pub fn tcp_listener(mut self, listener: TcpListener) -> ServerOptions {
        self.binds.push(Bind::Tcp(listener));
        self
    }

    /// What clients may take.
    pub fn limits(mut self, limits: Limits) -> ServerOptions {
        self.limits = limits;
        self
    }

    /// What a client may do that shows no key: [`Role::ALL`] unless given.
    pub fn role(mut self, role: Role) -> ServerOptions {
        self.role = role;
        self
    }

    /// Encrypts TCP with CURVE; a client has to show a key of the list, which says its role. Clients
    /// of unix sockets show none.
    pub fn curve(mut self, pair: KeyPair, allowed: AllowedKeys) -> ServerOptions {
        self.curve = Some((pair, allowed));
        self
    }

    /// The directory for answers that are too large for memory: `/var/tmp` unless given. Files there
    /// have no name, and go with the server.
    pub fn spool(mut self, directory: impl Into<PathBuf>) -> ServerOptions {
        self.spool = directory.into();
        self
    }

    /// How many bytes of memory the store holds, which [`Client::status`](crate::Client::status) reports
    /// and nothing else uses: 0 unless given, for the trait [`Partd`] cannot tell.
    pub fn memory_bytes(
        mut self,
        gauge: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> ServerOptions {
        self.memory = MemoryGauge::new(gauge);
        self
    }

    /// Serves a store. Without an address it listens at `ipc://$XDG_RUNTIME_DIR/partd/PID-N.sock`.
    ///
    /// # Errors
    /// An address cannot be bound, or is one that others can reach and there is no key pair; a limit
    /// is too small; the store cannot be read.
    pub fn serve(self, store: impl Partd + 'static) -> Result<Server> {
        self.limits.check()?;
        let mut listeners = Vec::new();
        if self.binds.is_empty() {
            let dir = private_directory(None)?;
            let name = format!("{}-{:08x}.sock", std::process::id(), crate::random_u64()? as u32);
            listeners.push(Listener::bind(&Address::ipc(dir.join(name))?)?);
        }
        for bind in self.binds {
            let cannot = |error| io_error("use", "the socket that was passed in", error);
            let listener = match bind {
                Bind::Unix(listener) => Listener::unix(listener)?,
                Bind::Tcp(listener) => Listener::tcp(listener).map_err(cannot)?,
                Bind::Address(text) => {
                    let address: Address = text.parse()?;
                    if self.curve.is_none() {
                        refuse_remote(&address)?;
                    }
                    Listener::bind(&address)?
                }
            };
            if !listener.is_local() && self.curve.is_none() {
                return Err(remote_without_key(listener.address()));
            }
            listeners.push(listener);
        }
        let run = crate::random_u64()?;
        let limits = self.limits.within_clocks();
        let shared = Arc::new(Shared::new(Arc::new(store), self.memory, limits, self.spool, run)?);
        let addresses: Vec<Address> =
            listeners.iter().map(|listener| listener.address().clone()).collect();
        let curve = self.curve.map(|(pair, allowed)| (pair, Arc::new(allowed)));
        let admission = Admission { role: self.role, curve };
        let acceptor = Acceptor::start(listeners, admission, Arc::clone(&shared))
            .map_err(|error| io_error("start a thread for", addresses[0].as_str(), error))?;
        Ok(Server { shared, acceptor, addresses, is_stopped: false })
    }
}

/// Refuses an address that others can reach, before it is bound.
fn refuse_remote(address: &Address) -> Result<()> {
    let crate::address::Target::Tcp(host, port) = &address.target else { return Ok(()) };
    let resolved = Address::resolve(host, *port)
        .map_err(|error| io_error("find the host of", address.as_str(), error))?;
    match resolved.iter().all(|resolved| resolved.ip().is_loopback()) {
        true => Ok(()),
        false => Err(remote_without_key(address)),
    }
}

fn remote_without_key(address: &Address) -> partd::Error {
    refused(
        address.as_str(),
        "other machines can reach this address, so it needs CURVE: make a key pair with `partd-server \
         keygen`, and give it (`--curve-key`) with the list of the clients' public keys \
         (`--curve-clients`); or listen at 127.0.0.1",
    )
}

impl Server {
    /// Serves a store at an address, for everybody who can reach it; [`ServerOptions`] has more.
    ///
    /// # Errors
    /// As [`ServerOptions::serve`].
    pub fn bind(store: impl Partd + 'static, address: impl AsRef<str>) -> Result<Server> {
        Server::options().bind(address).serve(store)
    }

    /// Options, to be given before the server is made.
    pub fn options() -> ServerOptions {
        ServerOptions::default()
    }

    /// The first address, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Every address.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What the server is doing.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// A handle that asks the server to end, and tells its status, from another thread.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Waits until a client or a [handle](Server::handle) asks for the end. The server goes on until
    /// it is [stopped](Server::stop).
    pub fn wait(&self) {
        self.shared.wait_for_end();
    }

    /// Stops: accepts nobody any more, finishes what has arrived, and syncs the store.
    ///
    /// # Errors
    /// The store cannot be synced.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.is_stopped = true;
        self.shared.ask_end();
        self.acceptor.stop();
        self.shared.end_connections();
        self.shared.store.sync()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_stopped
            && let Err(error) = self.end()
        {
            tracing::error!(error = %error, "the store cannot be synced at the end");
        }
    }
}

/// Asks a [`Server`] to end, and tells its status, from another thread.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
}

impl ServerHandle {
    /// Lets [`Server::wait`] return.
    pub fn ask_end(&self) {
        self.shared.ask_end();
    }

    /// What the server is doing.
    pub fn status(&self) -> Status {
        self.shared.status()
    }
}
