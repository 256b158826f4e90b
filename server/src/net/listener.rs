//! A bound address: the ownership of a socket file, and the peers of accepted connections.
//!
//! A server holds a lock on `SOCKET.lock` for as long as it owns the name. If a server gets the
//! lock and no process listens at the socket file, the file is left over from a dead server, and
//! the new one replaces it. If a process does listen, the socket belongs to another program and
//! stays.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use partd::Result;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::socket::Socket;
use crate::Address;
use crate::address::Target;
use crate::error::{invalid, io_error, refused};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound address.
#[derive(Debug)]
pub(crate) struct Listener {
    kind: Kind,
    address: Address,
}

#[derive(Debug)]
enum Kind {
    /// Dropping the [`OwnedName`] removes the socket file. `None` if another process created the
    /// socket.
    Unix(UnixListener, #[allow(dead_code, reason = "held for its drop")] Option<OwnedName>),
    Tcp(TcpListener),
}

/// The peer of a connection, for the log and for the check of its user.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// `pid` is 0 if this process cannot see the peer, for example from inside a container.
    Process {
        pid: i32,
        uid: u32,
    },
    Host(SocketAddr),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Process { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Peer::Host(address) => write!(f, "{address}"),
        }
    }
}

impl Listener {
    /// Binds an address. The caller must check that a TCP address is allowed.
    pub(crate) fn bind(address: &Address) -> Result<Listener> {
        match &address.target {
            Target::Ipc(path) => Listener::bind_unix(path, address),
            Target::Tcp(host, port) => {
                let cannot = |error| io_error("listen at", address.as_str(), error);
                let resolved = Address::resolve(host, *port).map_err(cannot)?;
                let listener = TcpListener::bind(&resolved[..]).map_err(cannot)?;
                Listener::tcp(listener).map_err(cannot)
            }
        }
    }

    fn bind_unix(path: &Path, address: &Address) -> Result<Listener> {
        let name = OwnedName::take(path)?;
        let cannot = |error: io::Error| io_error("listen at", path, error);
        let bound = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // `bind` creates the file with the mode of the socket, so the file never has another
            // mode.
            rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(fd)
        };
        let listener = UnixListener::from(bound().map_err(cannot)?);
        let name = name.bound().map_err(cannot)?;
        Ok(Listener { kind: Kind::Unix(listener, Some(name)), address: address.clone() })
    }

    /// Uses a unix socket that is already bound, such as systemd's. Leaves its file in place at the
    /// end.
    pub(crate) fn unix(listener: UnixListener) -> Result<Listener> {
        let cannot = |error| io_error("use", "the socket that was passed in", error);
        listener.set_nonblocking(true).map_err(cannot)?;
        let bound = listener.local_addr().map_err(cannot)?;
        let Some(path) = bound.as_pathname() else {
            return Err(invalid("the socket that was passed in has no path"));
        };
        Ok(Listener { address: Address::ipc(path)?, kind: Kind::Unix(listener, None) })
    }

    /// Uses a TCP socket that is already bound.
    pub(crate) fn tcp(listener: TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let address = Address::tcp(listener.local_addr()?);
        Ok(Listener { kind: Kind::Tcp(listener), address })
    }

    /// Returns the address, with the actual port if the operating system chose it.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns whether only processes of this machine can connect.
    pub(crate) fn is_local(&self) -> bool {
        match &self.kind {
            Kind::Unix(..) => true,
            Kind::Tcp(listener) => listener.local_addr().is_ok_and(|at| at.ip().is_loopback()),
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    /// Accepts a waiting connection.
    pub(crate) fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.kind {
            Kind::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                let peer = getsockopt(&stream, PeerCredentials)?;
                let peer = Peer::Process { pid: peer.pid(), uid: peer.uid() };
                Ok((Socket::unix(stream.into())?, peer))
            }
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((Socket::tcp(stream.into())?, Peer::Host(address)))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(listener, _) => listener.as_fd(),
            Kind::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// The name of a socket file, owned through the lock on its lock file.
#[derive(Debug)]
struct OwnedName {
    socket: PathBuf,
    lock: PathBuf,
    /// Holds the lock.
    _file: File,
    /// The device and inode of the socket file, once it is bound.
    inode: Option<(u64, u64)>,
}

impl OwnedName {
    /// Locks the name and removes the socket of a dead server.
    fn take(socket: &Path) -> Result<OwnedName> {
        let mut lock = socket.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let file = lock_file(&lock, socket)?;
        let name = OwnedName { socket: socket.to_owned(), lock, _file: file, inode: None };
        match fs::symlink_metadata(socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
            Err(error) => return Err(io_error("examine", socket, error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(refused(
                    socket,
                    "this file exists and is not a socket; choose another name",
                ));
            }
            Ok(_) => {}
        }
        let soon = Instant::now() + Duration::from_millis(100);
        match Socket::connect_unix(socket, soon) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(socket).map_err(|error| io_error("replace", socket, error))?;
                tracing::info!(socket = %socket.display(), "replaced the socket of a dead server");
                Ok(name)
            }
            // Even a listener that is slow or refuses this process owns the socket.
            _ => Err(refused(socket, "a server listens at this socket; choose another name")),
        }
    }

    /// Records the inode of the socket file after it was bound.
    fn bound(mut self) -> io::Result<OwnedName> {
        let found = fs::symlink_metadata(&self.socket)?;
        self.inode = Some((found.dev(), found.ino()));
        Ok(self)
    }
}

impl Drop for OwnedName {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.socket);
        if found.is_ok_and(|found| self.inode == Some((found.dev(), found.ino()))) {
            // If this fails, the next server replaces the file.
            let _ = fs::remove_file(&self.socket);
        }
        // Remove the lock file before the lock is released: then a process that gets the lock finds
        // that its file has no name, and opens the file again.
        let _ = fs::remove_file(&self.lock);
    }
}

