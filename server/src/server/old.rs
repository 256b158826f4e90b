//! The old protocol: carries out a command and acknowledges it, or closes the connection on an
//! error.
//!
//! The old protocol has no error answers: a client of Python's partd waits for `ack`, or for the
//! values of its `get`. So the server can only close the connection and log the reason.

use partd::{Durability, Key, Op};

use super::answer::Answer;
use super::connection::{Connection, End, bookkeeping};
use super::records::is_reserved;
use super::stats::count;
use crate::Role;
use crate::error::RemoteError;
use crate::net::socket::Stream;
use crate::wire::Cursor;
use crate::wire::old::{Command, decode, to_key};

/// Carries out a command and answers it.
pub(crate) fn command<S: Stream>(
    connection: &mut Connection<S>,
    frames: &[&[u8]],
) -> Result<(), End> {
    let command = decode(frames).map_err(|what| End::Refused(what.into()))?;
    let stats = &connection.shared.stats;
    let (role, counter) = match command {
        Command::Syn => (Role::NONE, &stats.others_total),
        Command::Append(_) | Command::Iset(..) => (Role::APPEND, &stats.writes_total),
        Command::Get(_) => (Role::READ, &stats.reads_total),
        Command::Delete(_) => (Role::REMOVE, &stats.writes_total),
        Command::Drop => (Role::DROP, &stats.writes_total),
        Command::Close => (Role::CLOSE, &stats.others_total),
    };
    count(counter);
    if !connection.role.includes(role) {
        let what = format!("a command that needs {role}, but the role is {}", connection.role);
        return Err(End::Refused(what));
    }
    check_limits(connection, &command)?;
    if !bookkeeping(connection, frames.len() as u64) {
        return Err(End::Refused("a request for which there was no room in memory".into()));
    }
    match command {
        Command::Syn => {}
        Command::Append(pairs) => {
            let ops = pairs.chunks_exact(2).map(|pair| Op::Append(to_key(pair[0]), pair[1]));
            write(connection, ops.collect())?;
        }
        Command::Iset(key, value) => write(connection, vec![Op::Set(to_key(key), value)])?,
        Command::Delete(keys) => {
            write(connection, keys.iter().map(|key| Op::Delete(to_key(key))).collect())?;
        }
        Command::Drop => write(connection, vec![Op::Clear])?,
        Command::Get(keys) => get(connection, keys)?,
        Command::Close => {
            connection.channel.send_frames(&[b"ack"])?;
            connection.channel.flush()?;
            tracing::info!("a client asked the server to stop");
            connection.shared.ask_end();
            return Ok(());
        }
    }
    Ok(connection.channel.send_frames(&[b"ack"])?)
}

/// Refuses a command that exceeds a limit or names a reserved key.
fn check_limits<S>(connection: &Connection<S>, command: &Command<'_, '_>) -> Result<(), End> {
    let limits = &connection.shared.limits;
    let too_many = |what: &str| Err(End::Refused(format!("a request with {what} above the limit")));
    let one;
    let (keys, values): (Vec<&[u8]>, &[&[u8]]) = match command {
        Command::Append(pairs) => (pairs.iter().step_by(2).copied().collect(), pairs),
        Command::Iset(key, value) => {
            one = [*value];
            (vec![*key], &one)
        }
        Command::Get(keys) | Command::Delete(keys) => (keys.to_vec(), &[]),
        Command::Syn | Command::Drop | Command::Close => return Ok(()),
    };
    if keys.len() > limits.keys {
        return too_many("a number of keys");
    }
    if keys.iter().any(|key| key.len() as u64 > limits.key_bytes) {
        return too_many("a key");
    }
    if values.iter().any(|value| value.len() as u64 > limits.value_bytes) {
        return too_many("a value");
    }
    if keys.iter().any(|key| is_reserved(key)) {
        return Err(End::Refused("a request for a reserved key".into()));
    }
    Ok(())
}

fn write<S: Stream>(connection: &Connection<S>, ops: Vec<Op<'_>>) -> Result<(), End> {
    let shared = &connection.shared;
    match shared.write(ops, Durability::Plain) {
        Ok(()) => {
            shared.stats.seq.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            shared.stats.store_works();
            Ok(())
        }
        Err(error) => Err(failed(connection, &error, true)),
    }
}

/// Counts and logs an error of the store, and makes the reason to close the connection.
fn failed<S>(connection: &Connection<S>, error: &partd::Error, is_write: bool) -> End {
    let remote = RemoteError::of_store(error, |_| false);
    let stats = &connection.shared.stats;
    count(&stats.errors_total);
    stats.store_failed(&format!("{:?}", remote.kind), is_write);
    tracing::debug!(error = %error, "the store failed");
    End::Refused(format!("the store failed: {}", remote.text))
}

fn get<S: Stream>(connection: &mut Connection<S>, keys: &[&[u8]]) -> Result<(), End> {
    let keys: Vec<Key> = keys.iter().map(|key| to_key(key)).collect();
    let shared = std::sync::Arc::clone(&connection.shared);
    let charge = connection.channel.account();
    let mut answer = None;
    // An answer of the old protocol is a single message, so it must fit in memory.
    let read = shared.store.visit(&keys, &mut |values| {
        let limit = shared.limits.message_bytes;
        answer = Some(Answer::of_values(values, charge, limit, &shared.spool)?);
        Ok(())
    });
    read.map_err(|error| failed(connection, &error, false))?;
    let memory = answer.as_ref().and_then(Answer::memory);
    let Some(memory) = memory else {
        return Err(End::Refused(
            "a get whose answer exceeds the memory for one message; partd/2 can send longer answers"
                .into(),
        ));
    };
    let mut values = Vec::with_capacity(keys.len());
    let mut cursor = Cursor::new(memory);
    while !cursor.is_empty() {
        let value = cursor.u64("a length").and_then(|len| cursor.bytes(len, "a value"));
        values.push(value.map_err(|wrong| End::Refused(wrong.0))?);
    }
    if values.is_empty() {
        // A message has at least one frame; without an answer the client would wait for ever.
        values.push(&[]);
    }
    Ok(connection.channel.send_frames(&values)?)
}
