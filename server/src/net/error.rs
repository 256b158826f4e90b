//! The errors that end a channel.

use std::io;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The peer closed the connection, or it broke.
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
    /// Nothing arrived in time, or the peer did not read in time.
    #[error("{0}")]
    TimedOut(&'static str),
    /// A message exceeds a limit.
    #[error("a message of more than {limit} {unit}")]
    TooLarge { limit: u64, unit: &'static str },
    /// The input is not ZMTP, or the handshake failed.
    #[error("{0}")]
    Protocol(String),
    /// One side refused the other's key.
    #[error("the peer refused the handshake: {0}")]
    Denied(String),
    /// The memory limits leave no room for the message.
    #[error("{0}")]
    NoRoom(&'static str),
}

impl From<omq_proto::Error> for ChannelError {
    fn from(error: omq_proto::Error) -> ChannelError {
        match error {
            omq_proto::Error::MessageTooLarge { max, .. } => {
                ChannelError::TooLarge { limit: max as u64, unit: "bytes" }
            }
            omq_proto::Error::HandshakeRefused(why) => ChannelError::Denied(why.to_string()),
            other => ChannelError::Protocol(other.to_string()),
        }
    }
}

/// Makes the error for a stream that ended early.
pub(crate) fn ended(what: &str) -> ChannelError {
    ChannelError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, what))
}

pub(crate) fn timed_out(error: io::Error, what: &'static str) -> ChannelError {
    match error.kind() {
        io::ErrorKind::TimedOut => ChannelError::TimedOut(what),
        _ => ChannelError::Io(error),
    }
}

pub(crate) fn not_taken(error: io::Error) -> ChannelError {
    timed_out(error, "the peer did not read what was sent in time")
}
