//! The bytes of one segment, field by field, each with its name in SPEC.md.

use partd_format::batch::{ENTRY_LEN, HEAD_LEN, SEQUENCE_LEN};
use partd_format::{Ending, Kind, State};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::Dump;
use crate::output::{Mark, Output};
use crate::read::history::{uuid, value_checksum};
use crate::read::key::escape;
use crate::read::source::Source;
use crate::read::store::Store;
use crate::read::walk::{BatchInfo, EntryInfo, Segment};

/// The fields of a segment's header: offset, length, name.
const HEADER: [(u64, u64, &str); 18] = [
    (0, 8, "magic"),
    (8, 4, "format version"),
    (12, 4, "kind of segment"),
    (16, 16, "store"),
    (32, 8, "id of segment"),
    (40, 8, "length"),
    (48, 8, "salt"),
    (56, 8, "upto"),
    (64, 4, "replaces"),
    (68, 4, "keeps"),
    (72, 8, "start of data"),
    (80, 8, "created"),
    (88, 4, "pid"),
    (92, 4, "slot"),
    (96, 24, "reserved"),
    (120, 4, "checksum of lists"),
    (124, 4, "checksum of header"),
    (128, 8, "note"),
];

/// The fields of a batch, from its beginning.
const BATCH: [(u64, u64, &str); 8] = [
    (0, 8, "link word"),
    (8, 8, "state word"),
    (16, 4, "checksum of batch header"),
    (20, 4, "flags of batch"),
    (24, 8, "synced"),
    (32, 4, "number of entries"),
    (36, 4, "reserved"),
    (40, 8, "bytes of keys"),
];

/// The fields of a row of the table.
const ROW: [(u64, u64, &str); 4] = [
    (0, 1, "kind of entry"),
    (1, 7, "length of value"),
    (8, 4, "length of key"),
    (12, 4, "checksum of value"),
];

/// A field with its bytes.
struct Field {
    offset: u64,
    bytes: Vec<u8>,
    /// How many bytes of it are not shown.
    more: u64,
    name: &'static str,
    meaning: String,
}

pub(crate) fn run(args: &Dump, out: &mut Output) -> Result<(), Failure> {
    let path = &args.segment;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        let message = format!("{} is a directory: give one of its segment files", path.display());
        return Err(Failure::Message(message));
    }
    let store = Store::read(path)?;
    let Some(segment) = store.segments.first() else { return Ok(()) };
    let mut sections = Vec::new();
    if args.from == 0 {
        sections.push(("header".to_owned(), header_fields(segment)?));
    }
    let from = |batch: &&BatchInfo| batch.offset >= args.from;
    let batches = segment.batches.iter().filter(from);
    let mut shown = 0;
    let text = !out.json;
    let flush = |sections: &mut Vec<(String, Vec<Field>)>, out: &mut Output| {
        for (title, fields) in sections.drain(..) {
            section(&title, &fields, out)?;
        }
        Ok::<(), Failure>(())
    };
    for batch in batches.take(args.batches.unwrap_or(usize::MAX)) {
        sections.push((batch_title(batch), batch_fields(segment, batch, args.bytes)?));
        shown += 1;
        if text {
            flush(&mut sections, out)?;
        }
    }
    let rest = segment.batches.iter().filter(from).count() - shown;
    if !text {
        let sections: Vec<Value> = sections.iter().map(section_json).collect();
        let rest = json!({ "sections": sections, "end": segment.end, "batches_not_shown": rest });
        return Ok(out.document("dump", &store, rest)?);
    }
    flush(&mut sections, out)?;
    if rest > 0 {
        out.line(format!("{rest} more batches"))?;
    } else {
        let end = match &segment.ending {
            Ending::Open => "free space follows".to_owned(),
            Ending::Sealed => "sealed".to_owned(),
            Ending::Broken(error) => format!("broken: {error}"),
        };
        out.line(out.mark(Mark::Strong, &format!("{:#010x}  {end}", segment.end)))?;
    }
    Ok(out.warnings(&store)?)
}

