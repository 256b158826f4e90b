//! Connects a client: opens a socket, performs the handshake and negotiates the protocol.

use std::sync::Arc;
use std::time::Instant;

use omq_proto::{MechanismSetup, Message};

use super::options::Config;
use crate::Address;
use crate::address::Target;
use crate::error::{ErrorKind, RemoteError};
use crate::net::account::Unlimited;
use crate::net::channel::{Channel, ChannelOptions};
use crate::net::error::ChannelError;
use crate::net::socket::Socket;
use crate::wire::Malformed;
use crate::wire::hello::{self, SessionId, Syn, Welcome};

/// The protocol that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Old,
    Extended(Welcome),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) channel: Channel<Socket, Unlimited>,
    pub(crate) socket: Socket,
    pub(crate) protocol: Protocol,
}

/// Connects to the server and requests the extension.
pub(crate) fn connect(
    config: &Arc<Config>,
    session: SessionId,
    deadline: Instant,
) -> Result<Connected, NotConnected> {
    let socket = open(&config.address, deadline)?;
    let shared = socket.share();
    let left = deadline.saturating_duration_since(Instant::now());
    let mechanism = match (&config.curve, &config.address.target) {
        (Some((pair, server)), Target::Tcp(..)) => {
            MechanismSetup::CurveClient { our_keypair: pair.0.clone(), server_public: server.0 }
        }
        _ => MechanismSetup::Null,
    };
    let options = ChannelOptions {
        is_server: false,
        mechanism,
        message_bytes: config.message_bytes,
        frames: usize::MAX,
        handshake: left.min(config.timeout),
        message: config.timeout,
    };
    let mut channel = Channel::new(socket, Unlimited, options);
    channel.handshake()?;
    channel.send_frames(&Syn { session }.encode())?;
    channel.flush()?;
    let message = receive(&mut channel, deadline)?;
    let frames: Vec<&[u8]> = (0..message.len()).filter_map(|i| message.get(i)).collect();
    if frames.first() != Some(&&b"ack"[..]) {
        return Err(NotConnected::last("the server did not acknowledge the connection"));
    }
    let protocol = match hello::is_extended(&frames) {
        false => Protocol::Old,
        true => {
            let welcome = Welcome::decode(&frames).map_err(|wrong| NotConnected::last(&wrong.0))?;
            Protocol::Extended(welcome)
        }
    };
    Ok(Connected { channel, socket: shared, protocol })
}

/// Why no answer arrived.
pub(crate) enum Broken {
    TimedOut,
    Lost,
    Malformed(Malformed),
}

impl From<Malformed> for Broken {
    fn from(wrong: Malformed) -> Broken {
        Broken::Malformed(wrong)
    }
}

impl From<ChannelError> for Broken {
    fn from(error: ChannelError) -> Broken {
        match error {
            ChannelError::TimedOut(_) => Broken::TimedOut,
            ChannelError::Io(_) => Broken::Lost,
            other => Broken::Malformed(Malformed(other.to_string())),
        }
    }
}

/// Why the client could not connect.
pub(crate) struct NotConnected {
    why: String,
    /// Whether another attempt would fail the same way.
    pub(crate) is_final: bool,
}

impl NotConnected {
    pub(crate) fn last(why: &str) -> NotConnected {
        NotConnected { why: why.to_owned(), is_final: true }
    }

    pub(crate) fn into_remote(self, kind: ErrorKind) -> RemoteError {
        RemoteError::new(kind, self.why)
    }
}

impl From<ChannelError> for NotConnected {
    fn from(error: ChannelError) -> NotConnected {
        let is_final = matches!(error, ChannelError::Denied(_) | ChannelError::Protocol(_));
        NotConnected { why: error.to_string(), is_final }
    }
}

impl From<Broken> for NotConnected {
    fn from(broken: Broken) -> NotConnected {
        match broken {
            Broken::TimedOut => {
                NotConnected { why: "the server did not answer in time".into(), is_final: false }
            }
            Broken::Lost => NotConnected {
                why: "the server closed the connection; it may be at its connection limit".into(),
                is_final: false,
            },
            Broken::Malformed(wrong) => NotConnected::last(&wrong.0),
        }
    }
}

fn open(address: &Address, deadline: Instant) -> Result<Socket, NotConnected> {
    let not_yet = |error: std::io::Error| NotConnected { why: error.to_string(), is_final: false };
    match &address.target {
        Target::Ipc(path) => Socket::connect_unix(path, deadline).map_err(not_yet),
        Target::Tcp(host, port) => {
            let resolved = Address::resolve(host, *port).map_err(not_yet)?;
            let mut last = NotConnected::last("the host has no address");
            for address in resolved {
                match Socket::connect_tcp(&address, deadline) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = not_yet(error),
                }
            }
            Err(last)
        }
    }
}

pub(crate) fn receive(
    channel: &mut Channel<Socket, Unlimited>,
    deadline: Instant,
) -> Result<Message, Broken> {
    loop {
        if let Some(message) = channel.next_message()? {
            return Ok(message);
        }
        if !channel.fill(deadline)? {
            return Err(Broken::Lost);
        }
    }
}
