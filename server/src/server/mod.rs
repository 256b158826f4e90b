//! The server: serves any [`Partd`] to many clients.
//!
//! | file | |
//! |---|---|
//! | `accept` | accepts or refuses clients; starts a thread for each connection |
//! | `connection` | reads the messages of a connection and dispatches them |
//! | `old`, `extended` | the requests of the old protocol and of the extension |
//! | `carry_out` | carries out requests of the extension on the store |
//! | `lend` | sends values from the store's own memory |
//! | `permissions` | checks that a request is allowed |
//! | `sessions`, `records` | outcomes of requests, for clients that resend them: in memory, in the store |
//! | `answer`, `budget` | the memory of answers, and of everything in flight |
//! | `stats` | counters and the status |
//! | `shared` | the state that connections share |
//!
//! There is no async runtime: the thread that reads a request calls the store directly.

mod accept;
mod answer;
mod budget;
mod carry_out;
pub(crate) mod connection;
mod extended;
mod lend;
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

/// Serves a store to clients.
///
/// The server listens until it is [stopped](Server::stop) or dropped. The crate's documentation
/// says what an acknowledgement guarantees.
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

/// The options of a [`Server`]; [`serve`](ServerOptions::serve) starts it.
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
    /// Listens at an address, `ipc://PATH` or `tcp://HOST:PORT`. If the port is 0, the operating
    /// system chooses one. Can be called more than once.
    pub fn bind(mut self, address: impl AsRef<str>) -> ServerOptions {
        self.binds.push(Bind::Address(address.as_ref().to_owned()));
        self
    }

    /// Listens at a unix socket that is already bound.
    pub fn unix_listener(mut self, listener: UnixListener) -> ServerOptions {
        self.binds.push(Bind::Unix(listener));
        self
    }

    /// Listens at a TCP socket that is already bound.
    pub fn tcp_listener(mut self, listener: TcpListener) -> ServerOptions {
        self.binds.push(Bind::Tcp(listener));
        self
    }

    /// Sets the limits on what clients may use.
    pub fn limits(mut self, limits: Limits) -> ServerOptions {
        self.limits = limits;
        self
    }

    /// Sets the role of clients that authenticate without a key; the default is [`Role::ALL`].
    pub fn role(mut self, role: Role) -> ServerOptions {
        self.role = role;
        self
    }

    /// Encrypts TCP with CURVE. A TCP client must then authenticate with a key of the list, which
    /// determines its role. Clients of unix sockets need no key.
    pub fn curve(mut self, pair: KeyPair, allowed: AllowedKeys) -> ServerOptions {
        self.curve = Some((pair, allowed));
        self
    }

    /// Sets the directory for answers that are too large for memory. The default is `/var/tmp`, or
    /// the temporary directory if that does not exist. The files have no names, and disappear with
    /// the server.
    pub fn spool(mut self, directory: impl Into<PathBuf>) -> ServerOptions {
        self.spool = directory.into();
        self
    }

    /// Sets the function that returns how many bytes of memory the store holds.
    ///
    /// The status reports it as [`buffer_bytes`](Status::buffer_bytes); without this option that is
    /// 0, because the trait [`Partd`] does not provide it.
    pub fn memory_bytes(
        mut self,
        gauge: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> ServerOptions {
        self.memory = MemoryGauge::new(gauge);
        self
    }

    /// Starts serving a store. Without an address, the server listens at
    /// `ipc://$XDG_RUNTIME_DIR/partd/PID-N.sock`, where N is random.
    ///
    /// # Errors
    /// An address cannot be bound, or other machines can reach it and there is no key pair; a limit
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

/// Refuses an address that other machines can reach, before it is bound.
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
    /// Serves a store at an address, with the default options: every client that can connect has
    /// every permission.
    ///
    /// # Errors
    /// Those of [`ServerOptions::serve`].
    pub fn bind(store: impl Partd + 'static, address: impl AsRef<str>) -> Result<Server> {
        Server::options().bind(address).serve(store)
    }

    /// Returns the default options of a server; [`ServerOptions::serve`] starts it.
    pub fn options() -> ServerOptions {
        ServerOptions::default()
    }

    /// Returns the first address, with the actual port if the operating system chose it.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Returns every address.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns the current status of the server.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Returns a handle with which another thread can ask the server to stop, or get its status.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Waits until a client or a [handle](Server::handle) asks the server to stop. The server keeps
    /// serving until it is [stopped](Server::stop) or dropped.
    pub fn wait(&self) {
        self.shared.wait_for_end();
    }

    /// Stops the server: stops accepting, finishes the requests that have arrived, and syncs the
    /// store.
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
            tracing::error!(error = %error, "cannot sync the store while stopping");
        }
    }
}

/// Lets another thread ask a [`Server`] to stop, or get its status.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
}

impl ServerHandle {
    /// Asks the server to stop: makes [`Server::wait`] return.
    pub fn ask_end(&self) {
        self.shared.ask_end();
    }

    /// Returns the current status of the server.
    pub fn status(&self) -> Status {
        self.shared.status()
    }
}
