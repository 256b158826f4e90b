//! The options of a client.

use std::sync::Arc;
use std::time::Duration;

use partd::Result;

use super::Client;
use crate::Address;
use crate::curve::{KeyPair, PublicKey};
use crate::error::invalid;
use crate::limits::MAX_TIME;

/// The configuration that all connections of a client share.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) address: Address,
    pub(crate) timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) message_bytes: u64,
    pub(crate) pipeline_bytes: usize,
    pub(crate) curve: Option<(KeyPair, PublicKey)>,
}

/// The options of a [`Client`]; [`connect`](ClientOptions::connect) makes it.
///
/// ```no_run
/// use std::time::Duration;
/// use partd_server::{Client, KeyPair, PublicKey};
///
/// let client = Client::options()
///     .timeout(Duration::from_secs(5))
///     .curve(KeyPair::read("client.key")?, PublicKey::read("server.key.pub")?)
///     .connect("tcp://10.0.0.7:7171")?;
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientOptions {
    timeout: Duration,
    connections: usize,
    message_bytes: u64,
    pipeline_bytes: usize,
    curve: Option<(KeyPair, PublicKey)>,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            timeout: Duration::from_secs(60),
            connections: 8,
            message_bytes: 1 << 30,
            pipeline_bytes: 8 << 20,
            curve: None,
        }
    }
}

impl ClientOptions {
    /// Sets how long a call waits for its answer, or for the next part of it, including attempts to
    /// reconnect. The default is 60 s, the longest time a year.
    pub fn timeout(mut self, timeout: Duration) -> ClientOptions {
        self.timeout = timeout;
        self
    }

    /// Sets the number of connections, 8 by default. Each call and each pipeline uses one; if all
    /// are in use, a call waits.
    pub fn connections(mut self, connections: usize) -> ClientOptions {
        self.connections = connections;
        self
    }

    /// Limits the bytes of one received message, by default to 1 GiB. Only a server of the old
    /// protocol sends messages of more than about 1 MiB.
    pub fn message_bytes(mut self, bytes: u64) -> ClientOptions {
        self.message_bytes = bytes;
        self
    }

    /// Limits the unacknowledged bytes of a pipeline, by default to 8 MiB.
    pub fn pipeline_bytes(mut self, bytes: usize) -> ClientOptions {
        self.pipeline_bytes = bytes;
        self
    }

    /// Encrypts TCP with CURVE: the client authenticates with `pair`, and connects only to the
    /// server with the public key `server`. Unix sockets are not encrypted.
    pub fn curve(mut self, pair: KeyPair, server: PublicKey) -> ClientOptions {
        self.curve = Some((pair, server));
        self
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// The timeout or the number of connections is 0, the address is invalid, no server answers
    /// there in time, or the server refuses the client.
    pub fn connect(self, address: impl AsRef<str>) -> Result<Client> {
        if self.timeout.is_zero() || self.connections == 0 {
            return Err(invalid("a client needs a timeout above 0 and at least one connection"));
        }
        let config = Config {
            address: address.as_ref().parse()?,
            timeout: self.timeout.min(MAX_TIME),
            connections: self.connections,
            message_bytes: self.message_bytes,
            pipeline_bytes: self.pipeline_bytes,
            curve: self.curve,
        };
        Client::with(Arc::new(config))
    }
}
