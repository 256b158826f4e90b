//! Calls to a server that speaks only the old protocol, such as Python's.
//!
//! The old protocol has no errors, no request ids and no batches of mixed operations. A call that
//! it cannot express fails before anything is sent; the client never splits one operation into two.

use partd::{Batch, Key, Op, Result};

use super::Client;
use super::connect::Protocol;
use crate::error::{ErrorKind, RemoteError, invalid};
use crate::wire::old::from_key;

/// The frames of one message of the old protocol, borrowed or owned.
type Frames<'a> = Vec<std::borrow::Cow<'a, [u8]>>;

impl Client {
    pub(super) fn old_write(
        &self,
        doing: &'static str,
        batch: &Batch<'_>,
        durable: bool,
    ) -> Result<()> {
        if durable {
            return Err(self.unsupported(doing, "durable writes"));
        }
        let mut frames: Frames<'_> = Vec::with_capacity(1 + 2 * batch.ops().len());
        let command: &[u8] = match batch.ops() {
            [] => return Ok(()),
            [Op::Set(..)] => b"iset",
            [Op::Clear] => b"drop",
            ops if ops.iter().all(|op| matches!(op, Op::Append(..))) => b"append",
            ops if ops.iter().all(|op| matches!(op, Op::Delete(_))) => b"delete",
            [Op::DeletePrefix(_)] => return Err(self.unsupported(doing, "deletes of a prefix")),
            _ => return Err(self.unsupported(doing, "batches of mixed operations")),
        };
        frames.push(command.into());
        for op in batch.ops() {
            if let Some(key) = op.key() {
                frames.push(old_key(key)?.into());
            }
            if let Op::Append(_, value) | Op::Set(_, value) = op {
                frames.push((*value).into());
            }
        }
        if command == b"append" {
            frames = joined(frames);
        }
        self.old_call(doing, &frames, 1, false).map(|_| ())
    }

    pub(super) fn old_read(&self, doing: &'static str, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        let mut frames: Frames<'_> = Vec::with_capacity(1 + keys.len());
        frames.push(b"get"[..].into());
        for key in keys {
            frames.push(old_key(key)?.into());
        }
        let values = self.old_call(doing, &frames, 2, true)?;
        match values.len() == keys.len() {
            true => Ok(values),
            false => {
                let text = format!("received {} values for {} keys", values.len(), keys.len());
                let error = RemoteError::new(ErrorKind::Malformed, text);
                Err(error.into_error(doing, self.address()))
            }
        }
    }

    /// Sends a command, checks its acknowledgement, and returns the frames of the answer before it.
    fn old_call(
        &self,
        doing: &'static str,
        frames: &Frames<'_>,
        answers: usize,
        may_repeat: bool,
    ) -> Result<Vec<Vec<u8>>> {
        let frames: Vec<&[u8]> = frames.iter().map(AsRef::as_ref).collect();
        let called = self.pool.with(self.config.timeout, |link, deadline| {
            loop {
                if link.connect(deadline)? != Protocol::Old {
                    let text = "the server now supports the extension; connect again";
                    return Err(RemoteError::new(ErrorKind::Disconnected, text));
                }
                match link.old(&frames, answers) {
                    Err(error)
                        if may_repeat
                            && error.kind == ErrorKind::Disconnected
                            && std::time::Instant::now() < deadline =>
                    {
                        // A server that refuses the request closes every connection: do not spin.
                        std::thread::sleep(std::time::Duration::from_millis(50));
                    }
                    done => return done,
                }
            }
        })?;
        let messages = called.map_err(|error| {
            let changes = error.may_have_happened && !may_repeat;
            error.maybe(changes).into_error(doing, self.address())
        })?;
        let Some((last, before)) = messages.split_last() else { return Ok(Vec::new()) };
        if last.len() != 1 || last.get(0) != Some(&b"ack"[..]) {
            let text = "the server did not acknowledge the command";
            let error = RemoteError::new(ErrorKind::Malformed, text).maybe(!may_repeat);
            return Err(error.into_error(doing, self.address()));
        }
        let values = before.first();
        let frames = values.map(|m| (0..m.len()).filter_map(|i| m.get(i).map(<[u8]>::to_vec)));
        Ok(frames.map(Iterator::collect).unwrap_or_default())
    }

    fn unsupported(&self, doing: &'static str, what: &str) -> partd::Error {
        let text = format!("the server speaks only the old protocol, which has no {what}");
        RemoteError::new(ErrorKind::Unsupported, text).into_error(doing, self.address())
    }
}

fn old_key(key: &Key) -> Result<Vec<u8>> {
    from_key(key).map_err(|why| {
        invalid(format!("the key {key} cannot be sent to a server of the old protocol: {why}"))
    })
}

/// Joins the values of each key of an append. Python's server would keep only the last value of a
/// key, because it reads the append into a dictionary.
fn joined(frames: Frames<'_>) -> Frames<'_> {
    let mut places = std::collections::HashMap::new();
    let mut joined: Frames<'_> = Vec::with_capacity(frames.len());
    let mut frames = frames.into_iter();
    joined.extend(frames.next());
    while let (Some(key), Some(value)) = (frames.next(), frames.next()) {
        match places.get(&key) {
            Some(&place) => {
                let earlier: &mut std::borrow::Cow<'_, [u8]> = &mut joined[place];
                earlier.to_mut().extend_from_slice(&value);
            }
            None => {
                places.insert(key.clone(), joined.len() + 1);
                joined.push(key);
                joined.push(value);
            }
        }
    }
    joined
}
