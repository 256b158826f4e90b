//! `ValueStream`: a value as a stream of `Bytes`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;

use crate::aio::reader::open;
use crate::aio::window::Windows;
use crate::log::{SegmentLog, ValueReader};
use crate::{Key, Result};

/// A key's value as a stream of `Bytes`.
///
/// Each item is a window of the value: 256 KiB unless [`window`](ValueStream::window) changes it,
/// and less at the end. The items are copies in memory, made on the threads that tokio keeps for
/// blocking work, so that neither the stream nor a later use of an item blocks the executor on a
/// page fault. The stream ends after an error.
///
/// ```
/// use std::sync::Arc;
/// use partd::{Partd, SegmentLog, ValueStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> partd::Result<()> {
/// let p = Arc::new(SegmentLog::temporary()?);
/// p.append([("x", "Hello "), ("x", "world!")])?;
/// let mut stream = ValueStream::open(&p, "x").await?;
/// let mut value = Vec::new();
/// while let Some(bytes) = stream.next().await {
///     value.extend(bytes?);
/// }
/// assert_eq!(value, b"Hello world!");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ValueStream {
    windows: Windows,
}

impl ValueStream {
    /// Opens a stream of the key's value as it is now.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentLog::reader`], and [`Io`](crate::ErrorKind::Io) outside of a tokio
    /// runtime.
    pub async fn open(log: &Arc<SegmentLog>, key: impl Into<Key>) -> Result<ValueStream> {
        open(log, key.into()).await.map(ValueStream::new)
    }

    /// Streams the rest of the value, from the position of a reader.
    #[must_use]
    pub fn new(reader: ValueReader) -> ValueStream {
        ValueStream { windows: Windows::new(reader) }
    }

    /// Sets the length of the items in bytes, at least 1.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> ValueStream {
        self.windows.window_len = bytes.max(1);
        self
    }

    /// Returns the next item, as `StreamExt::next` does; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for ValueStream {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let windows = &mut self.get_mut().windows;
        match ready!(windows.poll_bytes(context)).map(<[u8]>::is_empty) {
            Ok(true) => Poll::Ready(None),
            Ok(false) => Poll::Ready(Some(Ok(Bytes::from(windows.take())))),
            Err(error) => {
                windows.position = windows.len;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.windows.len.saturating_sub(self.windows.position);
        if left == 0 {
            return (0, Some(0));
        }
        // An error makes two items of the window that it ends.
        (1, Some(left.div_ceil(self.windows.window_len as u64) as usize + 1))
    }
}
