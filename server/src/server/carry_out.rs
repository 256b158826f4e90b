//! Carries out requests of the extension on the store, and translates the store's errors for
//! clients.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use partd::{Durability, Error, Key, Op};

use super::answer::Answer;
use super::connection::Connection;
use super::permissions::is_own;
use super::sessions::Outcome;
use super::shared::Shared;
use crate::error::{ErrorKind, RemoteError};
use crate::net::account::Account;
use crate::net::socket::Stream;
use crate::wire::reply::Ack;

/// The outcome of a request that changes the store. An error is paired with whether the change may
/// have happened.
pub(crate) type Done = Result<Outcome, (Error, bool)>;

pub(crate) fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Plain }
}

/// Makes the acknowledgement of the write with this sequence number.
pub(crate) fn ack(shared: &Shared, seq: u64) -> Ack {
    Ack { seq, durable_seq: shared.stats.durable_seq.load(Acquire) }
}

/// Counts a completed write, and returns its acknowledgement. For a durable write, `before` is the
/// sequence number at its start.
pub(crate) fn written(shared: &Shared, before: Option<u64>) -> Ack {
    let seq = shared.stats.seq.fetch_add(1, AcqRel) + 1;
    if let Some(before) = before {
        // Every write that completed before this one began is durable now. A write that completed
        // in the meantime may be behind this one in the store and not be durable. So this write
        // counts as durable only if no other write completed in the meantime.
        let durable = if seq == before + 1 { seq } else { before };
        shared.stats.durable_seq.fetch_max(durable, AcqRel);
    }
    shared.stats.store_works();
    ack(shared, seq)
}

pub(crate) fn write(shared: &Shared, ops: Vec<Op<'_>>, durability: Durability) -> Done {
    let is_durable = durability == Durability::Durable;
    let before = is_durable.then(|| shared.stats.seq.load(Acquire));
    match shared.write(ops, durability) {
        Ok(()) => Ok(Outcome::Done(written(shared, before))),
        // A durable write whose sync fails has happened. If the store is a client of another
        // server, its error says whether the write may have happened.
        Err(error) => {
            let said = RemoteError::of(&error).map(|remote| remote.may_have_happened);
            Err((error, said.unwrap_or(is_durable)))
        }
    }
}

pub(crate) fn delete_prefix(shared: &Shared, prefix: &[u8]) -> Done {
    write(shared, vec![Op::DeletePrefix(Key::from(prefix))], Durability::Plain)
}

pub(crate) fn take<S: Stream>(connection: &mut Connection<S>, keys: &[Key]) -> Done {
    let shared = Arc::clone(&connection.shared);
    let not_done = |error| (error, false);
    let lens = shared.store.lens(keys).map_err(not_done)?;
    let total = lens.iter().map(|len| 8 + len.unwrap_or(0)).sum::<u64>();
    // Room for two copies: the values from the store, and the answer.
    let Some(mut charge) = connection.channel.account().answer(2 * total) else {
        return Err(not_done(Error::Invalid(format!(
            "a pop must keep its values in memory, and there is no room for {total} bytes; pop fewer \
             keys, or get and delete them"
        ))));
    };
    // A failed pop may have removed keys whose values it could not return.
    let values = shared.store.take(keys).map_err(|error| (error, true))?;
    shared.stats.seq.fetch_add(1, AcqRel);
    let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for value in values {
        bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&value);
    }
    // The store's copy is gone. Reducing a charge never waits.
    let kept = bytes.len() as u64;
    if kept <= 2 * total && charge.hold(kept, std::time::Instant::now()).is_err() {
        tracing::debug!("the memory of a pop is counted twice");
    }
    Ok(Outcome::Taken(Arc::new(Answer::in_memory(bytes, Some(charge)))))
}

pub(crate) fn keys<S: Stream>(
    connection: &mut Connection<S>,
    prefix: &[u8],
) -> partd::Result<Answer> {
    let shared = Arc::clone(&connection.shared);
    let mut keys = shared.store.keys_with(&Key::from(prefix))?;
    keys.retain(|key| !is_own(key));
    let total = keys.iter().map(|key| 4 + key.len() as u64).sum();
    let charge = connection.channel.account();
    Answer::build(total, charge, shared.limits.answer_bytes, &shared.spool, |out| {
        keys.iter().try_for_each(|key| {
            out(&(key.len() as u32).to_be_bytes())?;
            out(key.as_bytes())
        })
    })
}

/// Counts and logs an error of the store, and makes the error for the client whose request failed.
pub(crate) fn store_error(
    shared: &Shared,
    error: &Error,
    frame: &[u8],
    is_write: bool,
) -> RemoteError {
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
