//! The entry points of the fuzz targets: every decoder, and a whole server session, over bytes in
//! memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use omq_proto::MechanismSetup;
use partd::{Batch, Dict, Partd};

use crate::client::answer::{self, Sink, Values};
use crate::net::account::Unlimited;
use crate::net::channel::{Channel, ChannelOptions};
use crate::net::socket::Stream;
use crate::server::connection::Connection;
use crate::server::shared::Shared;
use crate::server::stats::MemoryGauge;
use crate::wire::hello::{Syn, Welcome};
use crate::wire::{old, reply, request};
use crate::{Limits, Role};

/// A stream whose input is in memory and whose output is discarded.
struct Memory {
    input: VecDeque<u8>,
    /// The most bytes that one read returns.
    piece: usize,
    written: usize,
    /// Whether the next write without waiting is refused.
    is_full: bool,
}

impl Stream for Memory {
    fn read(&mut self, into: &mut Vec<u8>, max: usize, _: Instant) -> io::Result<usize> {
        let len = max.min(self.piece).min(self.input.len());
        into.extend(self.input.drain(..len));
        Ok(len)
    }

    fn write(&mut self, slices: &[IoSlice<'_>], _: Instant) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.written += len;
        Ok(len)
    }

    fn write_now(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.is_full = !self.is_full;
        match self.is_full {
            true => Ok(slices.iter().map(|slice| slice.len()).sum::<usize>().min(self.piece)),
            false => Ok(0),
        }
    }
}

/// Returns the greeting and the READY command of a peer with the NULL mechanism.
fn hello(kind: &[u8; 6]) -> Vec<u8> {
    let mut bytes = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06");
    bytes.extend_from_slice(kind);
    bytes
}

fn options(is_server: bool, limits: &Limits) -> ChannelOptions {
    ChannelOptions {
        is_server,
        mechanism: MechanismSetup::Null,
        message_bytes: limits.message_bytes,
        frames: limits.frames,
        handshake: Duration::from_secs(3600),
        message: Duration::from_secs(3600),
    }
}

/// Returns limits that a fuzz input of a few kilobytes can exceed.
fn limits() -> Limits {
    Limits {
        message_bytes: 1 << 20,
        client_bytes: 1 << 20,
        in_flight_bytes: 2 << 20,
        answer_bytes: 8 << 10,
        frames: 200,
        keys: 100,
        key_bytes: 1 << 10,
        value_bytes: 1 << 16,
        ..Limits::default()
    }
}

/// Feeds the input to a channel, as server and as client, and each message to every decoder.
/// Encodes each decoded request again.
///
/// # Panics
/// The encoded request differs from its input.
pub fn decode(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let limits = limits();
    for is_server in [true, false] {
        let mut stream = hello(if is_server { b"DEALER" } else { b"ROUTER" });
        stream.extend_from_slice(bytes);
        let memory = Memory {
            input: stream.into(),
            piece: 1 + usize::from(piece) * 16,
            written: 0,
            is_full: false,
        };
        let mut channel = Channel::new(memory, Unlimited, options(is_server, &limits));
        if channel.handshake().is_err() {
            continue;
        }
        loop {
            while let Ok(Some(message)) = channel.next_message() {
                let frames: Vec<&[u8]> =
                    (0..message.len()).filter_map(|i| message.get(i)).collect();
                decode_frames(&frames, &limits);
            }
            if !channel.fill(Instant::now() + Duration::from_secs(3600)).is_ok_and(|more| more) {
                break;
            }
        }
    }
}

fn decode_frames(frames: &[&[u8]], limits: &Limits) {
    let _ = Syn::decode(frames);
    let _ = Welcome::decode(frames);
    let _ = old::decode(frames);
    for frame in frames {
        let key = old::to_key(frame);
        if let Ok(wire) = old::from_key(&key) {
            assert_eq!(old::to_key(&wire), key);
        }
        if let Ok((_, reply::Reply::Chunk { bytes, .. })) = reply::decode(frame) {
            for mut sink in [Sink::Nothing, Sink::Bytes(Vec::new()), Sink::Values(Values::new(3))] {
                let _ = sink.take(bytes);
            }
            let _ = answer::keys(bytes);
            let _ = answer::lens(bytes, 2);
            let _ = answer::present(bytes, 2);
        }
        let Ok((Ok(head), _, body)) = request::decode_head(frame) else { continue };
        let Ok(body) = request::decode_body(head.opcode, body, limits) else { continue };
        let again = match body {
            request::Body::Write { durable, ops } => {
                let mut batch = Batch::new();
                ops.into_iter().for_each(|op| {
                    batch.push(op);
                });
                request::encode_write(Vec::new(), head, &batch, durable)
            }
            request::Body::Read(keys)
            | request::Body::Take(keys)
            | request::Body::Lens(keys)
            | request::Body::Present(keys) => request::encode_keys(head, &keys),
            request::Body::Keys { prefix } | request::Body::DeletePrefix { prefix } => {
                request::encode_prefix(head, prefix)
            }
            request::Body::Check { durable } => request::encode_flag(head, Some(durable)),
            _ => request::encode_flag(head, None),
        };
        assert_eq!(again, *frame);
    }
}

/// Serves the input as a connection: raw, after a handshake, or after the negotiation of the
/// extension.
///
/// # Panics
/// The memory budget is not balanced at the end, or the store cannot be read.
pub fn session(input: &[u8]) {
    let Some(([mode, piece], bytes)) = input
        .split_at_checked(2)
        .and_then(|(head, bytes)| Some((<[u8; 2]>::try_from(head).ok()?, bytes)))
    else {
        return;
    };
    let mut stream = if mode % 4 == 0 { Vec::new() } else { hello(b"DEALER") };
    if mode % 4 > 1 {
        stream.extend_from_slice(b"\x01\x03syn\x01\x07partd/2\x00\x28session=");
        stream.extend_from_slice(&[b'0'; 32]);
    }
    stream.extend_from_slice(bytes);
    let Ok(shared) = Shared::new(
        Arc::new(Dict::new()),
        MemoryGauge::default(),
        limits(),
        std::env::temp_dir(),
        1,
    ) else {
        return;
    };
    let shared = Arc::new(shared);
    let memory = Memory {
        input: stream.into(),
        piece: 1 + usize::from(piece) * 16,
        written: 0,
        is_full: false,
    };
    let options = options(true, &shared.limits);
    let mut connection = Connection::new(memory, &shared, options, Role::ALL);
    if connection.handshake().is_ok() {
        connection.serve();
    }
    drop(connection);
    assert_eq!(shared.budget.held(), 0);
    assert!(shared.store.keys().is_ok());
}
