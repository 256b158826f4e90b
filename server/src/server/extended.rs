//! The extension `partd/2`: requests with ids, answered with acknowledgements, chunks or errors.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use partd::{Durability, Error, Key, Op};

use super::answer::Answer;
use super::connection::{Connection, End};
use super::records::{is_reserved, slot_key};
use super::sessions::{Outcome, Requests, Session};
use super::shared::{Shared, batch_of};
use super::stats::count;
use crate::Role;
use crate::error::{ErrorKind, RemoteError};
use crate::net::channel::ChannelError;
use crate::net::socket::Stream;
use crate::wire::hello::SessionId;
use crate::wire::reply::{Ack, encode_ack, encode_chunk_head, encode_error};
use crate::wire::request::{Body, Head, Opcode, Refusal, decode_body, decode_head};

/// A connection's part in a session.
pub(crate) struct Extended {
    id: SessionId,
    session: Arc<Session>,
    connection: u64,
}

impl Extended {
    /// Takes part in a session; says whether it was known.
    pub(crate) fn join(shared: &Shared, id: SessionId) -> (Extended, bool) {
        let (session, connection, is_known) = shared.sessions.join(id);
        (Extended { id, session, connection }, is_known)
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, shared: &Shared) {
        shared.sessions.leave(&self.id, self.connection);
    }

    /// Carries out a request and answers it.
    pub(crate) fn request<S: Stream>(
        &self,
        connection: &mut Connection<S>,
        frame: &[u8],
    ) -> Result<(), End> {
        let (head, id, body) = decode_head(frame).map_err(|wrong| End::Refused(wrong.0))?;
        if self.session.connection.load(Acquire) != self.connection {
            return Err(End::Refused("a session that goes on over another connection".into()));
        }
        let head = match head {
            Ok(head) => head,
            Err(opcode) => {
                let text = format!("there is no request {opcode:#x} in this version of the server");
                let error = RemoteError::new(ErrorKind::UnknownCommand, text);
                return answer_error(connection, id, &error);
            }
        };
        let stats = &connection.shared.stats;
        count(match head.opcode {
            Opcode::Write | Opcode::DeletePrefix => &stats.writes_total,
            Opcode::Read | Opcode::Take => &stats.reads_total,
            _ => &stats.others_total,
        });
        let body = match decode_body(head.opcode, body, &connection.shared.limits) {
            Ok(body) => body,
            Err(Refusal::TooLarge(text)) => {
                let error = RemoteError::new(ErrorKind::TooLarge, text);
                return answer_error(connection, id, &error);
            }
            Err(Refusal::Malformed(wrong)) => {
                let error = RemoteError::new(ErrorKind::Malformed, wrong.0.clone());
                answer_error(connection, id, &error)?;
                return Err(End::Refused(wrong.0));
            }
        };
        if let Err(error) = is_allowed(connection.role, &body) {
            return answer_error(connection, id, &error);
        }
        match body {
            Body::Write { .. } | Body::Take(_) | Body::DeletePrefix { .. } => {
                self.once(connection, head, body, frame)
            }
            body => {
                self.session.requests().answered(head.oldest);
                self.look(connection, head, body, frame)
            }
        }
    }

    /// Carries out a request that changes the store, unless it has been carried out before.
    fn once<S: Stream>(
        &self,
        connection: &mut Connection<S>,
        head: Head,
        body: Body<'_>,
        frame: &[u8],
    ) -> Result<(), End> {
        let shared = Arc::clone(&connection.shared);
        let mut requests = self.session.requests();
        requests.answered(head.oldest);
        let outcome = match self.known(&shared, &requests, head.id, &body) {
            Some(outcome) => {
                count(&shared.stats.repeated_total);
                outcome
            }
            None if requests.is_full() => {
                return Err(End::Refused("more unanswered requests than there may be".into()));
            }
            None => {
                let done = match body {
                    Body::Write { durable: true, ops } if shared.records.are_kept() => {
                        self.write_durably(&shared, head.id, ops)
                    }
                    Body::Write { durable, ops } => write(&shared, ops, durability(durable)),
                    Body::DeletePrefix { prefix } => delete_prefix(&shared, prefix),
                    Body::Take(keys) => take(connection, &keys),
                    _ => Err((Error::Invalid("this request changes nothing".into()), false)),
                };
                let outcome = done.unwrap_or_else(|(error, maybe)| {
                    Outcome::Failed(store_error(&shared, &error, frame, true).maybe(maybe))
                });
                requests.remember(head.id, outcome.clone());
                outcome
            }
        };
        drop(requests);
        match outcome {
            Outcome::Done(ack) => {
                Ok(connection.channel.send_frame(&[&encode_ack(head.id, ack)])?)
            }
            Outcome::Failed(error) => answer_error(connection, head.id, &error),
            Outcome::Taken(answer) => send(connection, head.id, &answer),
        }
    }

