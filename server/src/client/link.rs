//! One connection of a client, which reconnects when it breaks.
//!
//! The server answers requests in the order in which they were sent. A link keeps every unanswered
//! request and, after it has reconnected, resends those that are safe to repeat:
//!
//! - reads always;
//! - durable writes if the server keeps records, from which it can tell whether it has applied a
//!   write;
//! - any change if the same run of the server still remembers the session.
//!
//! Any other change fails with an error that says that it may or may not have happened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omq_proto::Message;

use super::answer::Sink;
use super::connect::{Broken, Connected, NotConnected, Protocol, connect, receive};
use super::options::Config;
use crate::error::{ErrorKind, RemoteError};
use crate::net::error::ChannelError;
use crate::wire::Malformed;
use crate::wire::hello::{SessionId, Welcome};
use crate::wire::reply::{Ack, Reply, decode};
use crate::wire::request::{Head, Opcode, encode_flag, set_oldest};

/// The first pause between two attempts to connect. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two attempts.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The most frames whose memory is kept: the server has usually answered all but the last two.
const SPARE_FRAMES: usize = 4;

/// When a request may be resent after the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Always, as it changes nothing.
    Always,
    /// To any server that keeps records of durable writes.
    Recorded,
    /// Only to the run of the server that remembers the session.
    SameServer,
}

/// A request that has not been answered.
#[derive(Debug)]
struct Request {
    id: u64,
    frame: Vec<u8>,
    retry: Retry,
    /// Whether a part of it may have reached a server.
    was_sent: bool,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Link {
    config: Arc<Config>,
    session: SessionId,
    connected: Option<Connected>,
    /// The run of the server to which this session last connected.
    run: Option<u64>,
    next_id: u64,
    unanswered: VecDeque<Request>,
    unanswered_bytes: usize,
    /// The memory of answered requests, for those to come; `None` if it is not kept.
    spare: Option<Vec<Vec<u8>>>,
    /// The error of the first requests that were given up, if no caller has received it yet.
    failed: Option<RemoteError>,
    pub(crate) last_ack: Ack,
}

impl Link {
    pub(crate) fn new(config: &Arc<Config>) -> partd::Result<Link> {
        Ok(Link {
            config: Arc::clone(config),
            session: new_session()?,
            connected: None,
            run: None,
            next_id: 1,
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            spare: None,
            failed: None,
            last_ack: Ack::default(),
        })
    }

