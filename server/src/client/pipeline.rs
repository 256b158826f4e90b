//! Appends that do not wait for each acknowledgement.

use std::time::Instant;

use partd::{Batch, Durability, Key, Result};

use super::Client;
use super::answer::Sink;
use super::connect::Protocol;
use super::link::{Link, Retry};
use super::pool::Taken;
use crate::error::{ErrorKind, RemoteError};
use crate::wire::request::{Opcode, encode_write};

/// Appends that do not wait for each acknowledgement, over a connection of their own.
///
/// The server applies them in order. An append returns once it is sent. If too many requests or
/// bytes are unacknowledged, it first waits for the oldest of them. [`flush`](Pipeline::flush)
/// waits for all; until it returns, an append may still fail.
///
/// A later call returns the error of a failed append. The appends sent after the failed one may be
/// in the store.
///
/// ```
/// use partd::{Dict, Partd};
/// use partd_server::{Client, Server};
///
/// let dir = tempfile::tempdir()?;
/// let server = Server::bind(Dict::new(), format!("ipc://{}/socket", dir.path().display()))?;
/// let client = Client::connect(server.address())?;
/// let mut pipeline = client.pipeline()?;
/// for n in 0..1000 {
///     pipeline.append([("numbers", format!("{n} "))])?;
/// }
/// pipeline.flush()?;
/// assert_eq!(client.len_of("numbers")?, 3890);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pipeline<'a> {
    client: &'a Client,
    taken: Taken<'a>,
}

const DOING: &str = "append through";
/// If at least this many bytes are unanswered, answers are taken as they arrive.
const EARLY_ANSWER_BYTES: usize = 1 << 20;

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a Client) -> Result<Pipeline<'a>> {
        let deadline = Instant::now() + client.config.timeout;
        let taken = client.pool.take(deadline)?;
        let mut pipeline = Pipeline { client, taken };
        let protocol = pipeline.with(|link| {
            link.keep_memory(true);
            link.connect(deadline)
        })?;
        match protocol {
            Protocol::Extended(_) => Ok(pipeline),
            Protocol::Old => {
                let text =
                    "a pipeline needs the extension partd/2, which the server does not speak";
                let error = RemoteError::new(ErrorKind::Unsupported, text);
                Err(error.into_error(DOING, client.address()))
            }
        }
    }

    fn with<T>(
        &mut self,
        call: impl FnOnce(&mut Link) -> std::result::Result<T, RemoteError>,
    ) -> Result<T> {
        let client = self.client;
        client.pool.check()?;
        let Some(link) = self.taken.link() else {
            return Err(partd::Error::Invalid("the pipeline has no connection".into()));
        };
        let result = call(link);
        client.note(link);
        result.map_err(|error| client.failed(DOING, error))
    }

    /// Sends an append; the server applies all of its pairs or none.
    ///
    /// # Errors
    /// This append cannot be sent, or an earlier one failed.
    pub fn append<K, V>(&mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<Key>,
        V: AsRef<[u8]>,
    {
        let (keys, values): (Vec<Key>, Vec<V>) =
            pairs.into_iter().map(|(key, value)| (key.into(), value)).unzip();
        let mut batch = Batch::with_capacity(keys.len());
        for (key, value) in keys.into_iter().zip(&values) {
            batch.append(key, value.as_ref());
        }
        self.write(&batch, Durability::Plain)
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// This batch cannot be sent, or an earlier one failed.
    pub fn write(&mut self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        let config = &self.client.config;
        let (timeout, room) = (config.timeout, config.pipeline_bytes);
        let durable = durability == Durability::Durable;
        let retry = if durable { Retry::Recorded } else { Retry::SameServer };
        self.with(|link| {
            link.connect(Instant::now() + timeout)?;
            loop {
                let (requests, bytes) = link.unanswered();
                let has_room = requests == 0 || (requests < link.window() && bytes <= room);
                // Take the answer now, to reuse the memory of its request while it is in the CPU
                // cache.
                if has_room && (bytes < EARLY_ANSWER_BYTES || !link.has_answer()) {
                    break;
                }
                link.receive_next(&mut Sink::Nothing, timeout)?;
            }
            if let Some(error) = link.take_failed() {
                return Err(error);
            }
            let deadline = Instant::now() + timeout;
            let memory = link.memory();
            let encode = |head| encode_write(memory, head, batch, durable);
            link.send(Opcode::Write, retry, encode, deadline).map(|_| ())
        })
    }

    /// Waits until the server has acknowledged everything that was sent.
    ///
    /// # Errors
    /// A request that was sent since the last flush failed; the error is that of the first.
    pub fn flush(&mut self) -> Result<()> {
        let timeout = self.client.config.timeout;
        self.with(|link| {
            let mut first = None;
            while link.unanswered().0 > 0 {
                if let Err(error) = link.receive_next(&mut Sink::Nothing, timeout) {
                    first.get_or_insert(error);
                }
            }
            match first.or_else(|| link.take_failed()) {
                Some(error) => Err(error),
                None => Ok(()),
            }
        })
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        // A forked child must not read the answers to its parent.
        if self.client.pool.check().is_err() {
            return;
        }
        let flushed = self.flush();
        self.taken.link().into_iter().for_each(|link| link.keep_memory(false));
        if let Err(error) = flushed {
            tracing::error!(error = %error, "a pipeline was dropped without a flush, and appends failed");
        }
    }
}