    /// What became of a request that is sent again.
    fn known(
        &self,
        shared: &Shared,
        requests: &Requests,
        id: u64,
        body: &Body<'_>,
    ) -> Option<Outcome> {
        if let Some(outcome) = requests.outcome(id) {
            return Some(outcome.clone());
        }
        if !matches!(body, Body::Write { durable: true, .. }) {
            return None;
        }
        match shared.records.of(&self.id)?.has(id) {
            Some(true) => Some(Outcome::Done(ack(shared, 0))),
            Some(false) => None,
            None => {
                let text = "the request is older than what the server remembers of its session";
                Some(Outcome::Failed(RemoteError::new(ErrorKind::Other, text).maybe(true)))
            }
        }
    }

    /// A durable write, and the record that it was applied, as one batch.
    fn write_durably(&self, shared: &Shared, id: u64, ops: Vec<Op<'_>>) -> Done {
        let before = shared.stats.seq.load(Acquire);
        let is_clearing = ops.iter().any(|op| matches!(op, Op::Clear));
        // Only one of the two is taken.
        let (_shared, _alone) = match is_clearing {
            false => (Some(shared.clearing.read().unwrap_or_else(PoisonError::into_inner)), None),
            true => (None, Some(shared.clearing.write().unwrap_or_else(PoisonError::into_inner))),
        };
        let (slot, record) = shared.records.prepare(&self.id, id);
        let mut records = if is_clearing { shared.records.all() } else { Vec::new() };
        records.retain(|(key, _)| *key != slot_key(slot));
        records.push((slot_key(slot), record.encode()));
        let mut ops = ops;
        for (key, record) in &records {
            ops.push(Op::Delete(key.clone()));
            ops.push(Op::Append(key.clone(), record));
        }
        match shared.store.write(&batch_of(ops), Durability::Durable) {
            Ok(()) => {
                shared.records.written(slot, record);
                Ok(Outcome::Done(written(shared, Some(before))))
            }
            Err(error) => {
                // Where only the sync failed, the batch is in the store.
                let found = shared.store.read(&[slot_key(slot)]);
                let is_there = found.is_ok_and(|found| found[..] == [record.encode()]);
                if is_there {
                    shared.records.written(slot, record);
                }
                Err((error, is_there))
            }
        }
    }

    /// Answers a request that changes nothing.
    fn look<S: Stream>(
        &self,
        connection: &mut Connection<S>,
        head: Head,
        body: Body<'_>,
        frame: &[u8],
    ) -> Result<(), End> {
        let id = head.id;
        let shared = Arc::clone(&connection.shared);
        let answer = match body {
            Body::Read(keys) => read(connection, &keys),
            Body::Lens(keys) => shared.store.lens(&keys).map(|lens| {
                let bytes = lens.iter().flat_map(|len| len.unwrap_or(u64::MAX).to_be_bytes());
                Answer::in_memory(bytes.collect(), None)
            }),
            Body::Present(keys) => shared.store.present(&keys).map(|present| {
                Answer::in_memory(present.into_iter().map(u8::from).collect(), None)
            }),
            Body::Keys { prefix } => keys(connection, prefix),
            Body::Status => serde_json::to_vec(&shared.status())
                .map(|json| Answer::in_memory(json, None))
                .map_err(|error| Error::Invalid(error.to_string())),
            Body::Sync => {
                let before = shared.stats.seq.load(Acquire);
                match shared.store.sync() {
                    Ok(()) => {
                        shared.stats.durable_seq.fetch_max(before, AcqRel);
                        shared.stats.store_works();
                        return answer_ack(connection, id);
                    }
                    Err(error) => Err(error),
                }
            }
            Body::Check { durable } => match shared.store.check(durability(durable)) {
                Ok(()) => return answer_ack(connection, id),
                Err(error) => Err(error),
            },
            Body::Bye => {
                shared.sessions.end(&self.id);
                shared.records.forget(&self.id);
                answer_ack(connection, id)?;
                return Err(End::Closed);
            }
            Body::Write { .. } | Body::Take(_) | Body::DeletePrefix { .. } => {
                Err(Error::Invalid("this request changes the store".into()))
            }
        };
        match answer {
            Ok(answer) => send(connection, id, &answer),
            Err(error) => {
                let error = store_error(&shared, &error, frame, head.opcode == Opcode::Sync);
                answer_error(connection, id, &error)
            }
        }
    }
}

