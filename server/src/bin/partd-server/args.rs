//! The command line: options, subcommands, and the help with examples for each.

#![allow(clippy::doc_markdown, reason = "these comments are the help, which is not Markdown")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use partd_server::{Limits, Role};

/// Serve a partd store to other processes and machines.
///
/// Clients of the crate partd-server and of Python's partd can connect. The server runs in the
/// foreground until SIGTERM or SIGINT. It then stops accepting, finishes the requests that have
/// arrived, flushes, syncs and exits with 0. A second signal ends it at once. It prints its
/// addresses to standard output and its log to standard error. Under systemd it uses the sockets of
/// its socket unit and notifies systemd when it is ready.
#[derive(Debug, Parser)]
#[command(
    name = "partd-server",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    after_help = EXAMPLES
)]
pub(crate) struct Args {
    /// The directory of the store; created if it is missing
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  partd-server /data/store                                        for processes of this user
  partd-server /data/store --bind ipc:///run/jobs/partd.sock      at a socket of your choice
  partd-server /data/store --bind tcp://127.0.0.1:7171 --memory 2GiB
  partd-server /data/store --bind tcp://10.0.0.7:7171 --curve-key server.key --curve-clients allowed
  partd-server status tcp://127.0.0.1:7171                        show the status of a server

Exit codes: 0 stopped as asked, 1 the store failed, 2 wrong usage or refused.";

/// The options of the server.
#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// Listen at this address: ipc://PATH or tcp://HOST:PORT; can be repeated
    ///
    /// The default is a socket in $XDG_RUNTIME_DIR/partd, named after the identity of the store's
    /// directory; if that variable is not set, a socket in PATH.server. Unix sockets accept only
    /// processes of the same user. TCP beyond this machine needs --curve-key and --curve-clients.
    /// With port 0 the operating system chooses a free port.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Vec<String>,
    /// Buffer appends in this much memory before they go to the store
    ///
    /// Buffered appends survive the death of a client and a clean shutdown of the server, but not
    /// `kill -9` of the server. A durable append or a sync writes them to disk. With 0, every
    /// acknowledged append survives `kill -9`.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "0")]
    pub(crate) memory: u64,
    /// Compress values on disk: zlib, snappy or lz4; with a level as in zlib:9
    #[arg(long, value_name = "CODEC")]
    pub(crate) encode: Option<String>,
    /// Limit the disk space of the store
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_store: Option<u64>,
    /// Permissions of clients without a key: a list of read, append, remove, drop, close, or all
    #[arg(long, default_value = "all")]
    pub(crate) role: Role,
    /// Permissions that no client has, whatever its role
    #[arg(long, default_value = "none", value_name = "ROLE")]
    pub(crate) forbid: Role,
    /// Encrypt TCP with this secret key, made by `keygen`
    #[arg(long, value_name = "FILE", requires = "curve_clients")]
    pub(crate) curve_key: Option<PathBuf>,
    /// Accept TCP clients with the public keys in this file: in each line a key and its role
    #[arg(long, value_name = "FILE", requires = "curve_key")]
    pub(crate) curve_clients: Option<PathBuf>,
    /// Keep answers too large for memory in unnamed files here [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// Serve Prometheus metrics at http://HOST:PORT/metrics; HOST must be a loopback address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// Log messages of this level and above
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LogLevel,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// The level of the log. At `debug` and below, errors of the store may name keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Limits. A limit that is not given has the default of the library.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Bytes of one message [default: 256MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_message: Option<u64>,
    /// Frames of one message [default: 2000001]
    #[arg(long, value_name = "COUNT")]
    max_frames: Option<usize>,
    /// Keys of one request [default: 1000000]
    #[arg(long, value_name = "COUNT")]
    max_keys: Option<usize>,
    /// Bytes of one key [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_key: Option<u64>,
    /// Bytes of one value in a write [default: 256MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_value: Option<u64>,
    /// Simultaneous connections [default: 1024]
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,
    /// Time for a handshake [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    handshake_time: Option<Duration>,
    /// Close a connection without a request for this time [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = time)]
    idle_time: Option<Duration>,
    /// Time for a message to arrive, and to read a chunk of an answer [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = time)]
    message_time: Option<Duration>,
    /// Bytes of messages and answers in memory for one connection [default: 512MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_client: Option<u64>,
    /// Bytes of messages and answers in memory for all connections [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_in_flight: Option<u64>,
    /// Bytes of an answer in memory; a longer one goes through a file [default: 8MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_answer: Option<u64>,
    /// Time to finish the requests that have arrived when the server stops [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    grace_time: Option<Duration>,
}