/// Opens and locks the lock file. The locked file is the one that has the name `lock`.
fn lock_file(lock: &Path, socket: &Path) -> Result<File> {
    let cannot = |error| io_error("lock", lock, error);
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32)
            .open(lock)
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refused(
                    socket,
                    "another server owns this socket; choose another name",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let held = file.metadata().map_err(cannot)?;
        match fs::symlink_metadata(lock) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(file),
            // The last owner removed the file between our `open` and our lock.
            _ => {}
        }
    }
}

/// Returns the directory for this user's sockets: `$XDG_RUNTIME_DIR/partd`, or `STORE.server`.
///
/// Creates it with mode 0700 if it is missing.
///
/// # Errors
/// The directory belongs to another user or is accessible to others, or cannot be created.
pub(crate) fn private_directory(store: Option<&Path>) -> Result<PathBuf> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
    let dir = match (runtime, store) {
        (Some(runtime), _) => runtime.join("partd"),
        (None, Some(store)) => {
            let mut beside = store.as_os_str().to_owned();
            beside.push(".server");
            PathBuf::from(beside)
        }
        (None, None) => {
            return Err(invalid(
                "XDG_RUNTIME_DIR is not set, so there is no directory for a socket; give an address",
            ));
        }
    };
    let made = fs::DirBuilder::new().mode(0o700).create(&dir);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("make the directory", &dir, error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&dir).map_err(|error| io_error("examine", &dir, error))?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own || found.mode() & 0o077 != 0 {
        let why = "the directory for sockets must belong to this user and have mode 0700; correct it \
                   (`chmod 700`), or give an address elsewhere";
        return Err(refused(dir, why));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;

    use super::*;

    fn address(dir: &Path) -> Address {
        Address::ipc(dir.join("s.sock")).unwrap()
    }

    #[test]
    fn a_socket_file_is_private_and_removed_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&address(dir.path())).unwrap();
        let mode = fs::metadata(dir.path().join("s.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_socket_of_a_running_server_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = address(dir.path());
        let listener = Listener::bind(&at).unwrap();
        let error = Listener::bind(&at).unwrap_err().to_string();
        assert!(error.contains("another server owns"), "{error}");
        drop(listener);
        // A listener that takes no lock, such as libzmq's.
        let _other = UnixListener::bind(dir.path().join("s.sock")).unwrap();
        let error = Listener::bind(&at).unwrap_err().to_string();
        assert!(error.contains("a server listens"), "{error}");
    }

    #[test]
    fn the_socket_of_a_dead_server_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::bind(&address(dir.path())).unwrap());
        fs::write(&path, "notes").unwrap();
        assert!(Listener::bind(&address(dir.path())).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"notes");
    }

    #[test]
    fn exactly_one_of_racing_servers_gets_the_socket_of_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            drop(UnixListener::bind(dir.path().join("s.sock")).unwrap());
            let (start, end) = (Barrier::new(4), Barrier::new(4));
            let owners: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            let bound = Listener::bind(&address(dir.path()));
                            end.wait();
                            usize::from(bound.is_ok())
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(owners, 1);
        }
    }
}
