//! Messages over a stream: ZMTP's handshake and frames. Limits are checked before memory is
//! allocated.
//!
//! Small frames go through the codec's buffer. The body of a large frame is read directly into the
//! memory of the message. That memory grows as bytes arrive, and never because a peer announces a
//! length. Writes are gathered: small frames wait for [`Channel::flush`], and large ones are passed
//! to the kernel without a copy.

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

/// The size of the buffer for one read of small frames, in bytes.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Frames of this length and more are read into memory of their own.
const LARGE_FRAME_BYTES: usize = 32 << 10;
/// The smallest first piece of that memory, in bytes. If the last large frame of the connection was
/// long, the first piece is twice as long as that frame. The memory doubles as bytes arrive.
const FIRST_PIECE_BYTES: usize = 1 << 20;
/// The number of written bytes that are gathered before they are sent.
const GATHERED_BYTES: usize = 64 << 10;
/// The most memory for gathered bytes that an idle connection keeps.
const KEPT_BYTES: usize = 4096;
/// Slices of at least this length are lent to the kernel, not copied.
const LENT_BYTES: usize = 8 << 10;
/// The bytes that the codec needs for each frame of a message: one slot in its list of parts.
const SLOT_BYTES: usize = 64;

/// The options of a channel.
#[derive(Clone, Debug)]
pub(crate) struct ChannelOptions {
    /// Whether this is the side that listens.
    pub(crate) is_server: bool,
    pub(crate) mechanism: MechanismSetup,
    pub(crate) message_bytes: u64,
    pub(crate) frames: usize,
    /// Time for the handshake.
    pub(crate) handshake: Duration,
    /// Time for a whole message to arrive, and for gathered bytes to be sent.
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
    /// Bytes of input in memory that do not belong to a returned message.
    pending_bytes: u64,
    /// The length of the last large frame.
    last_large_bytes: usize,
    /// The time at which the first byte of the incomplete message arrived.
    started: Option<Instant>,
    has_ended: bool,
    /// Whether the handshake is complete.
    is_greeted: bool,
    /// Frames that wait to be sent with others.
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