impl LimitArgs {
    /// Returns the default limits, replaced by those that were given.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let LimitArgs {
            max_message,
            max_frames,
            max_keys,
            max_key,
            max_value,
            max_connections,
            handshake_time,
            idle_time,
            message_time,
            max_client,
            max_in_flight,
            max_answer,
            grace_time,
        } = self;
        set(&mut limits.message_bytes, max_message);
        set(&mut limits.frames, max_frames);
        set(&mut limits.keys, max_keys);
        set(&mut limits.key_bytes, max_key);
        set(&mut limits.value_bytes, max_value);
        set(&mut limits.connections, max_connections);
        set(&mut limits.handshake, handshake_time);
        set(&mut limits.idle, idle_time);
        set(&mut limits.message, message_time);
        set(&mut limits.client_bytes, max_client);
        set(&mut limits.in_flight_bytes, max_in_flight);
        set(&mut limits.answer_bytes, max_answer);
        set(&mut limits.grace, grace_time);
        limits
    }
}

fn set<T: Clone>(limit: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        limit.clone_from(given);
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the status of a server: health, uptime, connections, rates, memory, sequence numbers
    #[command(after_help = "\
Examples:
  partd-server status ipc:///run/jobs/partd.sock
  partd-server status --json tcp://127.0.0.1:7171 | jq .requests_per_second

Exit codes: 0 the server is well, 1 its store fails or it is stopping, 2 it does not answer.")]
    Status(StatusArgs),
    /// Make a key pair for CURVE: the secret key FILE with mode 0600, and FILE.pub
    #[command(after_help = "\
Examples:
  partd-server keygen server.key
  partd-server keygen client.key && cat client.key.pub >> allowed")]
    Keygen {
        /// The file of the secret key; it must not exist
        file: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  partd-server completions bash >/etc/bash_completion.d/partd-server")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    #[command(after_help = "Example:\n  partd-server man | man -l -")]
    Man,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// The address of the server, or the directory of its store
    pub(crate) address: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The file of this client's secret key, for a server with CURVE
    #[arg(long, value_name = "FILE", requires = "server_key")]
    pub(crate) curve_key: Option<PathBuf>,
    /// The file of the server's public key
    #[arg(long, value_name = "FILE", requires = "curve_key")]
    pub(crate) server_key: Option<PathBuf>,
    /// How long to wait for the server
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    pub(crate) timeout: Duration,
}

/// Splits text into a number and its unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Parses a number of bytes: 4096, 64KiB, 2 GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let read = split(text).and_then(|(number, unit)| {
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return None,
        };
        number.checked_mul(1 << shift)
    });
    read.ok_or_else(|| "write a number of bytes such as 4096, 64KiB or 2GiB".to_owned())
}

/// Parses a duration: 30s, 2m, 1h, 250ms.
fn time(text: &str) -> Result<Duration, String> {
    /// Ten years. Adding it to an `Instant` cannot overflow.
    const MAX_MILLIS: u64 = 10 * 365 * 24 * 3600 * 1000;
    let read = split(text).and_then(|(number, unit)| {
        let millis = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).filter(|millis| *millis <= MAX_MILLIS)
    });
    let read = read.map(Duration::from_millis);
    read.ok_or_else(|| "write a time such as 250ms, 30s, 2m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_parsed_with_their_units() {
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert!(bytes("1.5G").is_err() && bytes("").is_err() && bytes("99999999TiB").is_err());
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert!(time("1y").is_err() && time("99999999999999h").is_err());
    }

    #[test]
    fn the_help_shows_the_default_of_every_limit() {
        let limits = Args::parse_from(["partd-server", "x"]).serve.limits.limits();
        assert_eq!(limits, Limits::default());
        let help = Args::command().render_long_help().to_string();
        for default in ["256MiB", "2000001", "1000000", "1MiB", "1024", "10s", "1h", "2m", "512MiB"]
        {
            assert!(help.contains(&format!("[default: {default}]")), "{default}");
        }
    }
}
