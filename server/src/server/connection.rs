//! One connection: the handshake, then messages until either side ends it.
//!
//! A connection starts with the old protocol and switches to the extension if a `syn` requests it.
//! It carries out and answers messages in the order in which they arrive.

use std::sync::Arc;
use std::time::Instant;

use omq_proto::Message;

use super::budget::Charge;
use super::extended::Extended;
use super::old;
use super::shared::Shared;
use crate::Role;
use crate::net::channel::{Channel, ChannelOptions};
use crate::net::error::ChannelError;
use crate::net::socket::Stream;
use crate::wire::hello::{self, Syn, Welcome};

/// How many requests a client may have unanswered.
pub(crate) const WINDOW: u32 = 64;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client closed the connection or said good-bye.
    Closed,
    /// The channel failed: the client exceeded a limit or violated ZMTP, or the network failed.
    Channel(ChannelError),
    /// The server refused a message. The reason quotes nothing from the client but numbers.
    Refused(String),
}

impl From<ChannelError> for End {
    fn from(error: ChannelError) -> End {
        End::Channel(error)
    }
}

/// Charges the memory for the operations of a request while it is carried out. Returns whether
/// there is room.
pub(crate) fn bookkeeping<S: Stream>(connection: &mut Connection<S>, operations: u64) -> bool {
    /// The memory of a key and its operation, twice: once decoded, and once in the store's batch.
    const OPERATION_BYTES: u64 = 100;
    let deadline = Instant::now() + connection.shared.limits.message;
    let bytes = operations.saturating_mul(OPERATION_BYTES);
    connection.channel.account().hold_beside(bytes, deadline).is_ok()
}

/// One connection of a client.
pub(crate) struct Connection<S> {
    pub(crate) channel: Channel<S, Charge>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) role: Role,
    /// The received and sent bytes that the statistics already include.
    counted: (u64, u64),
}

/// The protocol of a connection.
enum Protocol {
    Old,
    Extended(Extended),
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(
        stream: S,
        shared: &Arc<Shared>,
        options: ChannelOptions,
        role: Role,
    ) -> Connection<S> {
        let charge = Charge::new(&shared.budget, shared.limits.client_bytes);
        let channel = Channel::new(stream, charge, options);
        Connection { channel, shared: Arc::clone(shared), role, counted: (0, 0) }
    }

    /// Performs the ZMTP handshake.
    pub(crate) fn handshake(&mut self) -> Result<(), ChannelError> {
        self.channel.handshake()
    }

    /// Serves the client until it or the server ends the connection.
    pub(crate) fn serve(&mut self) -> End {
        let mut protocol = Protocol::Old;
        let end = loop {
            match self.serve_arrived(&mut protocol) {
                Ok(true) => {}
                Ok(false) => break End::Closed,
                Err(end) => break end,
            }
        };
        // Send an answer that says what was wrong before the connection closes.
        let _ = self.channel.flush();
        self.count_bytes();
        if let Protocol::Extended(extended) = protocol {
            extended.leave(&self.shared);
        }
        end
    }

    /// Carries out the messages that have arrived, sends the answers and waits for more input.
    /// Returns `false` at the end of the input.
    fn serve_arrived(&mut self, protocol: &mut Protocol) -> Result<bool, End> {
        while let Some(message) = self.channel.next_message()? {
            self.message(&message, protocol)?;
        }
        self.channel.flush()?;
        self.count_bytes();
        Ok(self.channel.fill(Instant::now() + self.shared.limits.idle)?)
    }

    fn count_bytes(&mut self) {
        let now = (self.channel.received_bytes, self.channel.sent_bytes);
        let (received, sent) = (now.0 - self.counted.0, now.1 - self.counted.1);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        self.shared.stats.received_bytes_total.fetch_add(received, relaxed);
        self.shared.stats.sent_bytes_total.fetch_add(sent, relaxed);
        self.counted = now;
    }

    fn message(&mut self, message: &Message, protocol: &mut Protocol) -> Result<(), End> {
        if let Protocol::Extended(extended) = protocol {
            return match (message.len(), message.get(0)) {
                (1, Some(frame)) => extended.request(self, frame),
                _ => Err(End::Refused("a message of more than one frame in partd/2".into())),
            };
        }
        let frames: Vec<&[u8]> = (0..message.len()).filter_map(|i| message.get(i)).collect();
        if frames.first() == Some(&&b"syn"[..]) && hello::is_extended(&frames) {
            *protocol = Protocol::Extended(self.negotiate(&frames)?);
            return Ok(());
        }
        old::command(self, &frames)
    }

    fn negotiate(&mut self, frames: &[&[u8]]) -> Result<Extended, End> {
        let syn = Syn::decode(frames).map_err(|wrong| End::Refused(wrong.0))?;
        let (extended, resumed) = Extended::join(&self.shared, syn.session);
        let limits = &self.shared.limits;
        let welcome = Welcome {
            server: self.shared.stats.run,
            resumed,
            window: WINDOW,
            message_bytes: limits.message_bytes,
            value_bytes: limits.value_bytes,
            key_bytes: limits.key_bytes,
            keys: limits.keys as u64,
            records: self.shared.records.are_kept(),
        };
        self.channel.send_frames(&welcome.encode())?;
        Ok(extended)
    }
}
