//! Addresses at which a server listens and to which a client connects, in ZeroMQ's notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use partd::Result;

use crate::error::{invalid, io_error, refused};
use crate::net::listener::private_directory;

/// The longest path of a unix socket, in bytes; the kernel's `sun_path` needs one more for the NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The address of a server: `ipc://PATH` or `tcp://HOST:PORT`.
///
/// ```
/// use partd_server::Address;
/// let address: Address = "tcp://127.0.0.1:7171".parse()?;
/// assert_eq!(address.to_string(), "tcp://127.0.0.1:7171");
/// assert!("http://example.org".parse::<Address>().is_err());
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address as it was written.
    text: String,
    pub(crate) target: Target,
}

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The path of a unix socket.
    Ipc(PathBuf),
    /// A host as it was written, and a port. A server may listen at `*`, every interface.
    Tcp(String, u16),
}

impl Address {
    /// Makes the address of a unix socket.
    ///
    /// # Errors
    /// The path is empty, contains a zero byte, is longer than 107 bytes, or is not UTF-8.
    pub fn ipc(path: impl AsRef<Path>) -> Result<Address> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(refused(path, "this is not a path for a unix socket"));
        }
        if bytes.len() > MAX_SOCKET_PATH_BYTES {
            let why = format!(
                "the path has {} bytes, but a unix socket's has at most {MAX_SOCKET_PATH_BYTES}; choose a shorter one",
                bytes.len()
            );
            return Err(refused(path, why));
        }
        let Some(text) = path.to_str() else {
            return Err(refused(path, "the path of a socket must be UTF-8 to be an address"));
        };
        Ok(Address { text: format!("ipc://{text}"), target: Target::Ipc(path.to_owned()) })
    }

    /// Makes the address of a TCP port.
    pub fn tcp(socket: SocketAddr) -> Address {
        let host = match socket.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let port = socket.port();
        Address { text: format!("tcp://{host}:{port}"), target: Target::Tcp(host, port) }
    }

    /// Returns the address at which `partd-server PATH` listens by default.
    ///
    /// It is a socket in `$XDG_RUNTIME_DIR/partd`, or in `PATH.server` if that variable is not set,
    /// named after the device and inode of the store's directory. Creates the directory of the
    /// socket, with mode 0700.
    ///
    /// # Errors
    /// The store's directory does not exist, or the directory of the socket is not private.
    pub fn for_store(store: impl AsRef<Path>) -> Result<Address> {
        let store = store.as_ref();
        let found = store.metadata().map_err(|error| io_error("examine", store, error))?;
        let store = store.canonicalize().map_err(|error| io_error("find", store, error))?;
        let dir = private_directory(Some(&store))?;
        Address::ipc(dir.join(format!("{:x}-{:x}.sock", found.dev(), found.ino())))
    }

    /// Returns the path of a unix socket, or `None` for a TCP port.
    pub fn path(&self) -> Option<&Path> {
        match &self.target {
            Target::Ipc(path) => Some(path),
            Target::Tcp(..) => None,
        }
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Resolves a TCP host and port to socket addresses.
    pub(crate) fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        if host == "*" {
            return Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]);
        }
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

impl FromStr for Address {
    type Err = partd::Error;

    fn from_str(text: &str) -> Result<Address> {
        let wrong = |why: &str| {
            invalid(format!(
                "{text:?} is not an address: {why}; write ipc:///path/to/socket or tcp://127.0.0.1:PORT"
            ))
        };
        if let Some(path) = text.strip_prefix("ipc://") {
            return match path.starts_with('@') {
                true => Err(wrong("abstract sockets have no permissions")),
                false => Address::ipc(path),
            };
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            return Err(wrong("it begins with neither ipc:// nor tcp://"));
        };
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(wrong("it has no port"));
        };
        // In ZeroMQ's notation the operating system chooses the port `*`.
        let port = if port == "*" { "0" } else { port };
        let port: u16 = port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?;
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(wrong("an IPv6 address must be in brackets"));
        }
        Ok(Address { text: text.to_owned(), target: Target::Tcp(host.to_owned(), port) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print_as_they_were_written() {
        for text in ["ipc:///run/x.sock", "tcp://127.0.0.1:7171", "tcp://[::1]:1", "tcp://*:5"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_invalid_address_is_refused_with_the_reason() {
        let long = format!("ipc:///{}", "x".repeat(120));
        let cases = [
            ("http://x", "begins with neither"),
            ("tcp://host", "no port"),
            ("tcp://:1", "no host"),
            ("tcp://h:99999", "not a number"),
            ("tcp://::1:5", "brackets"),
            ("ipc://@name", "abstract"),
            ("ipc://", "not a path"),
            (long.as_str(), "107"),
        ];
        for (text, why) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
