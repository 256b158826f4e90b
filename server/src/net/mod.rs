//! Sockets, and ZMTP over them.
//!
//! | file | |
//! |---|---|
//! | `socket` | a connected socket, every call of which has a deadline |
//! | `listener` | a bound address: the ownership of a socket file, and the peers |
//! | `account` | the account that grants a channel its memory |
//! | `error` | the errors that end a channel |
//! | `boundary` | tracks whether a stream is between two messages |
//! | `channel` | messages over a stream: the handshake, memory limits, gathered writes |
//!
//! `omq-proto` implements ZMTP: a codec without I/O, which checks the length of a frame before it
//! buffers the frame, and which has CURVE. `channel` moves the bytes between the codec and the
//! socket.

pub(crate) mod account;
pub(crate) mod boundary;
pub(crate) mod channel;
pub(crate) mod error;
pub(crate) mod listener;
pub(crate) mod socket;