/// What a request that changes the store came to; with the error, whether it may have happened.
type Done = Result<Outcome, (Error, bool)>;

fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Plain }
}

/// Whether the role includes the request, and the request leaves the server's own keys alone.
fn is_allowed(role: Role, body: &Body<'_>) -> Result<(), RemoteError> {
    let of_op = |op: &Op<'_>| match op {
        Op::Append(..) | Op::Set(..) => Role::APPEND,
        Op::Delete(_) => Role::REMOVE,
        Op::Clear => Role::DROP,
    };
    let needed = match body {
        Body::Write { ops, .. } => ops.iter().map(of_op).fold(Role::NONE, Role::with),
        Body::Read(_) | Body::Lens(_) | Body::Present(_) | Body::Keys { .. } => Role::READ,
        Body::Take(_) => Role::READ.with(Role::REMOVE),
        Body::DeletePrefix { .. } => Role::REMOVE,
        Body::Sync => Role::APPEND,
        Body::Check { .. } | Body::Status | Body::Bye => Role::NONE,
    };
    if !role.includes(needed) {
        let text = format!("this needs the permissions {needed}, and this client has {role}");
        return Err(RemoteError::new(ErrorKind::Forbidden, text));
    }
    let touches_reserved = match body {
        Body::Write { ops, .. } => ops.iter().filter_map(Op::key).any(|key| is_own(key)),
        Body::Read(keys) | Body::Take(keys) | Body::Lens(keys) | Body::Present(keys) => {
            keys.iter().any(is_own)
        }
        _ => false,
    };
    match touches_reserved {
        true => Err(RemoteError::new(ErrorKind::Forbidden, "the key is one of the server's own")),
        false => Ok(()),
    }
}

fn is_own(key: &Key) -> bool {
    is_reserved(key.as_bytes())
}

/// The acknowledgement of a write with that number.
fn ack(shared: &Shared, seq: u64) -> Ack {
    Ack { seq, durable_seq: shared.stats.durable_seq.load(Acquire) }
}

/// Counts a write that was done; `before` is the number of writes when a durable one began.
fn written(shared: &Shared, before: Option<u64>) -> Ack {
    let seq = shared.stats.seq.fetch_add(1, AcqRel) + 1;
    if let Some(before) = before {
        // Those that were done before it began are durable; others that were done meanwhile may have
        // come behind it, so that it counts itself only where there are none.
        let durable = if seq == before + 1 { seq } else { before };
        shared.stats.durable_seq.fetch_max(durable, AcqRel);
    }
    shared.stats.store_works();
    ack(shared, seq)
}

fn write(shared: &Shared, ops: Vec<Op<'_>>, durability: Durability) -> Done {
    let is_durable = durability == Durability::Durable;
    let before = is_durable.then(|| shared.stats.seq.load(Acquire));
    match shared.write(ops, durability) {
        Ok(()) => Ok(Outcome::Done(written(shared, before))),
        // A durable write whose sync fails has happened. A store that is a server's says so itself.
        Err(error) => {
            let said = RemoteError::of(&error).map(|remote| remote.may_have_happened);
            Err((error, said.unwrap_or(is_durable)))
        }
    }
}

fn delete_prefix(shared: &Shared, prefix: &[u8]) -> Done {
    let not_done = |error| (error, false);
    let keys = shared.store.keys().map_err(not_done)?;
    let keys = keys.into_iter().filter(|key| key.as_bytes().starts_with(prefix) && !is_own(key));
    write(shared, keys.map(Op::Delete).collect(), Durability::Plain)
}

