//! Defines the command line: subcommands, options, and an example for each in its help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Shows, checks and salvages a partd store, live or dead.
///
/// It reads the files of a store itself, never through the engine. Only `sweep --remove` changes a
/// store; no command blocks a writer. Without a subcommand it prints a summary.
#[derive(Debug, Parser)]
#[command(name = "partd-inspect", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,
    /// A store (a directory) or a segment file: prints its summary
    pub(crate) path: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  partd-inspect /data/store                   the summary
  partd-inspect verify /data/store            check every checksum
  partd-inspect get /data/store 'a\\x00b' >v   one value; the key as `keys` shows it
  partd-inspect keys --json /data/store       the same as JSON

Exit codes: 0 healthy; 1 damage found; 2 wrong usage, or something is missing or unreadable.";

/// Options of every subcommand.
#[derive(Debug, ClapArgs)]
pub(crate) struct Options {
    /// Print one JSON document instead of text (schema: docs/partd-inspect-json.md)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print sizes as exact numbers of bytes
    #[arg(long, global = true)]
    pub(crate) exact: bool,
    /// Never shorten keys to make a table fit
    #[arg(long, global = true)]
    pub(crate) wide: bool,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// When to colour the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// In a terminal, unless `NO_COLOR` is set
    Auto,
    /// Also in files and pipes, unless `NO_COLOR` is set
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the segments: state, size, use, live and dead bytes
    #[command(after_help = "Example:\n  partd-inspect segments /data/store")]
    Segments {
        /// A store or a segment file
        path: PathBuf,
    },
    /// List the batches in the order of the history
    #[command(after_help = "\
Examples:
  partd-inspect batches /data/store --from 100 --to 120
  partd-inspect batches /data/store --segment 3 --all
  partd-inspect batches /data/store --key user:17")]
    Batches(Batches),
    /// List the keys: length, extents, share of the live bytes
    #[command(after_help = "\
Examples:
  partd-inspect keys /data/store --sort size --limit 20
  partd-inspect keys /data/store --prefix user:
  partd-inspect keys /data/store --group-by 2 --sort size")]
    Keys(Keys),
    /// Write the value of a key to standard output
    #[command(after_help = "\
Write the key as `keys` shows it: \\\\, \\n, \\r, \\t, \\0, \\', \\\" and \\xNN are escapes.
Nothing is written unless the whole value matches its checksums, or --partial is given.
If there is no such key, the exit code is 2. Put a key that looks like an option after --.

Examples:
  partd-inspect get /data/store user:17 >value
  partd-inspect get --hex /data/store 'a\\x00\\x01b'")]
    Get(Get),
    /// Show the bytes of a segment, field by field, with the names in SPEC.md
    #[command(after_help = "\
Examples:
  partd-inspect dump /data/store/0000000000000001.seg | less
  partd-inspect dump 0000000000000001.seg --from 4096 --bytes 256")]
    Dump(Dump),
    /// Check every checksum, in parallel
    #[command(after_help = "Example:\n  partd-inspect verify /data/store && echo healthy")]
    Verify(Verify),
    /// Show a map of the live and dead bytes
    #[command(after_help = "Example:\n  partd-inspect map /data/store --svg map.svg")]
    Map(Map),
    /// Write each key's value to a file of its own, with a manifest
    #[command(after_help = "Example:\n  partd-inspect export /data/store /tmp/values")]
    Export(Export),
    /// Write everything that still verifies to a new store, and report what is lost
    #[command(after_help = "\
Example:
  partd-inspect salvage /data/store /data/salvaged

The new store has segment files only; the engine creates its control file on opening it.")]
    Salvage(Salvage),
    /// Copy the store, as of one sequence number, into a directory of its own
    #[command(after_help = "\
Example:
  partd-inspect backup /data/store /backups/monday

The copy opens anywhere. On the same file system, segments that will not change and are durable become
hard links, and the rest is copied. It works beside writers and compactions.")]
    Backup(Backup),
    /// Find temporary stores that no process uses any more
    #[command(after_help = "\
Examples:
  partd-inspect sweep /tmp              lists them
  partd-inspect sweep /tmp --remove     removes the abandoned ones")]
    Sweep(Sweep),
    /// Show live rates, refreshed at intervals
    #[command(after_help = "Example:\n  partd-inspect watch /data/store --interval 0.5")]
    Watch(Watch),
    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  partd-inspect completions bash >/etc/bash_completion.d/partd-inspect")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    #[command(after_help = "Example:\n  partd-inspect man | man -l -")]
    Man,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Batches {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// Only batches of the segment with this id (decimal, 0x and hexadecimal, or a file name)
    #[arg(long, value_name = "ID", value_parser = segment_id)]
    pub(crate) segment: Option<u64>,
    /// Only batches with an entry of this key, written as `keys` shows it
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) key: Option<OsString>,
    /// Only batches with this sequence number or a higher one
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) from: Option<u64>,
    /// Only batches with this sequence number or a lower one
    #[arg(long, value_name = "SEQUENCE")]
    pub(crate) to: Option<u64>,
    /// Include batches that are pending, void, damaged, replaced or beyond the history
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Keys {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// Sort by key, largest value first, or most extents first
    #[arg(long, default_value = "key")]
    pub(crate) sort: Sort,
    /// Only keys with this prefix, written as `keys` shows it
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prefix: Option<OsString>,
    /// Instead of keys, list the totals of those with the same first COUNT parts of a tuple
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) group_by: Option<u32>,
    /// Only this many keys, or groups
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
}

