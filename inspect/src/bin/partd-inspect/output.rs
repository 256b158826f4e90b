//! Writes results as text for people or as one JSON document, with colours if wanted.
//!
//! Every write returns its error: a closed pipe ends the program quietly, without a panic.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use crate::args::{Color, Options};
use crate::text::{self, Table};
use partd_inspect::history::Rule;
use partd_inspect::path::shown;
use partd_inspect::problem::{Problem, Severity};
use partd_inspect::store::Store;
use partd_inspect::text::range;

/// The version of the JSON schema.
const SCHEMA: u64 = 1;
/// The default width of tables.
const WIDTH: usize = 80;
/// How many problems the text shows; JSON has all of them.
const PROBLEMS_SHOWN: usize = 100;

/// How text can be highlighted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    Good,
    Bad,
    Warn,
    Strong,
}

/// Standard output, with the options that shape it and the health to report in the exit code.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write + Send>>,
    pub(crate) json: bool,
    pub(crate) exact: bool,
    wide: bool,
    color: bool,
    /// Whether the output is a terminal that can move its cursor.
    live: bool,
    damaged: bool,
    /// Whether something could not be read, or done.
    unreadable: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

impl Output {
    /// Creates the output for these options.
    pub(crate) fn new(options: &Options) -> Output {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = match options.color {
            _ if plain => false,
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stdout().is_terminal() && !dumb,
        };
        Output {
            writer: BufWriter::with_capacity(1 << 16, Box::new(io::stdout())),
            json: options.json,
            exact: options.exact,
            wide: options.wide,
            color,
            live: io::stdout().is_terminal() && !dumb,
            damaged: false,
            unreadable: false,
        }
    }

    /// The exit code for what was recorded.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.unreadable, self.damaged) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    /// Records that something could not be read, or done.
    pub(crate) fn record_failure(&mut self) {
        self.unreadable = true;
    }

    /// Records whether damage was found.
    pub(crate) fn record_damage(&mut self, damaged: bool) {
        self.damaged |= damaged;
    }

    /// Flushes the buffer.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Writes raw bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        self.writer.write_all(line.as_ref().as_bytes())?;
        self.writer.write_all(b"\n")
    }

    /// Whether a line of this width can be rewritten in place.
    pub(crate) fn can_rewrite(&self, width: usize) -> bool {
        self.live && width < self.width()
    }

    /// Replaces the last line, and leaves the cursor on it.
    pub(crate) fn rewrite(&mut self, line: &str) -> io::Result<()> {
        self.writer.write_all(format!("\r{line}\x1b[K").as_bytes())?;
        self.writer.flush()
    }

    /// Whether the output has colours.
    pub(crate) fn has_color(&self) -> bool {
        self.color
    }

    /// Highlights text if the output has colours.
    pub(crate) fn styled(&self, style: Style, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match style {
            Style::Good => "32",
            Style::Bad => "31;1",
            Style::Warn => "33",
            Style::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The width that tables must fit.
    pub(crate) fn width(&self) -> usize {
        if self.wide {
            return usize::MAX;
        }
        let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let asked = if io::stdout().is_terminal() { terminal() } else { None };
        said.or(asked).unwrap_or(WIDTH).max(40)
    }

    /// Writes a table with highlighted headings.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        let (headings, rows) = table.lines(self.width());
        for line in headings {
            self.line(self.styled(Style::Strong, &line))?;
        }
        rows.iter().try_for_each(|line| self.line(line))
    }

    /// Formats a size.
    pub(crate) fn size(&self, bytes: u64) -> String {
        text::size(bytes, self.exact)
    }

    /// Writes the JSON document of a command on a store, and records the health of the store.
    pub(crate) fn document(&mut self, command: &str, store: &Store, rest: Value) -> io::Result<()> {
        let document = self.about(command, store, rest);
        self.value(&document)
    }

    /// Writes such a document with one more field, which may be large: it is written as it is
    /// produced.
    pub(crate) fn document_with(
        &mut self,
        command: &str,
        store: &Store,
        rest: Value,
        field: &str,
        large: &impl Serialize,
    ) -> io::Result<()> {
        let fields = self.about(command, store, rest);
        self.value(&Document { fields, field, large })
    }

    fn about(&mut self, command: &str, store: &Store, rest: Value) -> Map<String, Value> {
        self.record_health(store);
        let about = json!({
            "partd_inspect": SCHEMA,
            "command": command,
            "path": shown(&store.path),
            "health": health(store),
        });
        [about, rest].into_iter().flat_map(fields).collect()
    }

    /// Writes the JSON document of a command without a store.
    pub(crate) fn plain_document(&mut self, command: &str, rest: Value) -> io::Result<()> {
        let document: Map<_, _> = plain(command).into_iter().chain(fields(rest)).collect();
        self.value(&document)
    }

    fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.writer, value)?;
        self.line("")
    }

    /// Writes such a document on one line, for a sequence of documents.
    pub(crate) fn document_line(&mut self, command: &str, rest: Value) -> io::Result<()> {
        let document: Map<_, _> = plain(command).into_iter().chain(fields(rest)).collect();
        serde_json::to_writer(&mut self.writer, &document)?;
        self.line("")?;
        self.writer.flush()
    }

    fn record_health(&mut self, store: &Store) {
        self.damaged |= store.is_damaged();
        self.unreadable |= store.is_unreadable();
    }

    /// Writes the health of a store in one line, and below it the problems.
    pub(crate) fn health(&mut self, store: &Store) -> io::Result<()> {
        self.record_health(store);
        let (style, line) = health_line(store);
        let line = format!("health    {}", self.styled(style, &line));
        self.line(line)?;
        self.problems(&store.history.problems)?;
        if store.recycles() && store.is_damaged() && store.has_gone() {
            self.line(
                "  This temporary store reuses its dead segments while it is open, and has just",
            )?;
            self.line("  done so, which may be the only cause. Run the command again.")?;
        }
        Ok(())
    }

    /// Writes the health only if the store is damaged, after the result of a command.
    pub(crate) fn warnings(&mut self, store: &Store) -> io::Result<()> {
        self.record_health(store);
        if store.is_damaged() {
            self.line("")?;
            self.health(store)?;
        }
        Ok(())
    }

    /// Writes one problem after the other.
    pub(crate) fn problems(&mut self, problems: &[Problem]) -> io::Result<()> {
        for problem in problems.iter().take(PROBLEMS_SHOWN) {
            let (style, name) = match problem.severity {
                Severity::Damage => (Style::Bad, "damage"),
                Severity::Scar => (Style::Warn, "scar"),
            };
            let (location, evidence) = (problem.location(), problem.evidence());
            let head = format!("  {} {location}", self.styled(style, name));
            if 12 + location.chars().count() + evidence.chars().count() <= self.width() {
                self.line(format!("{head}: {evidence}"))?;
                continue;
            }
            self.line(head)?;
            if 9 + evidence.chars().count() <= self.width() {
                self.line(format!("         {evidence}"))?;
                continue;
            }
            let Problem { expected, found, .. } = problem;
            self.line(format!("         expected {expected}, found {found}"))?;
            if let Some(consequence) = &problem.consequence {
                self.line(format!("         {consequence}"))?;
            }
        }
        if problems.len() > PROBLEMS_SHOWN {
            let more = problems.len() - PROBLEMS_SHOWN;
            self.line(format!("  and {more} more; --json has all of them"))?;
        }
        Ok(())
    }
}

