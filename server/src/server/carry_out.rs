//! What requests of the extension do with the store, and what their clients are told of its errors.

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

/// What a request that changes the store came to; with the error, whether it may have happened.
pub(crate) type Done = Result<Outcome, (Error, bool)>;

pub(crate) fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Plain }
}

/// The acknowledgement of a write with that number.
pub(crate) fn ack(shared: &Shared, seq: u64) -> Ack {
    Ack { seq, durable_seq: shared.stats.durable_seq.load(Acquire) }
}

/// Counts a write that was done; `before` is the number of writes when a durable one began.
pub(crate) fn written(shared: &Shared, before: Option<u64>) -> Ack {
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

pub(crate) fn write(shared: &Shared, ops: Vec<Op<'_>>, durability: Durability) -> Done {
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

pub(crate) fn delete_prefix(shared: &Shared, prefix: &[u8]) -> Done {
    let not_done = |error| (error, false);
    let keys = shared.store.keys().map_err(not_done)?;
    let keys = keys.into_iter().filter(|key| key.as_bytes().starts_with(prefix) && !is_own(key));
    write(shared, keys.map(Op::Delete).collect(), Durability::Plain)
}

pub(crate) fn take<S: Stream>(connection: &mut Connection<S>, keys: &[Key]) -> Done {
    let shared = Arc::clone(&connection.shared);
    let not_done = |error| (error, false);
    let lens = shared.store.lens(keys).map_err(not_done)?;
    let total = lens.iter().map(|len| 8 + len.unwrap_or(0)).sum::<u64>();
    // The values as the store gives them and as they are sent.
    let Some(mut charge) = connection.channel.account().answer(2 * total) else {
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
    // The second copy is gone. Giving back does not wait.
    let kept = bytes.len() as u64;
    if kept <= 2 * total && charge.hold(kept, std::time::Instant::now()).is_err() {
        tracing::debug!("the memory of a pop is counted twice");
    }
    Ok(Outcome::Taken(Arc::new(Answer::in_memory(bytes, Some(charge)))))
}

pub(crate) fn read<S: Stream>(
    connection: &mut Connection<S>,
    keys: &[Key],
) -> partd::Result<Answer> {
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

pub(crate) fn keys<S: Stream>(
    connection: &mut Connection<S>,
    prefix: &[u8],
) -> partd::Result<Answer> {
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