/// The order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    Key,
    Size,
    Extents,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Get {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// The key, written as `keys` shows it
    #[arg(allow_hyphen_values = true)]
    pub(crate) key: OsString,
    /// Write hexadecimal digits, 32 bytes per line
    #[arg(long)]
    pub(crate) hex: bool,
    /// Write the parts of a damaged value that verify
    #[arg(long)]
    pub(crate) partial: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Dump {
    /// A segment file
    pub(crate) segment: PathBuf,
    /// Start with the batch at this offset, or the first one after it
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) from: u64,
    /// Show at most this many batches
    #[arg(long, value_name = "COUNT")]
    pub(crate) batches: Option<usize>,
    /// Show at most this many bytes of each key and value
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    pub(crate) bytes: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Verify {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// Number of reading threads; 0 for one per processor
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(crate) threads: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Map {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// Write the map as an SVG picture to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    /// A store or a segment file
    pub(crate) path: PathBuf,
    /// The directory to create; an empty one may exist
    pub(crate) dir: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Salvage {
    /// The damaged store, or one of its segment files
    pub(crate) path: PathBuf,
    /// The store to create, in a new or empty directory
    pub(crate) new_store: PathBuf,
    /// Leave out batches after the end of the history, as recovery would
    #[arg(long)]
    pub(crate) prefix_only: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Backup {
    /// A store
    pub(crate) path: PathBuf,
    /// The directory to create; an empty one may exist
    pub(crate) dir: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sweep {
    /// The directory that holds temporary stores
    pub(crate) dir: PathBuf,
    /// Remove the abandoned ones
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    /// A store
    pub(crate) path: PathBuf,
    /// Seconds between two lines
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// Stop after this many lines
    #[arg(long, value_name = "LINES")]
    pub(crate) count: Option<u64>,
}

fn segment_id(text: &str) -> Result<u64, String> {
    let name = text.strip_suffix(".seg").filter(|digits| digits.len() == 16);
    let parsed = match (name, text.strip_prefix("0x")) {
        (Some(digits), _) | (None, Some(digits)) => u64::from_str_radix(digits, 16),
        (None, None) => text.parse(),
    };
    parsed
        .map_err(|_| "give a decimal number, 0x and hexadecimal digits, or a file name".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give a number of seconds from 0.01 to 86400".to_owned()),
    }
}
