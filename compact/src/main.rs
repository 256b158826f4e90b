//! `partd-compact` reclaims the dead space of a store. This file parses the command line, compacts, and
//! chooses the exit code: 0 done, 1 something is left to do, 2 wrong usage or an error.

mod report;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use partd::{Error, SegmentLog};
use partd_inspect::path::{shown_line, shown_lines};
use partd_inspect::text::io_error;
use signal_hook::consts::SIGXFSZ;

use report::Report;

/// Reclaims the space that deleted and replaced values still take in a partd store.
///
/// It rewrites the live values of all sealed segments and removes the segments. Other processes can use
/// the store meanwhile. It says how much it reclaimed, and why that did not happen by itself.
#[derive(Debug, Parser)]
#[command(name = "partd-compact", version, max_term_width = 100, after_help = HELP)]
struct Args {
    /// The store (a directory)
    path: PathBuf,
    /// Copy at most this many bytes of values per second
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    bytes_per_second: Option<u64>,
}

const HELP: &str = "\
Example:
  partd-compact /data/store

Exit codes: 0 done, even if there was nothing to reclaim; 1 something is left to do, because another
process is compacting or the disk is full; 2 wrong usage, or the store cannot be compacted.";

fn main() -> ExitCode {
    // With a handler for SIGXFSZ, a write beyond the file size limit fails with an error. If it
    // cannot be installed, the signal still kills the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                // Nothing to do if standard error is closed. The text quotes the command line.
                let text = shown_lines(&error.render().to_string());
                let _ = io::stderr().write_all(text.as_bytes());
                return ExitCode::from(2);
            }
            // Clap's own `exit` would report success on a full disk.
            return exit_code(error.print().and_then(|()| io::stdout().flush()), 0);
        }
    };
    match compact(&args) {
        Ok(report) => exit_code(
            io::stdout().write_all(report.text().as_bytes()),
            report.compaction.skipped.is_some().into(),
        ),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

/// The exit code after a write to standard output: `code`, or 2 if the write failed.
fn exit_code(written: io::Result<()>, code: u8) -> ExitCode {
    match written {
        // The reader has seen enough, as in `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(error) => {
            complain(&format!("cannot write to standard output: {}", io_error(&error)));
            ExitCode::from(2)
        }
        Ok(()) => ExitCode::from(code),
    }
}

/// Compacts the store, and counts before and after.
fn compact(args: &Args) -> Result<Report, Error> {
    // Background compaction would compete with this one.
    let options = SegmentLog::options().create(false).compaction_dead_share(None);
    let store = options.compaction_bytes_per_second(args.bytes_per_second).open(&args.path)?;
    let before = store.stats()?;
    let compaction = store.compact()?;
    let after = store.stats()?;
    Ok(Report { path: args.path.clone(), before, compaction, after })
}

/// Writes a message, which may quote a path, to standard error, and ignores an error of the write.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "partd-compact: {}", shown_line(message));
}
