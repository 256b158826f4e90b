//! `FollowStream`: a stream of the bytes that are appended to a key.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::aio::window::{WINDOW_BYTES, fill, lost, spawn};
use crate::log::{FollowState, News, Position, SegmentLog, Seq, ValueReader, pause};
use crate::{Key, Result};

/// What has happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsyncUpdate {
    /// Bytes were appended; they follow those of the previous update.
    Appended(Bytes),
    /// The key was deleted, or a first set replaced its value. The bytes of a new value follow from
    /// its start.
    Removed,
}

/// A stream of the bytes appended to a key. It waits for more, and ends only after an error.
///
/// It follows the key as a [`Follower`](crate::Follower) does. Items are copies in memory of at
/// most 256 KiB. While nothing is appended, the stream polls one word of shared memory on the
/// executor, with pauses that grow from 50 µs to 10 ms.
///
/// # Panics
///
/// To poll it panics in a tokio runtime without [time](tokio::runtime::Builder::enable_time), as
/// [`sleep`](tokio::time::sleep) does. Outside of a runtime, the first item is an error.
///
/// ```
/// use std::sync::Arc;
/// use partd::{AsyncUpdate, FollowStream, Partd, Position, SegmentLog};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> partd::Result<()> {
/// let p = Arc::new(SegmentLog::temporary()?);
/// let mut stream = FollowStream::new(&p, "x", Position::default());
/// p.append([("x", "Hello ")])?;
/// assert_eq!(stream.next().await.unwrap()?, AsyncUpdate::Appended("Hello ".into()));
/// p.append([("x", "world!")])?;
/// assert_eq!(stream.next().await.unwrap()?, AsyncUpdate::Appended("world!".into()));
/// p.delete(["x"])?;
/// assert_eq!(stream.next().await.unwrap()?, AsyncUpdate::Removed);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FollowStream {
    log: Arc<SegmentLog>,
    /// `None` while a call is running, and after an error.
    idle: Option<Work>,
    busy: Option<JoinHandle<(Work, Result<Option<AsyncUpdate>>)>>,
    /// The end of the history when the last poll began; `None` if there may be more to return.
    seen: Option<Seq>,
    /// When the current wait began.
    waits: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// State that moves into a blocking call and back.
#[derive(Debug)]
struct Work {
    state: FollowState,
    /// A reader of new bytes that have not all been returned yet.
    reader: Option<ValueReader>,
}

impl Work {
    fn next(&mut self, log: &SegmentLog) -> Result<Option<AsyncUpdate>> {
        if self.reader.is_none() {
            match log.next_news(&mut self.state)? {
                None => return Ok(None),
                Some(News::Removed) => return Ok(Some(AsyncUpdate::Removed)),
                Some(News::Appended(new)) => self.reader = Some(ValueReader::of_checked(new)),
            }
        }
        let mut bytes = Vec::new();
        if let Some(reader) = &mut self.reader {
            fill(reader, reader.position(), WINDOW_BYTES, &mut bytes)?;
            if reader.position() == reader.len() {
                self.reader = None;
            }
        }
        Ok(Some(AsyncUpdate::Appended(bytes.into())))
    }
}

impl FollowStream {
    /// Follows the key from a position: [`Position::default`] is the start of its value, and
    /// [`Follower::position`](crate::Follower::position) returns a later one.
    #[must_use]
    pub fn new(log: &Arc<SegmentLog>, key: impl Into<Key>, position: Position) -> FollowStream {
        let idle = Some(Work { state: FollowState::new(key.into(), position), reader: None });
        let log = Arc::clone(log);
        FollowStream { log, idle, busy: None, seen: None, waits: None, sleep: None }
    }

    /// Returns the next update once there is one, as `StreamExt::next` does; `None` after an error.
    pub async fn next(&mut self) -> Option<Result<AsyncUpdate>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn poll_update(&mut self, context: &mut Context<'_>) -> Poll<Result<AsyncUpdate>> {
        loop {
            if let Some(busy) = &mut self.busy {
                let done = ready!(Pin::new(busy).poll(context));
                self.busy = None;
                let (work, found) = done.map_err(|error| lost(self.log.path(), error))?;
                let found = found?;
                self.idle = Some(work);
                if let Some(update) = found {
                    (self.seen, self.waits) = (None, None);
                    return Poll::Ready(Ok(update));
                }
            }
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(context));
                self.sleep = None;
            }
            let last = self.log.last_seq()?;
            if self.seen == Some(last) {
                let waits = *self.waits.get_or_insert_with(Instant::now);
                self.sleep = Some(Box::pin(sleep(pause(waits.elapsed()))));
                continue;
            }
            self.seen = Some(last);
            let Some(mut work) = self.idle.take() else {
                return Poll::Ready(Err(lost(self.log.path(), "an earlier call failed")));
            };
            let log = Arc::clone(&self.log);
            let call = move || {
                let found = work.next(&log);
                (work, found)
            };
            self.busy = Some(spawn(self.log.path(), call)?);
        }
    }
}

impl Stream for FollowStream {
    type Item = Result<AsyncUpdate>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncUpdate>>> {
        let stream = self.get_mut();
        if stream.idle.is_none() && stream.busy.is_none() {
            return Poll::Ready(None);
        }
        let update = ready!(stream.poll_update(context));
        if update.is_err() {
            (stream.idle, stream.busy) = (None, None);
        }
        Poll::Ready(Some(update))
    }
}
