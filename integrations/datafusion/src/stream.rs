//! A spill file as a stream of bytes that follows its writer.
//!
//! A read from the store compares checksums, which may wait for the disk, so it runs on the threads
//! that tokio keeps for blocking work; no thread is held between two reads. The chunks are lent by
//! the store's mapping: those that a read returns are in memory when it does.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use datafusion_common::{DataFusionError, Result, exec_datafusion_err};
use futures_core::Stream;
use partd::{Position, Update};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::of_store;
use crate::file::{File, Next};

/// The chunks that a read returns, and the position behind them.
type Found = (Position, VecDeque<Bytes>);

/// The chunks of a spill file in order.
#[derive(Debug)]
pub(crate) struct ReadStream {
    file: Arc<File>,
    /// Behind the chunks that were read.
    position: Position,
    chunks: VecDeque<Bytes>,
    /// The read in progress.
    busy: Option<JoinHandle<Result<Found>>>,
    is_done: bool,
}

impl ReadStream {
    pub(crate) fn new(file: &Arc<File>) -> ReadStream {
        let file = Arc::clone(file);
        let (position, chunks) = (Position::default(), VecDeque::new());
        ReadStream { file, position, chunks, busy: None, is_done: false }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if let Some(busy) = &mut self.busy {
                let done = ready!(Pin::new(busy).poll(context));
                self.busy = None;
                let found =
                    done.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?;
                (self.position, self.chunks) = found?;
                continue;
            }
            match self.file.next(self.position.offset, context)? {
                Next::Stored => {
                    let (file, position) = (Arc::clone(&self.file), self.position);
                    let runtime = Handle::try_current().map_err(|error| {
                        exec_datafusion_err!("a spill file is read outside of tokio: {error}")
                    })?;
                    self.busy = Some(runtime.spawn_blocking(move || read_on(&file, position)));
                }
                Next::Tail(bytes) => {
                    self.position.offset += bytes.len() as u64;
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(Ok(None)),
            }
        }
    }
}

/// Reads on from a position, before which the store has more bytes.
fn read_on(file: &File, from: Position) -> Result<Found> {
    let mut follower = file.core.store.store().follow_from(file.key.clone(), from);
    match follower.next_update().map_err(of_store)? {
        Some(Update::Appended(view)) => Ok((follower.position(), view.owned_chunks().collect())),
        Some(Update::Removed) | None => Err(exec_datafusion_err!(
            "{}: the spill file's bytes were removed from the store",
            file.description
        )),
    }
}

impl Stream for ReadStream {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let stream = self.get_mut();
        if stream.is_done {
            return Poll::Ready(None);
        }
        let chunk = ready!(stream.poll_chunk(context)).transpose();
        stream.is_done = !matches!(chunk, Some(Ok(_)));
        Poll::Ready(chunk)
    }
}
