//! `partd-inspect` shows, checks and salvages a store, live or dead.
//!
//! It reads through `partd-format` and plain files, never through the engine. Only `sweep --remove`
//! changes the contents of a store or takes a lock of one. This file runs the subcommand and
//! chooses the exit code: 0 healthy, 1 damage found, 2 wrong usage or something cannot be read.

mod args;
mod cmd;
mod command_line;
mod new_store;
mod output;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;

use args::{Args, Command};
use output::Output;
use partd_inspect::path::shown;
use partd_inspect::source;
use partd_inspect::store::Refusal;
use partd_inspect::text::io_error;

/// The reason why a command ends early.
#[derive(Debug)]
enum Failure {
    /// Standard output is closed, as by `| head`: no message.
    OutputClosed,
    /// A message for standard error; exit code 2.
    Message(String),
    /// A message for standard error; exit code 1.
    Damage(String),
}

impl Failure {
    /// Wraps an error of the operating system: the message is "cannot `doing` PATH".
    fn io(doing: &str, path: &std::path::Path, error: &io::Error) -> Failure {
        let error = io_error(error);
        Failure::Message(format!("cannot {doing} {}: {error}", shown(path)))
    }
}

impl From<io::Error> for Failure {
    /// Wraps an error of writing to standard output; errors of other files name the file.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => {
                let error = io_error(&error);
                Failure::Message(format!("cannot write to standard output: {error}"))
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Message(refusal.to_string())
    }
}

/// Writes a message to standard error, and ignores an error of the write.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "partd-inspect: {message}");
}

fn main() -> ExitCode {
    fail_beyond_the_size_limit();
    let args = match command_line::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    raise_file_limit();
    let mut out = Output::new(&args.options);
    let done =
        with_threads(|| run(args, &mut out)).and_then(|()| out.finish().map_err(Failure::from));
    match done {
        Ok(()) | Err(Failure::OutputClosed) => {}
        Err(Failure::Message(message)) => {
            let _ = out.finish();
            complain(&message);
            return ExitCode::from(2);
        }
        Err(Failure::Damage(message)) => {
            let _ = out.finish();
            complain(&message);
            return ExitCode::from(1);
        }
    }
    ExitCode::from(out.exit_code())
}

/// Makes a write beyond the file size limit an error. Without a handler, its signal ends the process.
fn fail_beyond_the_size_limit() {
    // If this fails, the signal still ends the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Raises the limit of open files as far as allowed.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    // If it fails, fewer files stay open and reading takes longer.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// The number of reading threads: no more than may have files open at once.
fn threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|number| number.parse().ok());
    let threads = match wanted {
        None | Some(0) => std::thread::available_parallelism().map_or(1, usize::from),
        Some(threads) => threads,
    };
    threads.min(source::threads_max())
}

/// Runs the work on a pool of reading threads, or on this thread alone if none can be started.
fn with_threads<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(threads()).build() {
        Ok(pool) => pool.install(work),
        Err(_) => {
            // This fails only if there is a global pool already.
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
            let _ = alone.build_global();
            work()
        }
    }
}

fn run(args: Args, out: &mut Output) -> Result<(), Failure> {
    let command = match (args.command, args.path) {
        (Some(command), None) => command,
        (None, Some(path)) => return cmd::summary::run(&path, out),
        (Some(_), Some(path)) => {
            let message = format!("this command takes no path, but {} was given", shown(path));
            return Err(Failure::Message(message));
        }
        (None, None) => {
            let message = "give the directory of a store or a segment file; see --help";
            return Err(Failure::Message(message.to_owned()));
        }
    };
    match command {
        Command::Segments { path } => cmd::segments::run(&path, out),
        Command::Batches(args) => cmd::batches::run(&args, out),
        Command::Keys(args) => cmd::keys::run(&args, out),
        Command::Get(args) => cmd::get::run(&args, out),
        Command::Dump(args) => cmd::dump::run(&args, out),
        Command::Verify(args) => cmd::verify::run(&args, out),
        Command::Map(args) => cmd::map::run(&args, out),
        Command::Export(args) => cmd::export::run(&args, out),
        Command::Backup(args) => cmd::backup::run(&args, out),
        Command::Salvage(args) => cmd::salvage::run(&args, out),
        Command::Sweep(args) => cmd::sweep::run(&args, out),
        Command::Watch(args) => cmd::watch::run(&args, out),
        Command::Completions { shell } => cmd::meta::completions(shell, out),
        Command::Man => cmd::meta::man(out),
    }
}
