//! Messages over a stream: ZMTP's handshake and frames, with limits that hold before memory is taken.
//!
//! Small frames go through the codec's own buffer. The body of a large frame is read straight into
//! the memory that the message keeps, which grows as bytes arrive and never for what a peer announces.
//! What is written is gathered: small frames wait for [`Channel::flush`], large ones are lent.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omq_proto::proto::SocketType;
use omq_proto::proto::connection::{Connection, ConnectionConfig, Event, Role};
use omq_proto::{MechanismSetup, Message};

use super::account::Account;
use super::boundary::Boundary;
use super::error::{ChannelError, ended, not_taken, timed_out};
use super::socket::Stream;

/// Bytes for which one read of small frames has room.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Frames of this length and more are read into memory of their own.
const LARGE_FRAME_BYTES: usize = 32 << 10;
/// The first piece of that memory; it doubles as the bytes arrive. Where frames of a connection are alike,
/// the first piece has room for the whole: a peer that has sent so much is believed the next time.
const FIRST_PIECE_BYTES: usize = 1 << 20;
/// Written bytes that are gathered before they leave.
const GATHERED_BYTES: usize = 64 << 10;
/// Slices of at least this length are lent to the kernel, not copied.
const LENT_BYTES: usize = 8 << 10;
/// What the codec adds to a frame in its account of a message: one slot of its parts.
const SLOT_BYTES: usize = 64;

/// How a channel is made.
#[derive(Clone, Debug)]
pub(crate) struct ChannelOptions {
    /// The side that listens.
    pub(crate) is_server: bool,
    pub(crate) mechanism: MechanismSetup,
    pub(crate) message_bytes: u64,
    pub(crate) frames: usize,
    /// Time for the handshake.
    pub(crate) handshake: Duration,
    /// Time for a message to arrive whole, and for what was gathered to be sent.
    pub(crate) message: Duration,
}

