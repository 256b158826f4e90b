//! The client: a [`Partd`] whose store is a server's.
//!
//! | file | |
//! |---|---|
//! | `options` | timeouts, connections, keys |
//! | `pool` | connections that threads share, one at a time each |
//! | `connect` | a socket, the handshake, the negotiation |
//! | `link` | one connection, and how it is made again |
//! | `answer` | the chunks of an answer |
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

/// The longest time for the first connection; a server that answers later is taken for none.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);

/// A connection to a [`Server`](crate::Server), which is a store like any other: layers compose on it.
///
/// Threads share a client. Every call waits for its answer, and ends with an error when there is
/// none in time. When the connection breaks, it is made again, and what is safe to repeat is repeated:
/// see [`RemoteError::may_have_happened`] for what is left.
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
    /// A write was refused for a reason that may last, so that [`Partd::check`] asks the server.
    was_refused: AtomicBool,
    durable_seq: AtomicU64,
    seq: AtomicU64,
    is_extended: bool,
}

impl Client {
    /// Connects to a server, of this crate or of Python's partd; waits for it for up to 5 s.
    ///
    /// # Errors
    /// The address is wrong, nobody answers there, or the server refuses.
    pub fn connect(address: impl AsRef<str>) -> Result<Client> {
        Client::options().connect(address)
    }

    /// Options, to be given before the client is made.
    pub fn options() -> ClientOptions {
        ClientOptions::default()
    }

    fn with(config: Arc<Config>) -> Result<Client> {
        let pool = Pool::new(&config);
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

    /// The address of the server.
    pub fn address(&self) -> &str {
        self.config.address.as_str()
    }

    /// Whether the server speaks the extension `partd/2`. Without it there are `append`, `iset`,
    /// `get`, `delete` and `clear`, and batches of one kind of operation.
    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// The status of the server.
    ///
    /// # Errors
    /// The server cannot be asked, or speaks only the old protocol.
    pub fn status(&self) -> Result<Status> {
        let doing = "ask for the status of";
        let json = self.bytes(doing, Opcode::Status, |head| encode_flag(head, None))?;
        serde_json::from_slice(&json).map_err(|error| {
            let text = format!("the status is not what it should be: {error}");
            RemoteError::new(ErrorKind::Malformed, text).into_error(doing, self.address())
        })
    }

    /// Every key that begins with these bytes, in key order.
    ///
    /// # Errors
    /// As [`Partd::keys`].
    pub fn keys_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Key>> {
        let doing = "list keys through";
        let prefix = prefix.as_ref();
        let bytes = self.bytes(doing, Opcode::Keys, |head| encode_prefix(head, prefix))?;
        answer::keys(&bytes).map_err(|wrong| self.malformed(doing, wrong))
    }

    /// Removes every key that begins with these bytes. Keys that another client makes meanwhile may
    /// be left.
    ///
    /// # Errors
    /// As [`Partd::write`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<()> {
        let prefix = prefix.as_ref();
        let encode = |head| encode_prefix(head, prefix);
        self.change("delete through", Opcode::DeletePrefix, Retry::SameServer, encode)
    }

    /// The number of this client's last acknowledged write among all of the server, from 1 at the
    /// server's start; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// The number of the server's writes of which this client knows that all up to it are on stable
    /// storage: as of the last acknowledgement.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Acquire)
    }

    /// Appends that do not wait for each acknowledgement. The pipeline has a connection to itself.
    ///
    /// # Errors
    /// There is no connection, or the server speaks only the old protocol.
    pub fn pipeline(&self) -> Result<Pipeline<'_>> {
        Pipeline::new(self)
    }

    /// Runs `call` with a connection of the extension.
    fn call<T>(
        &self,
        doing: &'static str,
        call: impl FnOnce(&mut Link, Instant) -> std::result::Result<T, RemoteError>,
    ) -> Result<T> {
        let called = self.pool.with(self.config.timeout, |link, deadline| {
            match link.connect(deadline)? {
                Protocol::Extended(_) => {}
                Protocol::Old => {
                    let text = "this needs the extension partd/2, and the server speaks only the old \
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

    /// Remembers what the last acknowledgement said.
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
        let text = format!("the server's answer is not as the protocol says: {}", wrong.0);
        RemoteError::new(ErrorKind::Malformed, text).into_error(doing, self.address())
    }

    /// A request that is acknowledged.
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

    /// A request that is answered with bytes.
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

    /// A request that is answered with values.
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
            [Op::Delete(_), ..] => "delete through",
            [Op::Clear, ..] => "clear through",
            _ => "append through",
        };
        if !self.is_extended {
            return self.old_write(doing, batch, durable);
        }
        let retry = if durable { Retry::Recorded } else { Retry::SameServer };
        self.change(doing, Opcode::Write, retry, |head| encode_write(head, batch, durable))
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
        self.keys_with_prefix(b"")
    }

    fn sync(&self) -> Result<()> {
        let encode = |head| encode_flag(head, None);
        self.change("sync through", Opcode::Sync, Retry::Always, encode)
    }

    /// Asks the server only after it has refused a write: layers check before every append, and a
    /// check must not cost a round trip.
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