    /// Connects if there is no connection, or if the idle connection has ended.
    pub(crate) fn connect(&mut self, deadline: Instant) -> Result<Protocol, RemoteError> {
        if self.unanswered.is_empty()
            && let Some(connected) = &self.connected
            && connected.socket.is_readable()
        {
            // The server has closed the connection, or has sent something unasked. Every request
            // was answered, so nothing is lost by closing it.
            self.connected = None;
        }
        if let Some(connected) = &self.connected {
            return Ok(connected.protocol);
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let why = match self.try_connect(deadline) {
                Ok(protocol) => return Ok(protocol),
                Err(error) if error.is_final => return Err(error.into_remote(ErrorKind::Refused)),
                Err(error) => error,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return Err(why.into_remote(ErrorKind::Disconnected));
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }

    fn try_connect(&mut self, deadline: Instant) -> Result<Protocol, NotConnected> {
        let connected = connect(&self.config, self.session, deadline)?;
        let protocol = connected.protocol;
        if let Protocol::Extended(welcome) = &protocol {
            self.meet(welcome);
        }
        self.connected = Some(connected);
        self.send_again()?;
        Ok(protocol)
    }

    /// Records the run of the server. If it does not remember the session, gives up the requests
    /// that are not safe to resend to it.
    fn meet(&mut self, welcome: &Welcome) {
        let is_known = welcome.resumed && self.run == Some(welcome.server);
        self.run = Some(welcome.server);
        if !is_known {
            let text = "the connection ended before the answer, and the server has restarted";
            let may_repeat = |retry| match retry {
                Retry::Always => true,
                Retry::Recorded => welcome.records,
                Retry::SameServer => false,
            };
            self.give_up(|request| request.was_sent && !may_repeat(request.retry), text);
        }
    }

    /// Gives up the requests for which `is_lost` holds, with an error that says that they may have
    /// happened.
    fn give_up(&mut self, is_lost: impl Fn(&Request) -> bool, text: &str) {
        let before = self.unanswered.len();
        self.unanswered.retain(|request| !is_lost(request));
        self.unanswered_bytes = self.unanswered.iter().map(|request| request.frame.len()).sum();
        if self.unanswered.len() < before {
            let error = RemoteError::new(ErrorKind::Disconnected, text).maybe(true);
            self.failed.get_or_insert(error);
        }
    }

    /// Resends all unanswered requests.
    fn send_again(&mut self) -> Result<(), ChannelError> {
        let Some(connected) = &mut self.connected else { return Ok(()) };
        let oldest = self.unanswered.front().map_or(self.next_id, |request| request.id);
        for request in &mut self.unanswered {
            set_oldest(&mut request.frame, oldest);
            request.was_sent = true;
            let sent = connected.channel.send_frame(&[&request.frame]);
            if let Err(error) = sent.and_then(|()| connected.channel.flush()) {
                self.connected = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns how many requests the server allows to be unanswered.
    pub(crate) fn window(&self) -> usize {
        match self.connected.as_ref().map(|connected| connected.protocol) {
            Some(Protocol::Extended(welcome)) => welcome.window.max(1) as usize,
            _ => 1,
        }
    }

    /// Returns the number of unanswered requests, and their total length.
    pub(crate) fn unanswered(&self) -> (usize, usize) {
        (self.unanswered.len(), self.unanswered_bytes)
    }

    /// Returns whether an answer has arrived.
    pub(crate) fn has_answer(&self) -> bool {
        let has_arrived = |connected: &Connected| {
            connected.channel.has_message() || connected.socket.is_readable()
        };
        !self.unanswered.is_empty() && self.connected.as_ref().is_some_and(has_arrived)
    }

    /// Sets whether the memory of answered requests is kept for those to come.
    pub(crate) fn keep_memory(&mut self, keep: bool) {
        self.spare = keep.then(Vec::new);
    }

    /// Returns memory for a request, perhaps that of an old one.
    pub(crate) fn memory(&mut self) -> Vec<u8> {
        self.spare.as_mut().and_then(Vec::pop).unwrap_or_default()
    }

    /// Takes the error of requests that were given up before a caller waited for them.
    pub(crate) fn take_failed(&mut self) -> Option<RemoteError> {
        self.failed.take()
    }

    /// Sends a request of the extension; [`receive_next`](Link::receive_next) receives its answer.
    /// The link must be connected.
    pub(crate) fn send(
        &mut self,
        opcode: Opcode,
        retry: Retry,
        encode: impl FnOnce(Head) -> Vec<u8>,
        deadline: Instant,
    ) -> Result<u64, RemoteError> {
        let id = self.next_id;
        let oldest = self.unanswered.front().map_or(id, |request| request.id);
        let frame = encode(Head { opcode, id, oldest });
        if let Some(Connected { protocol: Protocol::Extended(welcome), .. }) = &self.connected
            && frame.len() as u64 > welcome.message_bytes
        {
            let (len, limit) = (frame.len(), welcome.message_bytes);
            let text = format!(
                "the request has {len} bytes, but the server's limit is {limit}; send less at a time"
            );
            return Err(RemoteError::new(ErrorKind::TooLarge, text));
        }
        self.next_id += 1;
        self.unanswered_bytes += frame.len();
        self.unanswered.push_back(Request { id, frame, retry, was_sent: true });
        let sent = match (&mut self.connected, self.unanswered.back()) {
            (Some(connected), Some(request)) => {
                let sent = connected.channel.send_frame(&[&request.frame]);
                sent.and_then(|()| connected.channel.flush())
            }
            _ => Ok(()),
        };
        if sent.is_err() {
            self.mend(deadline)?;
        }
        Ok(id)
    }

    /// Reconnects after the connection broke, and resends the requests that are safe to repeat.
    fn mend(&mut self, deadline: Instant) -> Result<(), RemoteError> {
        self.connected = None;
        match self.connect(deadline) {
            Ok(Protocol::Extended(_)) => Ok(()),
            Ok(Protocol::Old) => {
                self.give_up(|_| true, "the server that answers now speaks only the old protocol");
                Ok(())
            }
            Err(error) => {
                let maybe = self.may_have_changed();
                self.abandon();
                Err(error.maybe(maybe))
            }
        }
    }

    /// Returns whether an unanswered request may have changed the store.
    fn may_have_changed(&self) -> bool {
        self.unanswered.iter().any(|request| request.was_sent && request.retry != Retry::Always)
    }

    /// Gives up all unanswered requests, and starts a new session.
    pub(crate) fn abandon(&mut self) {
        self.connected = None;
        self.unanswered.clear();
        self.unanswered_bytes = 0;
        self.run = None;
        if let Ok(session) = new_session() {
            self.session = session;
            self.next_id = 1;
        }
    }

    /// Waits for the answer to the oldest request, and collects its bytes in `sink`.
    pub(crate) fn receive_next(
        &mut self,
        sink: &mut Sink,
        time: Duration,
    ) -> Result<(), RemoteError> {
        let start = Instant::now();
        let mut deadline = start + time;
        loop {
            let Some(request) = self.unanswered.front() else {
                // The request was given up when the link reconnected.
                return Err(self.failed.take().unwrap_or_else(|| {
                    RemoteError::new(ErrorKind::Disconnected, "the request was given up")
                        .maybe(true)
                }));
            };
            let id = request.id;
            match self.receive_part(id, sink, deadline) {
                Ok(Some(done)) => {
                    if let Some(request) = self.unanswered.pop_front() {
                        self.unanswered_bytes -= request.frame.len();
                        if let Some(spare) = &mut self.spare
                            && spare.len() < SPARE_FRAMES
                        {
                            spare.push(request.frame);
                        }
                    }
                    return done.map(|ack| self.last_ack = ack.unwrap_or(self.last_ack));
                }
                // A part of the answer arrived: the timeout starts again.
                Ok(None) => deadline = Instant::now() + time,
                Err(Broken::TimedOut) => {
                    let maybe = self.may_have_changed();
                    self.abandon();
                    let text = format!("no answer within {} s", time.as_secs_f32());
                    return Err(RemoteError::new(ErrorKind::TimedOut, text).maybe(maybe));
                }
                Err(Broken::Malformed(wrong)) => {
                    let maybe = self.may_have_changed();
                    self.abandon();
                    let text = format!("the server's answer violates the protocol: {}", wrong.0);
                    return Err(RemoteError::new(ErrorKind::Malformed, text).maybe(maybe));
                }
                Err(Broken::Lost) => {
                    // A long answer may take longer than `time`, but it must not restart for ever.
                    if start.elapsed() >= time {
                        let maybe = self.may_have_changed();
                        self.abandon();
                        let text = "the connection kept ending before the answer was complete";
                        return Err(RemoteError::new(ErrorKind::Disconnected, text).maybe(maybe));
                    }
                    sink.reset();
                    self.mend(deadline)?;
                    if self.unanswered.front().is_none_or(|request| request.id != id) {
                        return Err(self.failed.take().unwrap_or_else(|| {
                            RemoteError::new(ErrorKind::Disconnected, "the request was given up")
                                .maybe(true)
                        }));
                    }
                }
            }
        }
    }

    /// Receives a part of the answer. Returns `None` if more parts follow, else the result of the
    /// request.
    #[allow(clippy::type_complexity, reason = "an end, which is a result, or no end yet")]
    fn receive_part(
        &mut self,
        id: u64,
        sink: &mut Sink,
        deadline: Instant,
    ) -> Result<Option<Result<Option<Ack>, RemoteError>>, Broken> {
        let Some(connected) = &mut self.connected else { return Err(Broken::Lost) };
        let message = receive(&mut connected.channel, deadline)?;
        let Some(frame) = message.get(0).filter(|_| message.len() == 1) else {
            return Err(Malformed::new("an answer of more than one frame").into());
        };
        let (found, reply) = decode(frame)?;
        if found != id {
            return Err(Malformed::new("an answer to another request").into());
        }
        match reply {
            Reply::Ack(ack) => match sink {
                Sink::Nothing => Ok(Some(Ok(Some(ack)))),
                _ => Err(Malformed::new("an acknowledgement instead of an answer").into()),
            },
            Reply::Chunk { last, bytes } => {
                sink.take(bytes)?;
                Ok(last.then_some(Ok(None)))
            }
            Reply::Error(error) => Ok(Some(Err(error))),
        }
    }

    /// Sends a message of the old protocol, and returns the given number of answers.
    pub(crate) fn old(
        &mut self,
        frames: &[&[u8]],
        answers: usize,
    ) -> Result<Vec<Message>, RemoteError> {
        let deadline = Instant::now() + self.config.timeout;
        let Some(connected) = &mut self.connected else {
            return Err(RemoteError::new(ErrorKind::Disconnected, "there is no connection"));
        };
        let sent = connected.channel.send_frames(frames).and_then(|()| connected.channel.flush());
        let mut messages = Vec::new();
        let mut result = sent.map_err(Broken::from);
        while result.is_ok() && messages.len() < answers {
            result =
                receive(&mut connected.channel, deadline).map(|message| messages.push(message));
        }
        result.map(|()| messages).map_err(|broken| {
            self.connected = None;
            let (kind, text) = match broken {
                Broken::TimedOut => (ErrorKind::TimedOut, "no answer arrived in time".to_owned()),
                Broken::Malformed(wrong) => (ErrorKind::Malformed, wrong.0),
                Broken::Lost => (
                    ErrorKind::Disconnected,
                    "the server closed the connection instead of answering; its log says why"
                        .to_owned(),
                ),
            };
            RemoteError::new(kind, text).maybe(true)
        })
    }

    /// Confirms that every answer has arrived, so that the server can drop the values of a pop.
    pub(crate) fn confirm(&mut self) {
        let id = self.next_id;
        if let Some(connected) = &mut self.connected {
            let head = Head { opcode: Opcode::Received, id, oldest: id };
            let frame = encode_flag(head, None);
            // If this fails, the next request confirms it.
            let sent = connected.channel.send_frame(&[&frame]);
            let _ = sent.and_then(|()| connected.channel.flush());
        }
    }

    /// Sends a good-bye, so that the server forgets the session at once, and closes the connection.
    pub(crate) fn end(&mut self) {
        let id = self.next_id;
        if let Some(connected) = &mut self.connected
            && matches!(connected.protocol, Protocol::Extended(_))
        {
            let head = Head { opcode: Opcode::Bye, id, oldest: id };
            let frame = encode_flag(head, None);
            // If this fails, the server forgets the session after 10 minutes.
            let sent = connected.channel.send_frame(&[&frame]);
            let _ = sent.and_then(|()| connected.channel.flush());
        }
        self.connected = None;
    }
}

fn new_session() -> partd::Result<SessionId> {
    let mut session = SessionId::default();
    session[..8].copy_from_slice(&crate::random_u64()?.to_ne_bytes());
    session[8..].copy_from_slice(&crate::random_u64()?.to_ne_bytes());
    Ok(session)
}