fn read(source: &Source, offset: u64, len: u64) -> Result<Vec<u8>, Failure> {
    let len = len.min(source.len().saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let done = source.read_exact(&mut bytes, offset);
    done.map_err(|error| Failure::io("read", source.path(), &error))?;
    Ok(bytes)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn header_fields(segment: &Segment) -> Result<Vec<Field>, Failure> {
    let mut fields = Vec::new();
    for (offset, len, name) in HEADER {
        let bytes = read(&segment.source, offset, len)?;
        let meaning = match name {
            "magic" => escape(&bytes),
            "store" => <[u8; 16]>::try_from(&bytes[..]).map_or(String::new(), |id| uuid(&id)),
            "salt" | "checksum of lists" | "checksum of header" => format!("{:#x}", number(&bytes)),
            "reserved" => String::new(),
            "kind of segment" => match number(&bytes) {
                1 => "1, of a writer".to_owned(),
                2 => "2, output of a compaction".to_owned(),
                other => format!("{other}, unknown"),
            },
            "note" => match &segment.note {
                Ok(0) => "nothing is known to be synced".to_owned(),
                Ok(end) => format!("synced up to {end:#x}"),
                Err(error) => error.to_string(),
            },
            _ => number(&bytes).to_string(),
        };
        fields.push(Field { offset, bytes, more: 0, name, meaning });
    }
    let Ok(lists) = &segment.lists else { return Ok(fields) };
    let mut offset = partd_format::segment::HEADER_LEN;
    for id in &lists.replaces {
        let bytes = id.to_le_bytes().to_vec();
        let meaning = format!("segment {id}");
        fields.push(Field { offset, bytes, more: 0, name: "replaces", meaning });
        offset += 8;
    }
    for keep in &lists.keeps {
        let bytes = [keep.id.to_le_bytes(), keep.end.to_le_bytes()].concat();
        let meaning = format!("segment {} up to {:#x}", keep.id, keep.end);
        fields.push(Field { offset, bytes, more: 0, name: "keeps", meaning });
        offset += 16;
    }
    Ok(fields)
}

fn batch_title(batch: &BatchInfo) -> String {
    let state = match &batch.state {
        Ok(State::Pending) => "pending".to_owned(),
        Ok(State::Void) => "void".to_owned(),
        Ok(State::Committed(sequence)) => format!("committed {sequence}"),
        Err(_) => "state word damaged".to_owned(),
    };
    format!("batch at {:#x}, {} bytes, {state}", batch.offset, batch.len)
}

fn batch_fields(segment: &Segment, batch: &BatchInfo, limit: u64) -> Result<Vec<Field>, Failure> {
    let mut fields = Vec::new();
    for (at, len, name) in BATCH {
        let offset = batch.offset + at;
        let bytes = read(&segment.source, offset, len)?;
        let meaning = match name {
            "link word" => format!("length {}", batch.len),
            "state word" => match &batch.state {
                Ok(State::Pending) => "pending".to_owned(),
                Ok(State::Void) => "void".to_owned(),
                Ok(State::Committed(sequence)) => format!("committed {sequence}"),
                Err(error) => error.to_string(),
            },
            "checksum of batch header" => match &batch.head {
                Some(Err(error)) => error.to_string(),
                Some(Ok(_)) => format!("{:#x}, right", number(&bytes)),
                None => format!("{:#x}", number(&bytes)),
            },
            _ => number(&bytes).to_string(),
        };
        fields.push(Field { offset, bytes, more: 0, name, meaning });
    }
    let Some(head) = batch.good_head() else { return Ok(fields) };
    let entries = segment.entries_of(head);
    for (i, entry) in entries.iter().enumerate() {
        let row = batch.offset + HEAD_LEN + i as u64 * ENTRY_LEN;
        for (at, len, name) in ROW {
            let bytes = read(&segment.source, row + at, len)?;
            let meaning = row_meaning(segment, entry, name)?;
            fields.push(Field { offset: row + at, bytes, more: 0, name, meaning });
        }
    }
    let mut offset = batch.offset + HEAD_LEN + entries.len() as u64 * ENTRY_LEN;
    if head.sequences {
        for entry in entries {
            let (bytes, meaning) = (entry.sequence.to_le_bytes(), entry.sequence.to_string());
            let bytes = bytes.to_vec();
            fields.push(Field { offset, bytes, more: 0, name: "sequence number", meaning });
            offset += SEQUENCE_LEN;
        }
    }
    for entry in entries {
        let key = segment.key(entry);
        let shown = &key[..key.len().min(usize::try_from(limit).unwrap_or(usize::MAX))];
        let (more, meaning) = ((key.len() - shown.len()) as u64, escape(shown));
        fields.push(Field { offset, bytes: shown.to_vec(), more, name: "key", meaning });
        offset += key.len() as u64;
    }
    for entry in entries.iter().filter(|entry| entry.kind.has_value()) {
        let bytes = read(&segment.source, entry.value_offset, entry.value_len.min(limit))?;
        let (more, meaning) = (entry.value_len - bytes.len() as u64, escape(&bytes));
        fields.push(Field { offset: entry.value_offset, bytes, more, name: "value", meaning });
    }
    Ok(fields)
}

fn row_meaning(segment: &Segment, entry: &EntryInfo, name: &str) -> Result<String, Failure> {
    Ok(match name {
        "kind of entry" => kind_name(entry.kind).to_owned(),
        "length of value" => entry.value_len.to_string(),
        "length of key" => entry.key_len.to_string(),
        _ => {
            let Some(salt) = segment.salt() else { return Ok(String::new()) };
            let found = value_checksum(&segment.source, salt, entry);
            match found.map_err(|error| Failure::io("read", segment.path(), &error))? {
                found if found == entry.value_checksum => format!("{found:#x}, right"),
                found => format!("{:#x}, but the value has {found:#x}", entry.value_checksum),
            }
        }
    })
}

/// The name of a kind.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Append => "append",
        Kind::Set => "set",
        Kind::Delete => "delete",
        Kind::Clear => "clear",
    }
}

