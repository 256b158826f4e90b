//! A window of a value: bytes that a blocking call has copied from the mapping.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::log::ValueReader;
use crate::{Error, Result};

/// The length of a window unless the caller chooses another.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// A reader and the bytes that it copied last.
#[derive(Debug)]
struct Window {
    reader: ValueReader,
    bytes: Vec<u8>,
    /// The position of the first of them.
    at: u64,
}

impl Window {
    /// Copies up to `len` bytes from position `at`. An error after the first byte is left to the
    /// next call.
    fn fill(&mut self, at: u64, len: usize) -> Result<()> {
        self.at = at;
        fill(&mut self.reader, at, len, &mut self.bytes)
    }
}

/// Replaces `bytes` with up to `len` bytes of a value, from position `at`.
pub(super) fn fill(
    reader: &mut ValueReader,
    at: u64,
    len: usize,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    use std::io::BufRead;
    bytes.clear();
    bytes.reserve_exact(len.min(reader.len().saturating_sub(at) as usize));
    if reader.position() != at {
        reader.move_to(at);
    }
    while bytes.len() < len {
        let rest = len - bytes.len();
        let piece = match reader.fill(rest as u64) {
            Ok([]) => break,
            Ok(piece) => &piece[..piece.len().min(rest)],
            Err(_) if !bytes.is_empty() => break,
            Err(error) => return Err(error),
        };
        let len = piece.len();
        bytes.extend_from_slice(piece);
        reader.consume(len);
    }
    Ok(())
}

/// The windows of a value, read by one blocking call at a time.
#[derive(Debug)]
pub(super) struct Windows {
    idle: Option<Window>,
    busy: Option<JoinHandle<(Window, Result<()>)>>,
    path: PathBuf,
    pub(super) window_len: usize,
    /// The position of the next byte to return, and the length of the value.
    pub(super) position: u64,
    pub(super) len: u64,
}

impl Windows {
    pub(super) fn new(reader: ValueReader) -> Windows {
        let (path, position, len) = (reader.path(), reader.position(), reader.len());
        let idle = Some(Window { reader, bytes: Vec::new(), at: 0 });
        Windows { idle, busy: None, path, window_len: WINDOW_BYTES, position, len }
    }

    /// Waits until the bytes at the position are in memory, and returns them; none at the end of
    /// the value.
    pub(super) fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        loop {
            if self.position >= self.len {
                return Poll::Ready(Ok(&[]));
            }
            if let Some(busy) = &mut self.busy {
                let done = ready!(Pin::new(busy).poll(context));
                self.busy = None;
                let (window, filled) = done.map_err(|error| lost(&self.path, error))?;
                let is_here = window.at == self.position;
                self.idle = Some(window);
                // After a seek, the error of another position does not matter.
                if is_here {
                    filled?;
                }
            }
            let position = self.position;
            let holds = |window: &Window| {
                (window.at..window.at + window.bytes.len() as u64).contains(&position)
            };
            if self.idle.as_ref().is_none_or(holds) {
                break;
            }
            // Before the window is taken: a call in a runtime can then go on.
            let runtime = runtime(&self.path)?;
            let Some(mut window) = self.idle.take() else { break };
            let len = self.window_len;
            let work = move || {
                let filled = window.fill(position, len);
                (window, filled)
            };
            self.busy = Some(runtime.spawn_blocking(work));
        }
        let Some(window) = &self.idle else {
            return Poll::Ready(Err(lost(&self.path, "an earlier call failed")));
        };
        Poll::Ready(Ok(&window.bytes[(self.position - window.at) as usize..]))
    }

    /// Takes the bytes that [`poll_bytes`](Windows::poll_bytes) has returned, and advances past
    /// them.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let Some(window) = &mut self.idle else { return Vec::new() };
        let mut bytes = std::mem::take(&mut window.bytes);
        bytes.drain(..(self.position - window.at) as usize);
        self.position += bytes.len() as u64;
        bytes
    }
}

/// Starts a blocking call.
pub(super) fn spawn<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Ok(runtime(path)?.spawn_blocking(work))
}

/// Returns the runtime of the calling task.
fn runtime(path: &Path) -> Result<Handle> {
    Handle::try_current().map_err(|error| lost(path, error))
}

/// Returns the error for a blocking call that could not be started, or did not complete.
pub(super) fn lost(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::io("read in the background", path, io::Error::other(why))
}
