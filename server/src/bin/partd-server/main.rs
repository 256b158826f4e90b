//! `partd-server`: serves a store to other processes and machines.
//!
//! This file dispatches the subcommands and chooses the exit code: 0 if the server stopped as
//! asked, 1 if the store failed or is failing, 2 for wrong usage or if something is refused or
//! unreachable.

mod args;
mod keygen;
mod logging;
mod metrics;
mod serve;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser};
use signal_hook::consts::SIGXFSZ;

use args::{Args, Command};

/// Why the program ends early.
#[derive(Debug)]
enum Failure {
    /// Standard output is closed, as by `| head`. The program ends silently.
    OutputClosed,
    /// A message for standard error; exit code 2.
    Refused(String),
    /// A message for standard error; exit code 1.
    Store(String),
}

impl From<io::Error> for Failure {
    /// Converts an error of writing to standard output. Errors of other files are converted by
    /// their callers.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            io::ErrorKind::FileTooLarge => Failure::Refused(format!(
                "cannot write to standard output: {error}: it exceeds the file size limit of this \
                 process (RLIMIT_FSIZE, `ulimit -f`)"
            )),
            _ => Failure::Refused(format!("cannot write to standard output: {error}")),
        }
    }
}

fn main() -> ExitCode {
    // With a handler for SIGXFSZ, a write beyond the file size limit fails with an error. If it
    // cannot be installed, the signal still kills the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let done = match Args::try_parse() {
        Ok(args) => run(args),
        Err(error) if error.use_stderr() => error.exit(),
        // Clap's own `exit` would report success on a full disk.
        Err(error) => printed(error.print()),
    };
    let (message, code) = match done {
        Ok(code) => return code,
        Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Refused(message)) => (message, 2),
        Err(Failure::Store(message)) => (message, 1),
    };
    // If standard error is closed, there is nowhere to report it.
    let _ = writeln!(io::stderr(), "partd-server: {message}");
    ExitCode::from(code)
}

fn run(args: Args) -> Result<ExitCode, Failure> {
    match (args.command, args.path) {
        (None, Some(path)) => serve::run(&path, args.serve),
        (None, None) => Err(Failure::Refused(
            "give the directory of a store, which is created if it is missing; see --help".into(),
        )),
        (Some(Command::Status(args)), _) => status::run(&args),
        (Some(Command::Keygen { file }), _) => keygen::run(&file),
        (Some(Command::Completions { shell }), _) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "partd-server", &mut script);
            print(&script)
        }
        (Some(Command::Man), _) => man(),
    }
}

/// Prints the man page: the program, then a section for each subcommand.
fn man() -> Result<ExitCode, Failure> {
    let mut command = Args::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        page.extend_from_slice(format!(".SH {}\n", sub.get_name().to_uppercase()).as_bytes());
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)?;
    }
    print(&page)
}

fn print(bytes: &[u8]) -> Result<ExitCode, Failure> {
    printed(io::stdout().write_all(bytes))
}

/// Flushes standard output after a write to it.
fn printed(written: io::Result<()>) -> Result<ExitCode, Failure> {
    written?;
    io::stdout().flush()?;
    Ok(ExitCode::SUCCESS)
}
