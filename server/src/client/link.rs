//! One connection of a client, which it makes again when it breaks.
//!
//! Requests are answered in the order in which they were sent. What has not been answered is kept, and
//! after a break it is sent again where that is safe: reads always; durable writes, since the server
//! finds in its store whether they were applied; other changes while the server that took them lives.
//! Any other change ends with an error that says that it may or may not have happened.

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

/// The first pause before another attempt to connect; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Whether a request may be sent again after the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It changes nothing.
    Always,
    /// The server finds in its store whether it was applied, if it keeps records there.
    Recorded,
    /// Only to a server that remembers the session.
    SameServer,
}

/// A request that has not been answered.
#[derive(Debug)]
struct Request {
    id: u64,
    frame: Vec<u8>,
    retry: Retry,
    /// Some of it may have reached a server.
    was_sent: bool,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Link {
    config: Arc<Config>,
    session: SessionId,
    connected: Option<Connected>,
    /// The run of the server that has the session.
    run: Option<u64>,
    next_id: u64,
    unanswered: VecDeque<Request>,
    unanswered_bytes: usize,
    /// Requests of a pipeline that failed, the first of them.
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
            failed: None,
            last_ack: Ack::default(),
        })
    }

    /// Connects if there is no connection, or if the one that is idle has ended.
    pub(crate) fn connect(&mut self, deadline: Instant) -> Result<Protocol, RemoteError> {
        if self.unanswered.is_empty()
            && let Some(connected) = &self.connected
            && connected.socket.is_readable()
        {
            // The server has ended it, or says what nobody asked for. Nothing is lost with it:
            // everything was answered.
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

    /// Gives up the requests that this server may or may not have carried out before.
    fn meet(&mut self, welcome: &Welcome) {
        let is_known = welcome.resumed && self.run == Some(welcome.server);
        self.run = Some(welcome.server);
        if !is_known {
            let text = "the connection ended before the answer, and the server has started anew";
            let may_repeat = |retry| match retry {
                Retry::Always => true,
                Retry::Recorded => welcome.records,
                Retry::SameServer => false,
            };
            self.give_up(|request| request.was_sent && !may_repeat(request.retry), text);
        }
    }

    /// Fails the requests for which `is_lost` holds; they may have happened.
    fn give_up(&mut self, is_lost: impl Fn(&Request) -> bool, text: &str) {
        let before = self.unanswered.len();
        self.unanswered.retain(|request| !is_lost(request));
        self.unanswered_bytes = self.unanswered.iter().map(|request| request.frame.len()).sum();
        if self.unanswered.len() < before {
            let error = RemoteError::new(ErrorKind::Disconnected, text).maybe(true);
            self.failed.get_or_insert(error);
        }
    }

    /// Sends what has not been answered.
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

    /// Requests that may be unanswered, as the server said.
    pub(crate) fn window(&self) -> usize {
        match self.connected.as_ref().map(|connected| connected.protocol) {
            Some(Protocol::Extended(welcome)) => welcome.window.max(1) as usize,
            _ => 1,
        }
    }

    /// Requests that have not been answered, and their bytes.
    pub(crate) fn unanswered(&self) -> (usize, usize) {
        (self.unanswered.len(), self.unanswered_bytes)
    }

    /// The first error of requests that nobody waited for.
    pub(crate) fn take_failed(&mut self) -> Option<RemoteError> {
        self.failed.take()
    }

    /// Sends a request of the extension; [`receive_next`](Link::receive_next) gets its answer. There
    /// must be a connection.
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
                "the request has {len} bytes, and the server takes {limit}; send less at a time"
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

    /// Makes the connection again after it broke, and sends again what may be.
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

    /// Whether something was sent that changes the store and was not answered.
    fn may_have_changed(&self) -> bool {
        self.unanswered.iter().any(|request| request.was_sent && request.retry != Retry::Always)
    }

    /// Gives up everything that was not answered, and the session with it.
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

    /// Waits for the answer of the oldest request, whose bytes go to `sink`.
    pub(crate) fn receive_next(
        &mut self,
        sink: &mut Sink,
        time: Duration,
    ) -> Result<(), RemoteError> {
        let start = Instant::now();
        let mut deadline = start + time;
        loop {
            let Some(request) = self.unanswered.front() else {
                // It was given up.
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
                    }
                    return done.map(|ack| self.last_ack = ack.unwrap_or(self.last_ack));
                }
                // A part of the answer came: it goes on.
                Ok(None) => deadline = Instant::now() + time,
                Err(Broken::TimedOut) => {
                    let maybe = self.may_have_changed();
                    self.abandon();
                    let text = format!("no answer came in {} s", time.as_secs_f32());
                    return Err(RemoteError::new(ErrorKind::TimedOut, text).maybe(maybe));
                }
                Err(Broken::Malformed(wrong)) => {
                    let maybe = self.may_have_changed();
                    self.abandon();
                    let text =
                        format!("the server's answer is not as the protocol says: {}", wrong.0);
                    return Err(RemoteError::new(ErrorKind::Malformed, text).maybe(maybe));
                }
                Err(Broken::Lost) => {
                    // A long answer takes its time, but it does not begin again for ever.
                    if start.elapsed() >= time {
                        let maybe = self.may_have_changed();
                        self.abandon();
                        let text = "the connection ended again and again before the whole answer";
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

    /// Receives a part of the answer; the end of it says how it ended.
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

    /// Sends frames of the old protocol, and gives what is received to `answer`.
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
                Broken::TimedOut => (ErrorKind::TimedOut, "no answer came in time".to_owned()),
                Broken::Malformed(wrong) => (ErrorKind::Malformed, wrong.0),
                Broken::Lost => (
                    ErrorKind::Disconnected,
                    "the server closed the connection instead of an answer; its log says why"
                        .to_owned(),
                ),
            };
            RemoteError::new(kind, text).maybe(true)
        })
    }

    /// Says that every answer has arrived, so that the server need not keep that of a pop.
    pub(crate) fn confirm(&mut self) {
        let id = self.next_id;
        if let Some(connected) = &mut self.connected {
            let head = Head { opcode: Opcode::Received, id, oldest: id };
            let frame = encode_flag(head, None);
            // The next request says it again.
            let sent = connected.channel.send_frame(&[&frame]);
            let _ = sent.and_then(|()| connected.channel.flush());
        }
    }

    /// Says good-bye, so that the server forgets the session at once.
    pub(crate) fn end(&mut self) {
        let id = self.next_id;
        if let Some(connected) = &mut self.connected
            && matches!(connected.protocol, Protocol::Extended(_))
        {
            let head = Head { opcode: Opcode::Bye, id, oldest: id };
            let frame = encode_flag(head, None);
            // Without it the server forgets the session in a while.
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
