//! A connected stream socket, every call of which has a deadline.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_socket_send_buffer_size, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// The requested size of the send buffer (`SO_SNDBUF`).
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// The most slices that one system call accepts (`IOV_MAX`).
const MAX_SLICES: usize = 1024;

/// A stream of bytes in both directions. The fuzz targets implement it in memory.
pub(crate) trait Stream {
    /// Appends input to `into`, with room for `max` bytes; returns 0 at the end of the stream. May
    /// append more than `max` bytes if `into` has the capacity.
    fn read(&mut self, into: &mut Vec<u8>, max: usize, deadline: Instant) -> io::Result<usize>;

    /// Writes a part of the slices, from their start, and returns its length.
    fn write(&mut self, slices: &[IoSlice<'_>], deadline: Instant) -> io::Result<usize>;

    /// Like [`write`](Stream::write), but returns 0 instead of waiting.
    fn write_now(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// A connected, non-blocking socket. Calls wait for it with `poll`.
#[derive(Debug)]
pub(crate) struct Socket(Arc<OwnedFd>);

impl Socket {
    /// Wraps a connected unix socket.
    pub(crate) fn unix(fd: OwnedFd) -> io::Result<Socket> {
        // With a larger send buffer, the two ends wait for each other less often. A hint: the
        // system limits it (`net.core.wmem_max`).
        let _ = set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES);
        Socket::non_blocking(fd)
    }

    fn non_blocking(fd: OwnedFd) -> io::Result<Socket> {
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Socket(Arc::new(fd)))
    }

    /// Wraps a connected TCP socket. Sets `TCP_NODELAY`, to send answers without delay, and
    /// keep-alive, to notice a dead peer.
    pub(crate) fn tcp(fd: OwnedFd) -> io::Result<Socket> {
        set_tcp_nodelay(&fd, true)?;
        set_socket_keepalive(&fd, true)?;
        Socket::non_blocking(fd)
    }

    /// Connects to a unix socket.
    pub(crate) fn connect_unix(path: &Path, deadline: Instant) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        loop {
            match rustix::net::connect(&fd, &address) {
                Ok(()) => return Socket::unix(fd),
                Err(Errno::INTR) => {}
                // The server's backlog is full, which `poll` cannot wait for.
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to a TCP port.
    pub(crate) fn connect_tcp(address: &SocketAddr, deadline: Instant) -> io::Result<Socket> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        Socket::tcp(TcpStream::connect_timeout(address, left)?.into())
    }

    /// Returns another handle to the same socket, with which another thread can shut it down.
    pub(crate) fn share(&self) -> Socket {
        Socket(Arc::clone(&self.0))
    }

    /// Returns whether input is waiting, or the stream has ended.
    pub(crate) fn is_readable(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = PollFlags::IN | PollFlags::RDHUP;
        poll(&mut [PollFd::from_borrowed_fd(self.0.as_fd(), flags)], Some(&now)) != Ok(0)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Waits until the socket is ready.
    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        wait(self.0.as_fd(), flags, deadline)
    }
}

/// Shuts down the input, which wakes a thread that waits for it. Bytes that have arrived can still
/// be read.
pub(crate) fn end_input(fd: &OwnedFd) {
    // Fails if the peer has disconnected, which ends the input as well.
    let _ = rustix::net::shutdown(fd, Shutdown::Read);
}

/// Shuts down both directions.
pub(crate) fn end(fd: &OwnedFd) {
    // Fails if the peer has disconnected.
    let _ = rustix::net::shutdown(fd, Shutdown::Both);
}

/// Waits until a descriptor is ready; fails with [`io::ErrorKind::TimedOut`] at the deadline.
pub(crate) fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1 << 30, tv_nsec: 0 });
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Stream for Socket {
    fn read(&mut self, into: &mut Vec<u8>, max: usize, deadline: Instant) -> io::Result<usize> {
        loop {
            into.reserve(max);
            // The capacity may exceed `max`. The channel passes any bytes beyond it on to the next
            // message.
            let received = rustix::net::recv(&*self.0, spare_capacity(into), RecvFlags::empty());
            match received {
                Ok((_, len)) => return Ok(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Release the buffer, so that an idle connection holds no memory.
                    if into.is_empty() {
                        *into = Vec::new();
                    }
                    self.wait(PollFlags::IN, deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.write_now(slices)? {
                0 => self.wait(PollFlags::OUT, deadline)?,
                len => return Ok(len),
            }
        }
    }

    fn write_now(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices = &slices[..slices.len().min(MAX_SLICES)];
        loop {
            let none = &mut SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&*self.0, slices, none, SendFlags::NOSIGNAL) {
                Ok(len) => return Ok(len),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
