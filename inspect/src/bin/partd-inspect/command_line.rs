//! Parses the command line, and handles help, the version and wrong usage.
//!
//! A path may precede its command, as in `partd-inspect STORE keys`. Clap does not support this, so
//! the words are reordered first.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Command, CommandFactory, Parser};

use crate::args::Args;
use crate::complain;
use partd_inspect::path::{shown, shown_lines};
use partd_inspect::text::io_error;

/// Commands that take no path.
const WITHOUT_PATH: [&str; 3] = ["completions", "man", "help"];

/// Returns the arguments of this process, or the exit code if it printed help or an error.
pub(crate) fn parse() -> Result<Args, ExitCode> {
    let (line, words) = in_order(std::env::args_os().collect(), &command());
    let error = match Args::try_parse_from(line) {
        Ok(args) => return Ok(args),
        Err(error) => error,
    };
    if let [first, second] = &words[..]
        && is_about(&error, second)
    {
        complain(&no_command(first, second));
        return Err(ExitCode::from(2));
    }
    if error.use_stderr() {
        // Nothing to do if standard error is closed.
        let _ = io::stderr().write_all(shown_lines(&error.render().to_string()).as_bytes());
        return Err(ExitCode::from(2));
    }
    // Clap's own `exit` would report success on a full disk.
    match error.print().and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {}", io_error(&error)));
            Err(ExitCode::from(2))
        }
        _ => Err(ExitCode::SUCCESS),
    }
}

/// The definition of the command line, with the commands that clap adds.
fn command() -> Command {
    let mut command = Args::command();
    command.build();
    command
}

/// Whether clap's error is about this word.
fn is_about(error: &clap::Error, word: &OsStr) -> bool {
    let kinds = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg];
    let text = word.to_string_lossy();
    let is_word = |value: &ContextValue| matches!(value, ContextValue::String(s) if *s == text);
    kinds.iter().any(|kind| error.get(*kind).is_some_and(is_word))
}

/// Moves a path that precedes its command behind the command. Also returns the first two words that
/// are not options, if neither is a command.
fn in_order(mut line: Vec<OsString>, command: &Command) -> (Vec<OsString>, Vec<OsString>) {
    let is_command =
        |word: &OsStr| word.to_str().is_some_and(|w| command.find_subcommand(w).is_some());
    let takes_value = |option: &OsStr| {
        let name = option.to_str().and_then(|option| option.strip_prefix("--"));
        let mut of_name = command.get_arguments().filter(|arg| arg.get_long() == name);
        name.is_some() && of_name.any(|arg| matches!(arg.get_action(), ArgAction::Set))
    };
    let mut words = Vec::new();
    let mut at = 1;
    while at < line.len() && words.len() < 2 {
        let word = &line[at];
        if is_command(word) {
            // If the command takes no path, clap or the command reports it.
            let takes_path = !WITHOUT_PATH.iter().any(|name| word == name);
            if let ([path], true) = (&words[..], takes_path) {
                line.swap(*path, at);
            }
            return (line, Vec::new());
        }
        match word.as_encoded_bytes() {
            b"--" => break,
            [b'-', _, ..] => at += usize::from(takes_value(word)),
            _ => words.push(at),
        }
        at += 1;
    }
    let words = words.into_iter().map(|at| line[at].clone()).collect();
    (line, words)
}

/// The message for an unknown command. Of two words, the one that is not a path was meant.
fn no_command(first: &OsStr, second: &OsStr) -> String {
    let is_path =
        |word: &OsStr| Path::new(word).components().count() > 1 || Path::new(word).exists();
    let word = if is_path(first) && !is_path(second) { second } else { first };
    let command = command();
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    format!("there is no command `{}`; the commands are {}", shown(word), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(line: &str) -> String {
        let words = line.split(' ').map(OsString::from).collect();
        let (line, _) = in_order(words, &command());
        line.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn a_path_before_its_command_moves_after_it_and_nothing_else_moves() {
        for (line, expected) in [
            ("pi store keys", "pi keys store"),
            ("pi store get k1 --hex", "pi get store k1 --hex"),
            ("pi --json store --exact keys --limit 2", "pi --json keys --exact store --limit 2"),
            ("pi --color never store keys", "pi --color never keys store"),
            ("pi --color=never store keys", "pi --color=never keys store"),
            ("pi keys store", "pi keys store"),
            ("pi help get", "pi help get"),
            ("pi store man", "pi store man"),
            ("pi keys keys", "pi keys keys"),
            ("pi get store keys", "pi get store keys"),
            ("pi store", "pi store"),
            ("pi -- store keys", "pi -- store keys"),
            ("pi", "pi"),
        ] {
            assert_eq!(ordered(line), expected);
        }
    }
}