fn section(title: &str, fields: &[Field], out: &mut Output) -> Result<(), Failure> {
    out.line(out.mark(Mark::Strong, title))?;
    for field in fields {
        let mut chunks = field.bytes.chunks(8);
        let first = chunks.next().unwrap_or(&[]);
        let (name, meaning) = (field.name, &field.meaning);
        // Of what is longer than a line, each line shows its own part.
        let long = field.bytes.len() > 8 && matches!(name, "key" | "value");
        let meaning = if long { escape(first) } else { meaning.clone() };
        let line = format!("{:#010x}  {:<23}  {name:<24}", field.offset, hex(first));
        if line.len() + 2 + meaning.chars().count() <= out.width() {
            out.line(format!("{line}  {meaning}").trim_end())?;
        } else {
            out.line(line.trim_end())?;
            out.line(format!("{:37}{meaning}", ""))?;
        }
        let mut offset = field.offset + 8;
        for chunk in chunks {
            let meaning = if long { escape(chunk) } else { String::new() };
            let line = format!("{offset:#010x}  {:<23}  {:<24}  {meaning}", hex(chunk), "");
            out.line(line.trim_end())?;
            offset += 8;
        }
        if field.more > 0 {
            out.line(format!("{:10}  {} more bytes; --bytes shows them", "", field.more))?;
        }
    }
    Ok(out.line("")?)
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

fn section_json((title, fields): &(String, Vec<Field>)) -> Value {
    let fields: Vec<Value> = fields
        .iter()
        .map(|field| {
            json!({
                "offset": field.offset,
                "bytes_hex": hex(&field.bytes),
                "bytes_not_shown": field.more,
                "name": field.name,
                "meaning": field.meaning,
            })
        })
        .collect();
    json!({ "title": title, "fields": fields })
}
