//! The client: a [`Partd`] that forwards every operation to a server.
//!
//! | file | |
//! |---|---|
//! | `options` | timeouts, connections, keys |
//! | `pool` | the connections, each used by one thread at a time |
//! | `connect` | opens a connection: socket, handshake, negotiation |
//! | `link` | a connection that reconnects and resends requests |
//! | `answer` | collects the chunks of an answer |
//! | `old` | calls to a server of the old protocol |
//! | `pipeline` | appends that do not wait for each acknowledgement |

pub(crate) mod answer;
mod connect;
mod link;
mod old;
mod options;
mod pipeline;
mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use partd::{Batch, Durability, Key, Op, Partd, Result};

use self::answer::{Sink, Values};
use self::connect::Protocol;
use self::link::{Link, Retry};
pub use self::options::ClientOptions;
use self::options::Config;
pub use self::pipeline::Pipeline;
use self::pool::Pool;
use crate::Status;
use crate::error::{ErrorKind, RemoteError};
use crate::wire::Malformed;
use crate::wire::request::{Head, Opcode, encode_flag, encode_keys, encode_prefix, encode_write};

/// The longest time to wait for the first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);

/// A client of a [`Server`](crate::Server). It implements [`Partd`], so layers compose on it.
///
/// Threads can share a client. Every call waits for its answer, and fails if none arrives in time.
/// If a connection breaks, the client reconnects and resends the requests that are safe to repeat.
/// A request that is not safe to repeat fails with an error whose
/// [`may_have_happened`](RemoteError::may_have_happened) is set.
///
/// A client belongs to the process that created it. In a child of `fork`, every call fails with
/// [`Forked`](partd::ErrorKind::Forked), and a drop leaves the connections of the parent alone.
///
/// ```
/// use partd::{Buffer, Dict, Partd, Pickle, SegmentLog, Snappy};
/// use partd_server::{Client, Server};
///
/// let dir = tempfile::tempdir()?;
/// let store = Buffer::new(Dict::new(), SegmentLog::open(dir.path().join("store"))?, 64 << 20);
/// let server = Server::bind(store, format!("ipc://{}", dir.path().join("socket").display()))?;
///
/// let p = Pickle::<i64, _>::new(Snappy::new(Client::connect(server.address())?));
/// p.append([("x", vec![1, 2]), ("y", vec![])])?;
/// p.append([("x", vec![3])])?;
/// assert_eq!(p.get("x")?, [1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    config: Arc<Config>,
    pool: Pool,
    /// The server has refused a request for a reason that may persist; [`Partd::check`] asks it
    /// from then on.
    was_refused: AtomicBool,
    durable_seq: AtomicU64,
    seq: AtomicU64,
    is_extended: bool,
}

impl Client {
    /// Connects to a server of this crate or of Python's partd. Waits for it for up to 5 s.
    ///
    /// # Errors
    /// The address is invalid, no server answers there in time, or the server refuses the client.
    pub fn connect(address: impl AsRef<str>) -> Result<Client> {
        Client::options().connect(address)
    }

    /// Returns the default options of a client; [`ClientOptions::connect`] makes the client.
    pub fn options() -> ClientOptions {
        ClientOptions::default()
    }

    fn with(config: Arc<Config>) -> Result<Client> {
        let pool = Pool::new(&config)?;
        let mut client = Client {
            config,
            pool,
            was_refused: AtomicBool::new(false),
            durable_seq: AtomicU64::new(0),
            seq: AtomicU64::new(0),
            is_extended: false,
        };
        let wait = client.config.timeout.min(FIRST_CONNECTION);
        let first = client.pool.with(wait, Link::connect)?;
        let first = first.map_err(|error| error.into_error("connect to", client.address()))?;
        client.is_extended = matches!(first, Protocol::Extended(_));
        Ok(client)
    }

    /// Returns the address of the server.
    pub fn address(&self) -> &str {
        self.config.address.as_str()
    }