/// A document with a field that is not held in memory.
struct Document<'a, L> {
    fields: Map<String, Value>,
    field: &'a str,
    large: &'a L,
}

impl<L: Serialize> Serialize for Document<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // Sorted by name, like all documents.
        let is_after = |(name, _): &(&String, &Value)| name.as_str() > self.field;
        for (name, value) in self.fields.iter().take_while(|field| !is_after(field)) {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry(self.field, self.large)?;
        for (name, value) in self.fields.iter().skip_while(|field| !is_after(field)) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// An array whose elements are produced one by one.
pub(crate) struct Rows<F>(pub(crate) F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Rows<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// A string that is produced piece by piece.
pub(crate) struct Text<D>(pub(crate) D);

impl<D: std::fmt::Display> Serialize for Text<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn plain(command: &str) -> Map<String, Value> {
    fields(json!({ "partd_inspect": SCHEMA, "command": command }))
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A problem as JSON.
pub(crate) fn problem_json(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity.name(),
        "file": shown(&problem.path),
        "offset": problem.offset,
        "what": problem.what,
        "expected": problem.expected,
        "found": problem.found,
        "consequence": problem.consequence,
    })
}

fn health(store: &Store) -> Value {
    let problems = &store.history.problems;
    json!({
        "status": status(store),
        "problems": problems.iter().map(problem_json).collect::<Vec<_>>(),
        "missing": store.history.missing.iter().map(|(first, last)| json!([first, last]))
            .collect::<Vec<_>>(),
    })
}

/// The word for the health of a store.
fn status(store: &Store) -> &'static str {
    match (store.is_damaged(), store.needs_recovery()) {
        (true, _) => "damaged",
        (false, true) => "recovery",
        (false, false) => "healthy",
    }
}

fn health_line(store: &Store) -> (Style, String) {
    let history = &store.history;
    if store.is_damaged() {
        let damage = |problem: &&Problem| problem.severity == Severity::Damage;
        let number = history.problems.iter().filter(damage).count() as u64;
        let places = text::plural(number, "place", "places");
        let line = match history.missing.first() {
            Some(&(first, last)) if history.missing.len() == 1 => {
                format!("damaged in {places}; {} missing", range(first, last))
            }
            Some(_) => {
                format!("damaged in {places}; {} gaps in the history", history.missing.len())
            }
            None => format!("damaged in {places}"),
        };
        return (Style::Bad, line);
    }
    let whole = format!("{} present", text::plural(history.last, "batch", "batches"));
    match history.rule {
        Rule::CommitWord => (Style::Good, format!("healthy: {whole}, none missing")),
        Rule::Alone => (Style::Good, "headers and tables are good".to_owned()),
        Rule::Numbers => {
            let line = format!("healthy: {whole}; its writers died, and the next open recovers it");
            (Style::Good, line)
        }
        Rule::Recovery => {
            let voided = match history.beyond.len() as u64 {
                0 => String::new(),
                n => {
                    format!(" and voids {} after the end", text::plural(n, "batch", "batches"))
                }
            };
            let line = format!("healthy: {whole}; the next open recovers it{voided}");
            (Style::Good, line)
        }
    }
}