    #[cfg(test)]
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    #[cfg(test)]
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Performs the handshake, which agrees on the mechanism.
    pub(crate) fn handshake(&mut self) -> Result<(), ChannelError> {
        /// A few times the length of the longest handshake.
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
                // Send the reason to the peer, as the protocol prescribes, if the peer reads it.
                let _ = self.send_pending(deadline);
            }
            done?;
        }
    }

    /// Returns the next complete message; `None` if more input is needed.
    pub(crate) fn next_message(&mut self) -> Result<Option<Message>, ChannelError> {
        let Some(message) = self.messages.pop_front() else { return Ok(None) };
        if message.len() > self.options.frames {
            return Err(self.too_many_frames());
        }
        Ok(Some(message))
    }

    /// Whether a complete message has arrived.
    pub(crate) fn has_message(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Whether an incomplete message has begun to arrive.
    pub(crate) fn is_in_message(&self) -> bool {
        !self.boundary.is_between_messages()
    }

    /// Waits for more input, at most until `idle` for the first byte of a message. Returns `false` if
    /// the peer has closed its side.
    ///
    /// Call it when [`next_message`](Self::next_message) returns none.
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
        // The previous messages have been processed.
        self.account.hold(self.memory_bytes(), deadline)?;
        // If there are many answers to ZMTP heartbeats, send them first.
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

    /// Reads a large frame into its own memory.
    fn fill_large(&mut self, deadline: Instant) -> Result<(), ChannelError> {
        let Some((len, prefix)) = self.zmtp.begin_supplied_payload_with_prefix() else {
            return Err(ChannelError::Protocol("a frame could not be claimed".into()));
        };
        // The prefix has been counted already.
        let prefix_len = prefix.len();
        let before = self.memory_bytes().saturating_sub(prefix_len as u64);
        let mut body = Vec::new();
        let first_piece = FIRST_PIECE_BYTES.max(prefix_len).max(2 * self.last_large_bytes);
        body.reserve_exact(len.min(first_piece));
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
        // The allocator may have provided more room than requested.
        let next = body.split_off(len);
        self.boundary.follow(&body[prefix_len..]);
        self.pending_bytes += (len - prefix_len) as u64;
        self.last_large_bytes = len;
        self.zmtp.supply_payload(Bytes::from(body))?;
        self.take_messages(0);
        if !next.is_empty() {
            self.feed(next)?;
        }
        self.send_pending(deadline)
    }

    /// Passes input to the codec, and counts the bytes that belong to no message yet.
    fn feed(&mut self, input: Vec<u8>) -> Result<(), ChannelError> {
        let len = input.len() as u64;
        self.boundary.follow(&input);
        self.pending_bytes += len;
        self.zmtp.handle_input(Bytes::from(input))?;
        self.take_messages(len);
        if self.boundary.frames() > self.options.frames {
            return Err(self.too_many_frames());
        }
        Ok(())
    }

    /// Memory for input that belongs to no message yet: its bytes, and a slot for each of its
    /// frames.
    fn memory_bytes(&self) -> u64 {
        self.pending_bytes + (self.boundary.frames() * SLOT_BYTES) as u64
    }

    fn too_many_frames(&self) -> ChannelError {
        ChannelError::TooLarge { limit: self.options.frames as u64, unit: "frames" }
    }

    /// Takes the complete messages from the codec after input of `last_len` bytes. If a message ended
    /// in that input, no older bytes are pending.
    fn take_messages(&mut self, last_len: u64) {
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
        // Ignore commands of other kinds of sockets.
        while self.is_greeted && self.zmtp.poll_event().is_some() {}
    }

    /// Sends a message of one frame, which consists of the slices.
    ///
    /// It may wait for [`flush`](Self::flush).
    pub(crate) fn send_frame(&mut self, slices: &[&[u8]]) -> Result<(), ChannelError> {
        if self.encrypts() {
            return self.send_sealed(Message::single(slices.concat()));
        }
        let deadline = self.send_deadline();
        put_frame_header(&mut self.gathered, false, slices.iter().map(|slice| slice.len()).sum());
        slices.iter().try_for_each(|slice| self.put(slice, deadline))
    }

    /// Sends a message of several frames. It may wait for [`flush`](Self::flush).
    pub(crate) fn send_frames<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<(), ChannelError> {
        if self.encrypts() {
            let parts = frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_ref()));
            return self.send_sealed(Message::multipart(parts));
        }
        let deadline = self.send_deadline();
        for (i, frame) in frames.iter().enumerate() {
            put_frame_header(&mut self.gathered, i + 1 < frames.len(), frame.as_ref().len());
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

    /// Whether messages are encrypted, so that they can only be sent whole.
    pub(crate) fn encrypts(&self) -> bool {
        self.zmtp.has_frame_transform()
    }

    /// Writes the gathered bytes and then a part of the slices, and returns the length of that part;
    /// returns 0 instead of waiting. The slices are frames with their headers. The caller sends the
    /// rest of them before anything else.
    ///
    /// Not for a channel that [encrypts](Self::encrypts).
    pub(crate) fn send_now(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, ChannelError> {
        while !self.gathered.is_empty() {
            match self.stream.write_now(&[IoSlice::new(&self.gathered)])? {
                0 => return Ok(0),
                written => {
                    self.sent_bytes += written as u64;
                    self.gathered.drain(..written);
                }
            }
        }
        self.gathered.shrink_to(KEPT_BYTES);
        let written = self.stream.write_now(slices)?;
        self.sent_bytes += written as u64;
        Ok(written)
    }

    /// Sends the next bytes of frames that [`send_now`](Self::send_now) has begun.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.write_all(bytes, self.send_deadline())
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

    /// Sends the gathered bytes.
    pub(crate) fn flush(&mut self) -> Result<(), ChannelError> {
        match self.gathered.is_empty() {
            true => Ok(()),
            false => self.write_all(&[], self.send_deadline()),
        }
    }

    /// Writes the gathered bytes and then `bytes`.
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
        if gathered.capacity() <= KEPT_BYTES {
            gathered.clear();
            self.gathered = gathered;
        }
        Ok(())
    }

    /// Sends the output of the codec: its part of the handshake, answers to heartbeats, and encrypted
    /// messages.
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

/// Adds the header of a frame: flags, then the length in one byte or in eight.
pub(crate) fn put_frame_header(into: &mut Vec<u8>, more: bool, len: usize) {
    match u8::try_from(len) {
        Ok(len) => into.extend_from_slice(&[u8::from(more), len]),
        Err(_) => {
            into.push(u8::from(more) | 2);
            into.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}
