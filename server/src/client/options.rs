//! How a client is made.

use std::sync::Arc;
use std::time::Duration;

use partd::Result;

use super::Client;
use crate::Address;
use crate::curve::{KeyPair, PublicKey};
use crate::error::invalid;
use crate::limits::MAX_TIME;

/// What every connection of a client is made with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) address: Address,
    pub(crate) timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) message_bytes: u64,
    pub(crate) pipeline_bytes: usize,
    pub(crate) curve: Option<(KeyPair, PublicKey)>,
}

/// How a [`Client`] is made.
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
    /// How long a call waits for its answer, or for the next part of it, attempts to connect again
    /// included: 60 s.
    pub fn timeout(mut self, timeout: Duration) -> ClientOptions {
        self.timeout = timeout;
        self
    }

    /// Connections at a time: 8. Each call and each pipeline uses one; threads beyond them wait.
    pub fn connections(mut self, connections: usize) -> ClientOptions {
        self.connections = connections;
        self
    }

    /// Bytes of one message that is received: 1 GiB. Only a server of the old protocol sends messages
    /// of more than a few megabytes.
    pub fn message_bytes(mut self, bytes: u64) -> ClientOptions {
        self.message_bytes = bytes;
        self
    }

    /// Bytes of appends that a pipeline may have unacknowledged: 8 MiB.
    pub fn pipeline_bytes(mut self, bytes: usize) -> ClientOptions {
        self.pipeline_bytes = bytes;
        self
    }

    /// Encrypts TCP with CURVE, as the owner of `pair`, and talks only to the owner of `server`.
    /// Unix sockets are not encrypted.
    pub fn curve(mut self, pair: KeyPair, server: PublicKey) -> ClientOptions {
        self.curve = Some((pair, server));
        self
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// The address is wrong, nobody answers there in time, or the server refuses.
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
