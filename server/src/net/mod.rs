//! Sockets, and ZMTP over them.
//!
//! | file | |
//! |---|---|
//! | `socket` | a connected socket, every call of which has a deadline |
//! | `listener` | a bound address: the socket file and who may replace it, who is let in |
//! | `account` | who is asked before bytes are kept in memory |
//! | `error` | what ends a channel |
//! | `boundary` | whether a stream is between two messages |
//! | `channel` | messages over a stream: the handshake, limits before memory, writes gathered |
//!
//! ZMTP itself is `omq-proto`'s: a codec without I/O, with limits on frames before they are buffered
//! and with CURVE. A `channel` moves the bytes.

pub(crate) mod account;
pub(crate) mod boundary;
pub(crate) mod channel;
pub(crate) mod error;
pub(crate) mod listener;
pub(crate) mod socket;
