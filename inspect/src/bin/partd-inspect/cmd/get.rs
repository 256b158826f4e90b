//! `get`: writes the value of one key, after verifying all of it.

use std::cell::Cell;
use std::fmt::{self, Display};

use serde_json::json;

use crate::args::Get;
use crate::output::{Output, Text};
use crate::{Failure, complain};
use partd_inspect::ahead::ReadAhead;
use partd_inspect::history::value_checksum;
use partd_inspect::index::{EntryRef, Index, KeyExtents};
use partd_inspect::key::{escape, show, unescape};
use partd_inspect::problem::{Problem, Severity};
use partd_inspect::store::Store;

/// How many bytes of a value are held in memory at a time.
const PIECE: u64 = 1 << 20;

/// The error for a value whose file was removed or reused during the read.
const REUSED: &str = "a file of this temporary store was removed or reused while it was read; \
                             run the command again";

pub(crate) fn run(args: &Get, out: &mut Output) -> Result<(), Failure> {
    let key = unescape(args.key.as_encoded_bytes()).map_err(Failure::Message)?;
    let store = Store::read(&args.path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let held = index.keys.get(&key[..]).cloned().unwrap_or_default();
    let mut good = Vec::new();
    let mut bad = Vec::new();
    let mut ahead = ReadAhead::new(&store, &held.extents);
    for &at in &held.extents {
        ahead.begin(at);
        match check(&store, at) {
            None => good.push(at),
            Some(problem) => {
                bad.push(problem.with_consequence(format!("part of key {}", escape(&key))));
            }
        }
    }
    for problem in &bad {
        complain(&problem.to_string());
    }
    if store.has_gone() {
        let message = "nothing written: files of the store were removed or reused meanwhile; \
                       run the command again";
        return Err(Failure::Message(message.to_owned()));
    }
    out.record_damage(!bad.is_empty());
    let present = index.keys.contains_key(&key[..]);
    if !present {
        complain(&format!("no such key: {}", show(&key)));
        // In a damaged store the key may be lost: exit code 1 says so.
        if !store.is_damaged() {
            out.record_failure();
        }
    }
    if out.json {
        let shown = if bad.is_empty() || args.partial { &good[..] } else { &[] };
        return document(&store, &key, &held, shown, &bad, present, out);
    }
    if !bad.is_empty() && !args.partial {
        let message =
            "nothing written: the value is damaged; --partial writes the parts that verify";
        return Err(Failure::Damage(message.to_owned()));
    }
    if store.is_damaged() {
        // These bytes are right, but others of the key may be missing.
        complain("the store is damaged, so bytes of this key may be missing:");
        for problem in &store.history.problems {
            complain(&problem.to_string());
        }
        out.record_damage(true);
    }
    if store.is_unreadable() {
        out.record_failure();
    }
    let (mut column, mut ahead) = (0, ReadAhead::new(&store, &good));
    for &at in &good {
        ahead.begin(at);
        pieces(&store, at, |piece| {
            if args.hex { hex(piece, &mut column, out) } else { Ok(out.bytes(piece)?) }
        })?;
    }
    if column > 0 {
        out.line("")?;
    }
    Ok(())
}

/// Compares the checksum of one extent; a mismatch is a problem.
pub(crate) fn check(store: &Store, at: EntryRef) -> Option<Problem> {
    let segment = &store.segments[at.segment as usize];
    let (entry, salt) = (&segment.entries[at.entry as usize], segment.salt()?);
    let found = match value_checksum(&segment.source, salt, entry) {
        Ok(found) if found == entry.value_checksum => return None,
        Ok(found) => format!("{found:#x}"),
        Err(error) => error.to_string(),
    };
    let expected = format!("{:#x}", entry.value_checksum);
    let path = segment.path();
    let mut problem = Problem::file(Severity::Damage, path, "checksum of value", expected, found);
    problem.offset = Some(entry.value_offset);
    Some(problem)
}

/// Passes the bytes of one extent to `take`, piece by piece.
pub(crate) fn pieces(
    store: &Store,
    at: EntryRef,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let segment = &store.segments[at.segment as usize];
    let entry = &segment.entries[at.entry as usize];
    let mut buffer = vec![0; entry.value_len.min(PIECE) as usize];
    let (mut offset, end) = (entry.value_offset, entry.value_offset + entry.value_len);
    while offset < end {
        let piece = &mut buffer[..(end - offset).min(PIECE) as usize];
        let read = segment.source.read_exact(piece, offset);
        read.map_err(|error| Failure::io("read", segment.path(), &error))?;
        // A temporary store renames a file before it reuses it. If the name still leads to this file,
        // the piece is the one that was checked.
        if store.recycles() && !segment.source.is_in_place() {
            return Err(Failure::Message(REUSED.to_owned()));
        }
        take(piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

fn hex(piece: &[u8], column: &mut usize, out: &mut Output) -> Result<(), Failure> {
    for byte in piece {
        out.bytes(format!("{byte:02x}").as_bytes())?;
        *column = (*column + 1) % 32;
        if *column == 0 {
            out.line("")?;
        }
    }
    Ok(())
}

fn document(
    store: &Store,
    key: &[u8],
    held: &KeyExtents,
    good: &[EntryRef],
    bad: &[Problem],
    present: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    let problems: Vec<_> = bad.iter().map(crate::output::problem_json).collect();
    let rest = json!({
        "key": escape(key),
        "present": present,
        "bytes": held.len,
        "extents": held.extents.len(),
        "damaged_extents": problems,
    });
    let failure = Cell::new(None);
    let value = Text(Hex { store, extents: good, failure: &failure });
    out.document_with("get", store, rest, "value_hex", &value)?;
    failure.take().map_or(Ok(()), Err)
}

/// Displays the bytes of extents as hexadecimal digits, reading them on the fly.
struct Hex<'s> {
    store: &'s Store,
    extents: &'s [EntryRef],
    /// The last error of reading an extent; the rest of that extent is not displayed.
    failure: &'s Cell<Option<Failure>>,
}

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |piece: &[u8], f: &mut fmt::Formatter<'_>| {
            piece.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        let mut ahead = ReadAhead::new(self.store, self.extents);
        for &at in self.extents {
            ahead.begin(at);
            let mut written = Ok(());
            let read = pieces(self.store, at, |piece| {
                written = written.and_then(|()| write(piece, f));
                Ok(())
            });
            written?;
            if let Err(failure) = read {
                self.failure.set(Some(failure));
            }
        }
        Ok(())
    }
}
