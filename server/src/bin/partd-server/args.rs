//! The command line: options, subcommands, and examples for each in its help.

#![allow(clippy::doc_markdown, reason = "these comments are the help, which is no Markdown")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use partd_server::{Limits, Role};

/// Serve a partd store to other processes and machines.
///
/// Clients of the crate partd-server and of Python's partd connect to it. It runs in the foreground
/// until SIGTERM or SIGINT: then it stops accepting, finishes what has arrived, flushes, syncs and
/// exits with 0. A second signal ends it at once. Its addresses go to standard output, its log to
/// standard error. Under systemd it takes the sockets of its socket unit and says when it is ready.
#[derive(Debug, Parser)]
#[command(
    name = "partd-server",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    after_help = EXAMPLES
)]
pub(crate) struct Args {
    /// The store, a directory that is made if it is missing
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
  partd-server status tcp://127.0.0.1:7171                        how it is

Exit codes: 0 ended as asked, 1 the store failed, 2 usage, or something is refused.";

/// How to serve.
#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// Listen here: ipc://PATH or tcp://HOST:PORT; may be given more than once
    ///
    /// Unless given: a socket in $XDG_RUNTIME_DIR/partd, named after the store's directory; or in
    /// PATH.server where that variable is not set. Unix sockets let in processes of the same user only.
    /// TCP beyond this machine needs --curve-key and --curve-clients. Port 0 is a free port.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Vec<String>,
    /// Collect appends in so much memory before they go to the store
    ///
    /// What is in memory survives the end of a client and an orderly end of the server, but not
    /// `kill -9` of the server; an append that was asked for as durable, or a sync, brings it to disk.
    /// With 0, every acknowledged append survives `kill -9`.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "0")]
    pub(crate) memory: u64,
    /// Compress values on their way to disk: zlib, snappy, lz4, or one with a level such as zlib:9
    #[arg(long, value_name = "CODEC")]
    pub(crate) encode: Option<String>,
    /// Let the store take at most so much disk
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_store: Option<u64>,
    /// What clients without a key may do: read, append, remove, drop, close, or all
    #[arg(long, default_value = "all")]
    pub(crate) role: Role,
    /// What no client may do, whatever its role
    #[arg(long, default_value = "none", value_name = "ROLE")]
    pub(crate) forbid: Role,
    /// Encrypt TCP with this secret key, which `keygen` has made
    #[arg(long, value_name = "FILE", requires = "curve_clients")]
    pub(crate) curve_key: Option<PathBuf>,
    /// Let in TCP clients with these public keys: one in each line, behind it its role
    #[arg(long, value_name = "FILE", requires = "curve_key")]
    pub(crate) curve_clients: Option<PathBuf>,
    /// Keep answers that are too large for memory in unnamed files here
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// Serve Prometheus text at this address of this machine, as http://ADDRESS/metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
    /// What to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LogLevel,
    /// How to log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// What is logged. At `debug` and below, errors of the store may name keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Limits; those that are not given have the defaults of the library.
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
    /// Bytes of one value that is written [default: 256MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_value: Option<u64>,
    /// Connections at a time [default: 1024]
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,
    /// Time for a handshake [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    handshake_time: Option<Duration>,
    /// Time without a request after which a connection is closed [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = time)]
    idle_time: Option<Duration>,
    /// Time for a message to arrive, and for a part of an answer to be taken [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = time)]
    message_time: Option<Duration>,
    /// Bytes of messages and answers in memory for one connection [default: 512MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_client: Option<u64>,
    /// Bytes of messages and answers in memory for all connections [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_in_flight: Option<u64>,
    /// Bytes of an answer above which it goes through a file [default: 8MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_answer: Option<u64>,
    /// Time to finish what has arrived when the server stops [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    grace_time: Option<Duration>,
}

impl LimitArgs {
    /// The limits of the library, with those that were given.
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
    /// Show how a server is: health, uptime, connections, rates, memory, sequence numbers
    #[command(after_help = "\
Examples:
  partd-server status ipc:///run/jobs/partd.sock
  partd-server status --json tcp://127.0.0.1:7171 | jq .requests_per_second

Exit codes: 0 the server is well, 1 its store fails or it is stopping, 2 it cannot be asked.")]
    Status(StatusArgs),
    /// Make a key pair for CURVE: FILE with mode 0600, and FILE.pub
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
    /// The secret key of this client, for a server with CURVE
    #[arg(long, value_name = "FILE", requires = "server_key")]
    pub(crate) curve_key: Option<PathBuf>,
    /// The file of the server's public key
    #[arg(long, value_name = "FILE", requires = "curve_key")]
    pub(crate) server_key: Option<PathBuf>,
    /// How long to wait for the server
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    pub(crate) timeout: Duration,
}

/// Splits a number from its unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// Reads a number of bytes: 4096, 64KiB, 2 GiB.
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

/// Reads a time: 30s, 2m, 1h, 250ms.
fn time(text: &str) -> Result<Duration, String> {
    /// Longer than any machine runs; a clock can still be added to.
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
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert!(bytes("1.5G").is_err() && bytes("").is_err() && bytes("99999999TiB").is_err());
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert!(time("1y").is_err() && time("99999999999999h").is_err());
    }

    #[test]
    fn every_limit_has_its_default_in_the_help() {
        let limits = Args::parse_from(["partd-server", "x"]).serve.limits.limits();
        assert_eq!(limits, Limits::default());
        let help = Args::command().render_long_help().to_string();
        for default in ["256MiB", "2000001", "1000000", "1MiB", "1024", "10s", "1h", "2m", "512MiB"]
        {
            assert!(help.contains(&format!("[default: {default}]")), "{default}");
        }
    }
}