    /// Returns whether the server supports the extension `partd/2`.
    ///
    /// Without it the client can only `append`, `iset`, `get`, `delete` and `clear`, and a batch
    /// must consist of appends only or of deletes only.
    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// Asks the server for its status.
    ///
    /// # Errors
    /// The request fails, or the server speaks only the old protocol.
    pub fn status(&self) -> Result<Status> {
        let doing = "ask for the status of";
        let json = self.bytes(doing, Opcode::Status, |head| encode_flag(head, None))?;
        serde_json::from_slice(&json).map_err(|error| {
            let text = format!("the status cannot be decoded: {error}");
            RemoteError::new(ErrorKind::Malformed, text).into_error(doing, self.address())
        })
    }

    /// Returns every key that begins with `prefix`, in key order.
    ///
    /// # Errors
    /// Those of [`Partd::keys`].
    pub fn keys_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Key>> {
        let doing = "list keys through";
        let prefix = prefix.as_ref();
        let bytes = self.bytes(doing, Opcode::Keys, |head| encode_prefix(head, prefix))?;
        answer::keys(&bytes).map_err(|wrong| self.malformed(doing, wrong))
    }

    /// Removes every key that begins with `prefix`, in one step of the history.
    ///
    /// # Errors
    /// Those of [`Partd::write`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<()> {
        let prefix = prefix.as_ref();
        let encode = |head| encode_prefix(head, prefix);
        self.change("delete through", Opcode::DeletePrefix, Retry::SameServer, encode)
    }

    /// Returns the highest sequence number that an acknowledged write of this client has had; 0
    /// before the first. The server numbers all writes from 1 when it starts.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// Returns the sequence number up to which all writes of the server are on stable storage, as
    /// of this client's last acknowledgement.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    /// Starts a pipeline: appends that do not wait for each acknowledgement, over a connection of
    /// their own.
    ///
    /// # Errors
    /// The client cannot connect, or the server speaks only the old protocol.
    pub fn pipeline(&self) -> Result<Pipeline<'_>> {
        Pipeline::new(self)
    }

    /// Runs `call` with a connection to a server that supports the extension.
    fn call<T>(
        &self,
        doing: &'static str,
        call: impl FnOnce(&mut Link, Instant) -> std::result::Result<T, RemoteError>,
    ) -> Result<T> {
        let called = self.pool.with(self.config.timeout, |link, deadline| {
            match link.connect(deadline)? {
                Protocol::Extended(_) => {}
                Protocol::Old => {
                    let text = "this needs the extension partd/2, but the server speaks only the old \
                                protocol of Python's partd";
                    return Err(RemoteError::new(ErrorKind::Unsupported, text));
                }
            }
            let result = call(link, deadline);
            self.note(link);
            result
        })?;
        called.map_err(|error| self.failed(doing, error))
    }

    /// Updates the sequence numbers from the last acknowledgement.
    fn note(&self, link: &Link) {
        self.seq.fetch_max(link.last_ack.seq, Ordering::AcqRel);
        self.durable_seq.fetch_max(link.last_ack.durable_seq, Ordering::AcqRel);
    }

    fn failed(&self, doing: &'static str, error: RemoteError) -> partd::Error {
        let lasts = [ErrorKind::ReadOnly, ErrorKind::SyncFailed, ErrorKind::Forbidden];
        if lasts.contains(&error.kind) {
            self.was_refused.store(true, Ordering::Release);
        }
        if error.kind == ErrorKind::Invalid && !error.may_have_happened {
            return partd::Error::Invalid(error.text);
        }
        error.into_error(doing, self.address())
    }

    fn malformed(&self, doing: &'static str, wrong: Malformed) -> partd::Error {
        let text = format!("the server's answer violates the protocol: {}", wrong.0);
        RemoteError::new(ErrorKind::Malformed, text).into_error(doing, self.address())
    }

    /// Sends a request and waits for its acknowledgement.
    fn change(
        &self,
        doing: &'static str,
        opcode: Opcode,
        retry: Retry,
        encode: impl FnOnce(Head) -> Vec<u8>,
    ) -> Result<()> {
        self.call(doing, |link, deadline| {
            link.send(opcode, retry, encode, deadline)?;
            link.receive_next(&mut Sink::Nothing, self.config.timeout)
        })
    }

    /// Sends a request and returns the bytes of its answer.
    fn bytes(
        &self,
        doing: &'static str,
        opcode: Opcode,
        encode: impl FnOnce(Head) -> Vec<u8>,
    ) -> Result<Vec<u8>> {
        self.call(doing, |link, deadline| {
            link.send(opcode, Retry::Always, encode, deadline)?;
            let mut sink = Sink::Bytes(Vec::new());
            link.receive_next(&mut sink, self.config.timeout)?;
            match sink {
                Sink::Bytes(bytes) => Ok(bytes),
                _ => Ok(Vec::new()),
            }
        })
    }

    /// Sends a request and returns the values of its answer.
    fn values(
        &self,
        doing: &'static str,
        opcode: Opcode,
        retry: Retry,
        keys: &[Key],
    ) -> Result<Vec<Vec<u8>>> {
        let values = self.call(doing, |link, deadline| {
            link.send(opcode, retry, |head| encode_keys(head, keys), deadline)?;
            let mut sink = Sink::Values(Values::new(keys.len()));
            link.receive_next(&mut sink, self.config.timeout)?;
            if opcode == Opcode::Take {
                link.confirm();
            }
            match sink {
                Sink::Values(values) => Ok(values),
                _ => Ok(Values::new(0)),
            }
        })?;
        values.finish().map_err(|wrong| self.malformed(doing, wrong))
    }
}