fn take<S: Stream>(connection: &mut Connection<S>, keys: &[Key]) -> Done {
    let shared = Arc::clone(&connection.shared);
    let not_done = |error| (error, false);
    let lens = shared.store.lens(keys).map_err(not_done)?;
    let total = lens.iter().map(|len| 8 + len.unwrap_or(0)).sum::<u64>();
    // The values as the store gives them and as they are sent.
    let Some(charge) = connection.channel.account().answer(2 * total) else {
        return Err(not_done(Error::Invalid(format!(
            "the values have {total} bytes, which a pop would have to keep in memory, and there is no \
             room for them; pop fewer keys, or get and delete them"
        ))));
    };
    // A pop that fails may have removed what it could not read.
    let values = shared.store.take(keys).map_err(|error| (error, true))?;
    shared.stats.seq.fetch_add(1, AcqRel);
    let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for value in values {
        bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&value);
    }
    Ok(Outcome::Taken(Arc::new(Answer::in_memory(bytes, Some(charge)))))
}

fn read<S: Stream>(connection: &mut Connection<S>, keys: &[Key]) -> partd::Result<Answer> {
    let shared = Arc::clone(&connection.shared);
    let charge = connection.channel.account();
    let mut answer = None;
    shared.store.visit(keys, &mut |values| {
        let memory_bytes = shared.limits.answer_bytes;
        answer = Some(Answer::of_values(values, charge, memory_bytes, &shared.spool)?);
        Ok(())
    })?;
    answer.ok_or_else(|| Error::Invalid("the store has shown no values".into()))
}

fn keys<S: Stream>(connection: &mut Connection<S>, prefix: &[u8]) -> partd::Result<Answer> {
    let shared = Arc::clone(&connection.shared);
    let mut keys = shared.store.keys()?;
    keys.retain(|key| key.as_bytes().starts_with(prefix) && !is_own(key));
    let total = keys.iter().map(|key| 4 + key.len() as u64).sum();
    let charge = connection.channel.account();
    Answer::build(total, charge, shared.limits.answer_bytes, &shared.spool, |out| {
        keys.iter().try_for_each(|key| {
            out(&(key.len() as u32).to_be_bytes())?;
            out(key.as_bytes())
        })
    })
}

/// The error for a client whose request the store has failed.
fn store_error(shared: &Shared, error: &Error, frame: &[u8], is_write: bool) -> RemoteError {
    let is_of_request = |key: &Key| {
        key.is_empty() || frame.windows(key.len()).any(|window| window == key.as_bytes())
    };
    let remote = RemoteError::of_store(error, is_of_request);
    if remote.kind != ErrorKind::Invalid {
        shared.stats.store_failed(&format!("{:?}", remote.kind), is_write);
        if shared.may_warn() {
            tracing::warn!(kind = ?remote.kind, "the store failed a request");
        }
    }
    tracing::debug!(error = %error, "the store failed a request");
    remote
}

fn answer_error<S: Stream>(
    connection: &mut Connection<S>,
    id: u64,
    error: &RemoteError,
) -> Result<(), End> {
    count(&connection.shared.stats.errors_total);
    Ok(connection.channel.send_frame(&[&encode_error(id, error)])?)
}

fn answer_ack<S: Stream>(connection: &mut Connection<S>, id: u64) -> Result<(), End> {
    let ack = ack(&connection.shared, 0);
    Ok(connection.channel.send_frame(&[&encode_ack(id, ack)])?)
}

/// Sends an answer in chunks.
fn send<S: Stream>(connection: &mut Connection<S>, id: u64, answer: &Answer) -> Result<(), End> {
    let channel = &mut connection.channel;
    let sent = answer.chunks(|bytes, last| {
        channel.send_frame(&[&encode_chunk_head(id, last), bytes])?;
        // The time for a chunk is its own.
        if last { Ok(()) } else { channel.flush() }
    });
    match sent {
        Ok(sent) => Ok(sent.map_err(|error: ChannelError| End::Channel(error))?),
        Err(error) => {
            tracing::warn!(error = %error, "a large answer cannot be read back");
            let error =
                RemoteError::new(ErrorKind::Io, "the server cannot read back a large answer");
            answer_error(connection, id, &error)
        }
    }
}
