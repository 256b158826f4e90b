//! `AsyncValueReader`: a value as `AsyncRead`, `AsyncBufRead` and `AsyncSeek`.

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncSeek, ReadBuf};

use crate::aio::window::{Windows, lost, spawn};
use crate::log::{SegmentLog, ValueReader};
use crate::{Key, Result};

/// A key's value as an asynchronous stream of bytes: tokio's `AsyncRead`, `AsyncBufRead` and
/// `AsyncSeek`.
///
/// It reads as a [`ValueReader`] does, on the threads that tokio keeps for blocking work, one
/// window at a time, so that no page fault blocks the executor. Its memory is one window: 256 KiB
/// unless [`window`](AsyncValueReader::window) changes it.
///
/// ```
/// use std::sync::Arc;
/// use partd::{AsyncValueReader, Partd, SegmentLog};
/// use tokio::io::AsyncReadExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let p = Arc::new(SegmentLog::temporary()?);
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// let mut reader = AsyncValueReader::open(&p, "x").await?;
/// let mut value = String::new();
/// reader.read_to_string(&mut value).await?;
/// assert_eq!(value, "Hello world!");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncValueReader {
    windows: Windows,
}

impl AsyncValueReader {
    /// Opens a reader of the key's value as it is now.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentLog::reader`], and [`Io`](crate::ErrorKind::Io) outside of a tokio
    /// runtime.
    pub async fn open(log: &Arc<SegmentLog>, key: impl Into<Key>) -> Result<AsyncValueReader> {
        open(log, key.into()).await.map(AsyncValueReader::new)
    }

    /// Continues at the position of a reader.
    #[must_use]
    pub fn new(reader: ValueReader) -> AsyncValueReader {
        AsyncValueReader { windows: Windows::new(reader) }
    }

    /// Sets how many bytes are read at a time, at least 1.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> AsyncValueReader {
        self.windows.window_len = bytes.max(1);
        self
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.windows.len
    }

    /// Returns whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Opens a reader on a thread for blocking work, since it may have to read the index first.
pub(super) async fn open(log: &Arc<SegmentLog>, key: Key) -> Result<ValueReader> {
    let path = log.path().to_path_buf();
    let log = Arc::clone(log);
    spawn(&path, move || log.reader(key))?.await.map_err(|error| lost(&path, error))?
}

impl AsyncRead for AsyncValueReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let windows = &mut self.get_mut().windows;
        if to.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(windows.poll_bytes(context))?;
        let len = bytes.len().min(to.remaining());
        to.put_slice(&bytes[..len]);
        windows.position += len as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for AsyncValueReader {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().windows.poll_bytes(context).map_err(io::Error::from)
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().windows.position += len as u64;
    }
}

impl AsyncSeek for AsyncValueReader {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let windows = &mut self.get_mut().windows;
        // A window that is being read is kept or dropped once the read completes.
        windows.position = <ValueReader>::target(to, windows.position, windows.len)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.windows.position))
    }
}