impl Partd for Client {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let durable = durability == Durability::Durable;
        if batch.is_empty() && !durable {
            return Ok(());
        }
        let doing = match batch.ops() {
            [Op::Delete(_) | Op::DeletePrefix(_), ..] => "delete through",
            [Op::Clear, ..] => "clear through",
            _ => "append through",
        };
        if !self.is_extended {
            return self.old_write(doing, batch, durable);
        }
        let retry = if durable { Retry::Recorded } else { Retry::SameServer };
        let encode = |head| encode_write(Vec::new(), head, batch, durable);
        self.change(doing, Opcode::Write, retry, encode)
    }

    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        match (keys, self.is_extended) {
            ([], _) => Ok(Vec::new()),
            (keys, true) => self.values("get through", Opcode::Read, Retry::Always, keys),
            (keys, false) => self.old_read("get through", keys),
        }
    }

    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        match keys {
            [] => Ok(Vec::new()),
            keys => self.values("pop through", Opcode::Take, Retry::SameServer, keys),
        }
    }

    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "ask for lengths through";
        let bytes = self.bytes(doing, Opcode::Lens, |head| encode_keys(head, keys))?;
        answer::lens(&bytes, keys.len()).map_err(|wrong| self.malformed(doing, wrong))
    }

    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "ask for keys through";
        let bytes = self.bytes(doing, Opcode::Present, |head| encode_keys(head, keys))?;
        answer::present(&bytes, keys.len()).map_err(|wrong| self.malformed(doing, wrong))
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.keys_with(&Key::default())
    }

    fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
        Client::keys_with_prefix(self, prefix.as_bytes())
    }

    fn sync(&self) -> Result<()> {
        let encode = |head| encode_flag(head, None);
        self.change("sync through", Opcode::Sync, Retry::Always, encode)
    }

    /// Asks the server only once it has refused a request. Layers check before every append, so a
    /// check must not normally cost a round trip.
    fn check(&self, durability: Durability) -> Result<()> {
        self.pool.check()?;
        if !self.was_refused.load(Ordering::Acquire) {
            return Ok(());
        }
        let durable = durability == Durability::Durable;
        let encode = |head| encode_flag(head, Some(durable));
        self.change("write through", Opcode::Check, Retry::Always, encode)
    }
}