/// Messages over a stream.
#[derive(Debug)]
pub(crate) struct Channel<S, A> {
    stream: S,
    account: A,
    zmtp: Connection,
    options: ChannelOptions,
    messages: VecDeque<Message>,
    boundary: Boundary,
    /// Bytes of input in memory that belong to no message that was handed out.
    pending_bytes: u64,
    /// The length of the last large frame.
    last_large_bytes: usize,
    /// When the first byte of the message came that is not whole yet.
    started: Option<Instant>,
    has_ended: bool,
    /// The handshake is over.
    is_greeted: bool,
    /// Frames that wait for more of them.
    gathered: Vec<u8>,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

impl<S: Stream, A: Account> Channel<S, A> {
    pub(crate) fn new(stream: S, account: A, options: ChannelOptions) -> Channel<S, A> {
        let (role, kind) = match options.is_server {
            true => (Role::Server, SocketType::Router),
            false => (Role::Client, SocketType::Dealer),
        };
        let limit = usize::try_from(options.message_bytes).unwrap_or(usize::MAX);
        let config = ConnectionConfig::new(role, kind)
            .mechanism(options.mechanism.clone())
            .max_message_size(limit.saturating_add(SLOT_BYTES));
        Channel {
            stream,
            account,
            zmtp: Connection::new(config),
            options,
            messages: VecDeque::new(),
            boundary: Boundary::default(),
            pending_bytes: 0,
            last_large_bytes: 0,
            started: None,
            has_ended: false,
            is_greeted: false,
            gathered: Vec::new(),
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    pub(crate) fn account(&mut self) -> &mut A {
        &mut self.account
    }

    /// Greets the peer and agrees with it on the mechanism.
    pub(crate) fn handshake(&mut self) -> Result<(), ChannelError> {
        /// A few times what the longest handshake takes.
        const MAX_BYTES: u64 = 16 << 10;
        let deadline = Instant::now() + self.options.handshake;
        loop {
            self.send_pending(deadline)?;
            match self.zmtp.poll_event() {
                Some(Event::HandshakeSucceeded { .. }) => {
                    self.is_greeted = true;
                    return Ok(());
                }
                Some(other) => {
                    return Err(ChannelError::Protocol(format!("no handshake but {other:?}")));
                }
                None => {}
            }
            let mut buffer = Vec::new();
            let read = self.stream.read(&mut buffer, 4096, deadline);
            let len = read.map_err(|error| timed_out(error, "the handshake took too long"))?;
            if len == 0 {
                return Err(ended("the peer closed the connection during the handshake"));
            }
            self.received_bytes += len as u64;
            if self.received_bytes > MAX_BYTES && !self.zmtp.is_ready() {
                return Err(ChannelError::TooLarge {
                    limit: MAX_BYTES,
                    unit: "bytes of handshake",
                });
            }
            let done = self.feed(buffer);
            if done.is_err() {
                // Tells the peer why, as the protocol does, if the peer takes it.
                let _ = self.send_pending(deadline);
            }
            done?;
        }
    }

    /// A message that has arrived whole; none where more input is needed.
    pub(crate) fn next_message(&mut self) -> Result<Option<Message>, ChannelError> {
        let Some(message) = self.messages.pop_front() else { return Ok(None) };
        if message.len() > self.options.frames {
            return Err(self.too_many_frames());
        }
        Ok(Some(message))
    }

    /// Whether a part of a message has arrived.
    pub(crate) fn is_in_message(&self) -> bool {
        !self.boundary.is_between_messages()
    }

    /// Waits for more input, at most until `idle` for the first byte of a message; `false` where the
    /// peer has ended its side.
    ///
    /// Called when [`next_message`](Self::next_message) has none left.
    pub(crate) fn fill(&mut self, idle: Instant) -> Result<bool, ChannelError> {
        let (deadline, late) = match self.is_in_message() {
            true => {
                let started = *self.started.get_or_insert_with(Instant::now);
                (started + self.options.message, "a message did not arrive whole in time")
            }
            false => {
                self.started = None;
                (idle, "nothing came in time")
            }
        };
        let filled = self.fill_until(deadline);
        filled.map_err(|error| match error {
            ChannelError::Io(error) => timed_out(error, late),
            other => other,
        })
    }

    fn fill_until(&mut self, deadline: Instant) -> Result<bool, ChannelError> {
        if self.has_ended {
            return Ok(false);
        }
        // The messages before are done with.
        self.account.hold(self.memory_bytes(), deadline)?;
        // Answers of ZMTP itself, to heartbeats, go first when there are many.
        while !self.zmtp.accepts_input() {
            self.send_pending(deadline)?;
            self.zmtp.resume_input()?;
            self.collect();
        }
        if !self.messages.is_empty() {
            return Ok(true);
        }
        if let Some(frame) = self.zmtp.peek_next_frame_payload_size()?
            && frame.payload_len >= LARGE_FRAME_BYTES
        {
            self.fill_large(deadline)?;
            return Ok(true);
        }
        let mut buffer = Vec::new();
        let len = self.stream.read(&mut buffer, READ_BYTES, deadline)?;
        if len == 0 {
            self.has_ended = true;
            return match self.is_in_message() {
                true => Err(ended("the peer ended in the middle of a message")),
                false => Ok(false),
            };
        }
        self.received_bytes += len as u64;
        self.account.hold(self.memory_bytes() + len as u64, deadline)?;
        self.feed(buffer)?;
        self.send_pending(deadline)?;
        Ok(true)
    }

    /// Reads a large frame into memory of its own.
    fn fill_large(&mut self, deadline: Instant) -> Result<(), ChannelError> {
        let Some((len, prefix)) = self.zmtp.begin_supplied_payload_with_prefix() else {
            return Err(ChannelError::Protocol("a frame could not be claimed".into()));
        };
        // The prefix is counted already.
        let prefix_len = prefix.len();
        let before = self.memory_bytes().saturating_sub(prefix_len as u64);
        let mut body = Vec::new();
        let believed = FIRST_PIECE_BYTES.max(prefix_len).max(2 * self.last_large_bytes);
        body.reserve_exact(len.min(believed));
        body.extend_from_slice(prefix.as_slice());
        drop(prefix);
        while body.len() < len {
            if body.len() == body.capacity() {
                body.reserve_exact(body.len().min(len - body.len()));
            }
            let room = body.capacity() - body.len();
            self.account.hold(before + body.capacity() as u64, deadline)?;
            let read = self.stream.read(&mut body, room, deadline)?;
            if read == 0 {
                self.has_ended = true;
                return Err(ended("the peer ended in the middle of a message"));
            }
            self.received_bytes += read as u64;
        }
        // An allocator may have given more room than was asked for.
        let next = body.split_off(len);
        self.boundary.follow(&body[prefix_len..]);
        self.pending_bytes += (len - prefix_len) as u64;
        self.last_large_bytes = len;
        self.zmtp.supply_payload(Bytes::from(body))?;
        self.settle(0);
        if !next.is_empty() {
            self.feed(next)?;
        }
        self.send_pending(deadline)
    }

    /// Gives input to the codec, and keeps the account of what belongs to no message yet.
    fn feed(&mut self, input: Vec<u8>) -> Result<(), ChannelError> {
        let len = input.len() as u64;
        self.boundary.follow(&input);
        self.pending_bytes += len;
        self.zmtp.handle_input(Bytes::from(input))?;
        self.settle(len);
        if self.boundary.frames() > self.options.frames {
            return Err(self.too_many_frames());
        }
        Ok(())
    }

    /// Memory for input that belongs to no message yet: its bytes, and a slot for each of its frames.
    fn memory_bytes(&self) -> u64 {
        self.pending_bytes + (self.boundary.frames() * SLOT_BYTES) as u64
    }

    fn too_many_frames(&self) -> ChannelError {
        ChannelError::TooLarge { limit: self.options.frames as u64, unit: "frames" }
    }

    /// After input of that length: if a message ended in it, nothing older is left.
    fn settle(&mut self, last_len: u64) {
        let before = self.messages.len();
        self.collect();
        if self.boundary.is_between_messages() {
            self.pending_bytes = 0;
        } else if self.messages.len() > before {
            self.pending_bytes = last_len;
            self.started = None;
        }
    }

    fn collect(&mut self) {
        while let Some(message) = self.zmtp.poll_message() {
            self.messages.push_back(message);
        }
        // Commands of other kinds of sockets mean nothing here.
        while self.is_greeted && self.zmtp.poll_event().is_some() {}
    }

    /// Sends one message of one frame, which consists of the slices.
    ///
    /// It may wait for [`flush`](Self::flush).
    pub(crate) fn send_frame(&mut self, slices: &[&[u8]]) -> Result<(), ChannelError> {
        if self.zmtp.has_frame_transform() {
            return self.send_sealed(Message::single(slices.concat()));
        }
        let deadline = self.send_deadline();
        self.put_header(false, slices.iter().map(|slice| slice.len()).sum());
        slices.iter().try_for_each(|slice| self.put(slice, deadline))
    }

    /// Sends one message of the frames. It may wait for [`flush`](Self::flush).
    pub(crate) fn send_frames<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<(), ChannelError> {
        if self.zmtp.has_frame_transform() {
            let parts = frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_ref()));
            return self.send_sealed(Message::multipart(parts));
        }
        let deadline = self.send_deadline();
        for (i, frame) in frames.iter().enumerate() {
            self.put_header(i + 1 < frames.len(), frame.as_ref().len());
            self.put(frame.as_ref(), deadline)?;
        }
        Ok(())
    }

