//! The extension `partd/2`: answers requests, which have ids, with acknowledgements, chunks or
//! errors.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use partd::{Durability, Error, Op};

use super::answer::Answer;
use super::carry_out::{
    Done, ack, delete_prefix, durability, keys, store_error, take, write, written,
};
use super::connection::{Connection, End, bookkeeping};
use super::lend::read_and_send;
use super::permissions::is_allowed;
use super::records::{removes_records, slot_key};
use super::sessions::{Outcome, Requests, Session};
use super::shared::{Shared, batch_of};
use super::stats::count;
use crate::error::{ErrorKind, RemoteError};
use crate::net::error::ChannelError;
use crate::net::socket::Stream;
use crate::wire::hello::SessionId;
use crate::wire::reply::{encode_ack, encode_chunk_head, encode_error};
use crate::wire::request::{Body, Head, Opcode, Refusal, decode_body, decode_head, operations};

/// A connection that uses the extension, with its session.
pub(crate) struct Extended {
    id: SessionId,
    session: Arc<Session>,
    connection: u64,
}

impl Extended {
    /// Joins a session. Also returns whether the server remembered it.
    pub(crate) fn join(shared: &Shared, id: SessionId) -> (Extended, bool) {
        let (session, connection, is_known) = shared.sessions.join(id);
        (Extended { id, session, connection }, is_known)
    }

    /// Leaves the session at the end of the connection.
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
            return Err(End::Refused("another connection has taken over the session".into()));
        }
        let head = match head {
            Ok(head) => head,
            Err(opcode) => {
                let text = format!("this version of the server has no request {opcode:#x}");
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
        if !bookkeeping(connection, operations(head.opcode, body)) {
            let text = "the requests of other clients left no room in memory; try again";
            return answer_error(connection, id, &RemoteError::new(ErrorKind::Busy, text));
        }
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
            Body::Received => {
                self.session.requests().answered(head.oldest);
                Ok(())
            }
            body => {
                self.session.requests().answered(head.oldest);
                self.look(connection, head, body, frame)
            }
        }
    }

    /// Carries out a request that changes the store, unless the server has done so before.
    fn once<S: Stream>(
        &self,
        connection: &mut Connection<S>,
        head: Head,
        body: Body<'_>,
        frame: &[u8],
    ) -> Result<(), End> {
        let shared = Arc::clone(&connection.shared);
        let mut requests = self.session.requests();
        // Another connection may have taken over the session and advanced it while this one waited
        // for the lock.
        if requests.is_answered(head.id) {
            return Err(End::Refused("a request whose answer the client already has".into()));
        }
        requests.answered(head.oldest);
        let outcome = match self.known(&shared, &requests, head.id, &body) {
            Some(outcome) => {
                count(&shared.stats.repeated_total);
                outcome
            }
            None if requests.is_full() => {
                return Err(End::Refused(
                    "more unanswered requests than a session may have".into(),
                ));
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

    /// Returns the outcome of a resent request, or `None` if it has not been carried out.
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
                let text = "the request is older than the server's record of its session";
                Some(Outcome::Failed(RemoteError::new(ErrorKind::Other, text).maybe(true)))
            }
        }
    }

    /// Applies a durable write and records it in the store, as one batch.
    fn write_durably(&self, shared: &Shared, id: u64, ops: Vec<Op<'_>>) -> Done {
        let before = shared.stats.seq.load(Acquire);
        let is_clearing = ops.iter().any(removes_records);
        // A batch that removes the records takes the lock exclusively, any other batch shares it.
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
                // If only the sync failed, the store has the batch.
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
            Body::Read(keys) => match read_and_send(connection, id, &keys)? {
                Ok(()) => return Ok(()),
                Err(error) => Err(error),
            },
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
            Body::Write { .. } | Body::Take(_) | Body::DeletePrefix { .. } | Body::Received => {
                Err(Error::Invalid("this request is answered elsewhere".into()))
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
pub(super) fn send<S: Stream>(
    connection: &mut Connection<S>,
    id: u64,
    answer: &Answer,
) -> Result<(), End> {
    let channel = &mut connection.channel;
    let sent = answer.chunks(|bytes, last| {
        channel.send_frame(&[&encode_chunk_head(id, last), bytes])?;
        // Flush after each chunk, so that the timeout applies to each separately.
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
