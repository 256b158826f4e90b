//! The limits of a server, each with its default.

use std::time::Duration;

use crate::error::invalid;

/// Limits on what clients may use of a server. Each field states its default.
///
/// Requests and answers take at most [`in_flight_bytes`](Limits::in_flight_bytes) +
/// [`client_bytes`](Limits::client_bytes) of memory, plus about 200 KiB for each connection in the
/// worst case, plus up to 16 MiB that is kept for later answers. The store and its layers need
/// memory of their own, for example for a list of all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message, counting 64 bytes for each frame after the first: 256 MiB.
    pub message_bytes: u64,
    /// Frames of one message: 2,000,001, enough for a million pairs of the old protocol.
    pub frames: usize,
    /// Keys of one request: 1,000,000.
    pub keys: usize,
    /// Bytes of one key: 1 MiB.
    pub key_bytes: u64,
    /// Bytes of one value in a write: 256 MiB. Reads have no such limit.
    pub value_bytes: u64,
    /// Simultaneous connections: 1,024.
    pub connections: usize,
    /// Time for the ZMTP handshake: 10 s.
    pub handshake: Duration,
    /// Time without a request after which the server closes a connection: 1 h. Clients of this
    /// crate reconnect.
    pub idle: Duration,
    /// Time in which a message must arrive whole, and in which a client must read one chunk of an
    /// answer: 120 s.
    pub message: Duration,
    /// Bytes of messages and answers in memory for one connection: 512 MiB.
    pub client_bytes: u64,
    /// Bytes of messages and answers in memory for all connections together: 1 GiB. A request for
    /// which there is no room waits; an answer for which there is none goes through a temporary
    /// file.
    pub in_flight_bytes: u64,
    /// Bytes of an answer in memory: 8 MiB. A longer answer goes through a temporary file.
    pub answer_bytes: u64,
    /// Time in which connections must finish when the server stops: 30 s.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes: 256 << 20,
            frames: 2_000_001,
            keys: 1_000_000,
            key_bytes: 1 << 20,
            value_bytes: 256 << 20,
            connections: 1024,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            message: Duration::from_secs(120),
            client_bytes: 512 << 20,
            in_flight_bytes: 1 << 30,
            answer_bytes: 8 << 20,
            grace: Duration::from_secs(30),
        }
    }
}

/// The longest timeout: a year. Adding it to an `Instant` cannot overflow.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

impl Limits {
    /// Caps every duration at [`MAX_TIME`].
    pub(crate) fn within_clocks(mut self) -> Limits {
        let Limits { handshake, idle, message, grace, .. } = &mut self;
        for time in [handshake, idle, message, grace] {
            *time = (*time).min(MAX_TIME);
        }
        self
    }

    /// Refuses limits under which the server could not serve any request.
    pub(crate) fn check(&self) -> partd::Result<()> {
        /// Room for a greeting, a `syn` and its answer.
        const LEAST_MESSAGE_BYTES: u64 = 4096;
        let wrong = |what: &str| Err(invalid(format!("limits: {what}")));
        if self.message_bytes < LEAST_MESSAGE_BYTES {
            return wrong("message_bytes is below 4096, too small for a handshake");
        }
        if self.frames < 3 || self.keys == 0 || self.connections == 0 {
            return wrong("frames must be at least 3, keys and connections at least 1");
        }
        if self.client_bytes < self.message_bytes {
            return wrong(
                "client_bytes is below message_bytes, so the largest message would not fit",
            );
        }
        let times = [self.handshake, self.idle, self.message];
        if times.contains(&Duration::ZERO) {
            return wrong("handshake, idle and message must be above 0");
        }
        Ok(())
    }
}
