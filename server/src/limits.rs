//! Limits: what a client may take of a server, each with its default.

use std::time::Duration;

use crate::error::invalid;

/// What clients may take of a server. Every field can be set; [`Limits::default`] has the defaults.
///
/// With them a server takes at most [`in_flight_bytes`](Limits::in_flight_bytes) +
/// [`client_bytes`](Limits::client_bytes) for what it receives, carries out and answers, some 200 KiB
/// more for each connection at the worst, and what a store and its layers take for themselves, such as
/// for a list of all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one message, with 40 bytes for each of its frames: 256 MiB.
    pub message_bytes: u64,
    /// Frames of one message: 2,000,001, which are a million pairs of the old protocol.
    pub frames: usize,
    /// Keys of one request: 1,000,000.
    pub keys: usize,
    /// Bytes of one key: 1 MiB.
    pub key_bytes: u64,
    /// Bytes of one value that is written: 256 MiB. What is read has no limit.
    pub value_bytes: u64,
    /// Connections at a time: 1,024.
    pub connections: usize,
    /// Time for the handshake of ZMTP: 10 s.
    pub handshake: Duration,
    /// Time without a request after which a connection is closed: 1 h. Clients connect again.
    pub idle: Duration,
    /// Time for one message to arrive whole, and for one chunk of an answer to be taken: 120 s.
    pub message: Duration,
    /// Bytes of messages and answers in memory for one connection: 512 MiB.
    pub client_bytes: u64,
    /// Bytes of messages and answers in memory for all connections together: 1 GiB. A request that
    /// finds no room waits; an answer that finds none goes through a temporary file.
    pub in_flight_bytes: u64,
    /// Bytes of an answer above which it goes through a temporary file: 8 MiB.
    pub answer_bytes: u64,
    /// Time for what was accepted to be finished when the server stops: 30 s.
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

/// The longest time that is waited for anything: a clock can hold it, and nobody will see its end.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

impl Limits {
    /// The same, with no time longer than a year.
    pub(crate) fn within_clocks(mut self) -> Limits {
        let Limits { handshake, idle, message, grace, .. } = &mut self;
        for time in [handshake, idle, message, grace] {
            *time = (*time).min(MAX_TIME);
        }
        self
    }

    /// Refuses limits with which nothing could be served.
    pub(crate) fn check(&self) -> partd::Result<()> {
        /// Room for a greeting, a `syn` and its answer.
        const LEAST_MESSAGE_BYTES: u64 = 4096;
        let wrong = |what: &str| Err(invalid(format!("limits: {what}")));
        if self.message_bytes < LEAST_MESSAGE_BYTES {
            return wrong("message_bytes is below 4096, and no handshake fits");
        }
        if self.frames < 3 || self.keys == 0 || self.connections == 0 {
            return wrong("frames (at least 3), keys and connections (at least 1) are too small");
        }
        if self.client_bytes < self.message_bytes {
            return wrong("client_bytes is below message_bytes, so that no such message would fit");
        }
        let times = [self.handshake, self.idle, self.message];
        if times.contains(&Duration::ZERO) {
            return wrong("handshake, idle and message are times above 0");
        }
        Ok(())
    }
}