    fn send_deadline(&self) -> Instant {
        Instant::now() + self.options.message
    }

    /// Encrypts a message and sends it.
    fn send_sealed(&mut self, message: Message) -> Result<(), ChannelError> {
        self.zmtp.send_message(&message)?;
        self.send_pending(self.send_deadline())
    }

    /// The header of a frame: flags, and the length in one byte or in eight.
    fn put_header(&mut self, more: bool, len: usize) {
        match u8::try_from(len) {
            Ok(len) => self.gathered.extend_from_slice(&[u8::from(more), len]),
            Err(_) => {
                self.gathered.push(u8::from(more) | 2);
                self.gathered.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
    }

    fn put(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), ChannelError> {
        if bytes.len() >= LENT_BYTES {
            return self.write_all(bytes, deadline);
        }
        self.gathered.extend_from_slice(bytes);
        match self.gathered.len() >= GATHERED_BYTES {
            true => self.write_all(&[], deadline),
            false => Ok(()),
        }
    }

    /// Sends what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), ChannelError> {
        match self.gathered.is_empty() {
            true => Ok(()),
            false => self.write_all(&[], self.send_deadline()),
        }
    }

    /// Writes what was gathered, and the bytes behind it.
    fn write_all(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), ChannelError> {
        let mut gathered = std::mem::take(&mut self.gathered);
        let mut slices = [IoSlice::new(&gathered), IoSlice::new(bytes)];
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = self.stream.write(left, deadline).map_err(not_taken)?;
            self.sent_bytes += written as u64;
            IoSlice::advance_slices(&mut left, written);
        }
        if gathered.capacity() <= 4096 {
            gathered.clear();
            self.gathered = gathered;
        }
        Ok(())
    }

    /// Sends what the codec has to say: its part of the handshake, answers to heartbeats, and what it
    /// has encrypted.
    fn send_pending(&mut self, deadline: Instant) -> Result<(), ChannelError> {
        while self.zmtp.has_pending_transmit() {
            let slices = self.zmtp.transmit_chunks_capped(64);
            let written = self.stream.write(&slices, deadline).map_err(not_taken)?;
            drop(slices);
            self.zmtp.advance_transmit(written);
            self.sent_bytes += written as u64;
        }
        Ok(())
    }
}
