//! One spill file: a key of the store, and the few bytes that are not in the store yet.
//!
//! Invariant: the bytes of a file are those under its key, `stored_bytes` of them, followed by the
//! tail. A reader never waits for a file that nobody writes.

use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::{fmt, mem};

use bytes::Bytes;
use datafusion_common::{Result, exec_datafusion_err};
use datafusion_execution::{SpillFile, SpillWriter};
use futures_core::Stream;
use partd::Key;

use crate::spill::Core;
use crate::stream::ReadStream;
use crate::writer::Writer;

/// A spill file, as DataFusion holds it.
#[derive(Debug)]
pub(crate) struct StoredFile(pub(crate) Arc<File>);

impl SpillFile for StoredFile {
    fn size(&self) -> Option<u64> {
        Some(self.0.len_bytes.load(Relaxed))
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        Ok(Box::pin(ReadStream::new(&self.0)))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer::new(&self.0)?))
    }
}

/// State shared by the file, its writer and its readers. The last of them removes the key.
pub(crate) struct File {
    pub(crate) core: Arc<Core>,
    /// The key in the scope of this spill store, and in the whole store.
    pub(crate) name: Key,
    pub(crate) key: Key,
    /// The purpose of the file, for errors.
    pub(crate) description: String,
    /// The bytes that were written, as they are counted against the quota.
    pub(crate) len_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stored_bytes: u64,
    tail: Vec<u8>,
    has_writer: bool,
    /// Whether bytes of the file were lost, because the store could not take them.
    is_broken: bool,
    /// The readers that wait for more.
    wakers: Vec<Waker>,
}

/// The next step of a reader at a position.
#[derive(Debug)]
pub(crate) enum Next {
    /// There are bytes in the store.
    Stored,
    /// These bytes come next.
    Tail(Bytes),
    /// The writer has not written more yet; it wakes the reader.
    Wait,
    End,
}

impl File {
    pub(crate) fn new(core: &Arc<Core>, number: u64, description: &str) -> File {
        let (name, key) = core.key_of(number);
        File {
            core: Arc::clone(core),
            name,
            key,
            description: description.to_owned(),
            len_bytes: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all readers.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let wakers = {
            let mut state = self.state();
            change(&mut state);
            mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Registers the one writer.
    pub(crate) fn begin_writer(&self) -> Result<()> {
        let mut state = self.state();
        if mem::replace(&mut state.has_writer, true) {
            return Err(exec_datafusion_err!(
                "{}: the spill file has a writer already",
                self.description
            ));
        }
        Ok(())
    }

    pub(crate) fn end_writer(&self, is_broken: bool) {
        self.update(|state| {
            state.has_writer = false;
            state.is_broken |= is_broken;
        });
    }

    /// Shows readers `bytes`, which follow those that the tail has.
    pub(crate) fn extend_tail(&self, bytes: &[u8]) {
        self.update(|state| state.tail.extend_from_slice(bytes));
    }

    /// Notes that `len` bytes are in the store, those of the tail among them.
    pub(crate) fn stored(&self, len: usize) {
        self.update(|state| {
            state.stored_bytes += len as u64;
            state.tail = Vec::new();
        });
    }

    /// Returns what a reader finds at position `at`, up to which it has read.
    pub(crate) fn next(&self, at: u64, context: &mut Context<'_>) -> Result<Next> {
        let mut state = self.state();
        if at < state.stored_bytes {
            return Ok(Next::Stored);
        }
        let tail = state.tail.get((at - state.stored_bytes) as usize..).unwrap_or_default();
        if !tail.is_empty() {
            return Ok(Next::Tail(Bytes::copy_from_slice(tail)));
        }
        if state.has_writer {
            let waker = context.waker();
            if !state.wakers.iter().any(|known| known.will_wake(waker)) {
                state.wakers.push(waker.clone());
            }
            return Ok(Next::Wait);
        }
        if state.is_broken {
            return Err(exec_datafusion_err!(
                "{}: the spill file is incomplete, because a write to it failed",
                self.description
            ));
        }
        Ok(Next::End)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let is_stored = self.state().stored_bytes > 0;
        self.core.remove_file(
            self.len_bytes.load(Relaxed),
            is_stored.then(|| mem::take(&mut self.name)),
        );
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("key", &self.key)
            .field("description", &self.description)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}
