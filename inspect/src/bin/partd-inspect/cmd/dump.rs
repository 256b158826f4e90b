//! `dump`: shows the bytes of one segment, field by field, with the names in SPEC.md.

use partd_format::batch::{ENTRY_LEN, HEAD_LEN, SEQUENCE_LEN};
use partd_format::segment::HEADER_LEN;
use partd_format::{Ending, Kind, State};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::Dump;
use crate::output::{Output, Rows, Style};
use crate::text::plural;
use partd_inspect::history::value_checksum;
use partd_inspect::key::escape;
use partd_inspect::path::shown;
use partd_inspect::source::Source;
use partd_inspect::store::Store;
use partd_inspect::text::uuid;
use partd_inspect::walk::{BatchInfo, EntryInfo, Segment};

/// The fields of a segment's header: offset, length, name.
const HEADER: [(u64, u64, &str); 18] = [
    (0, 8, "magic"),
    (8, 4, "format version"),
    (12, 4, "kind of segment"),
    (16, 16, "store"),
    (32, 8, "id of segment"),
    (40, 8, "length"),
    (48, 8, "salt"),
    (56, 8, "max_seq"),
    (64, 4, "inputs"),
    (68, 4, "retained"),
    (72, 8, "start of data"),
    (80, 8, "created"),
    (88, 4, "pid"),
    (92, 4, "slot"),
    (96, 24, "reserved"),
    (120, 4, "checksum of lists"),
    (124, 4, "checksum of header"),
    (128, 8, "durable_end"),
];

/// The fields of a batch: offset in the batch, length, name.
const BATCH: [(u64, u64, &str); 8] = [
    (0, 8, "link word"),
    (8, 8, "state word"),
    (16, 4, "checksum of batch header"),
    (20, 4, "flags of batch"),
    (24, 8, "durable_seq"),
    (32, 4, "number of entries"),
    (36, 4, "reserved"),
    (40, 8, "bytes of keys"),
];

/// The fields of a row of the table: offset in the row, length, name.
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
    /// How many of its bytes are not shown.
    more: u64,
    name: &'static str,
    meaning: String,
}

/// A part of the file, shown under a title.
#[derive(Clone, Copy)]
enum Section<'s> {
    Header(&'s Segment),
    /// A batch, and how many bytes of each key and value are shown.
    Batch(&'s Segment, &'s BatchInfo, u64),
}

impl<'s> Section<'s> {
    fn title(self) -> String {
        match self {
            Section::Header(_) => "header".to_owned(),
            Section::Batch(_, batch, _) => batch_title(batch),
        }
    }

    fn fields(self) -> Box<dyn Iterator<Item = Field> + 's> {
        match self {
            Section::Header(segment) => Box::new(header_fields(segment)),
            Section::Batch(segment, batch, limit) => Box::new(batch_fields(segment, batch, limit)),
        }
    }
}

impl Serialize for Section<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("fields", &Rows(|| self.fields().map(|field| field_json(&field))))?;
        map.serialize_entry("title", &self.title())?;
        map.end()
    }
}

pub(crate) fn run(args: &Dump, out: &mut Output) -> Result<(), Failure> {
    let path = &args.segment;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        let message = format!("{} is a directory: give one of its segment files", shown(path));
        return Err(Failure::Message(message));
    }
    let store = Store::read_any_segment(path)?;
    let Some(segment) = store.segments.first() else { return Ok(()) };
    let from = |batch: &&BatchInfo| batch.offset >= args.from;
    let batches = || segment.batches.iter().filter(from);
    let most = args.batches.unwrap_or(usize::MAX);
    let sections = || {
        let header = (args.from == 0).then_some(Section::Header(segment));
        let batch = |batch| Section::Batch(segment, batch, args.bytes);
        header.into_iter().chain(batches().take(most).map(batch))
    };
    let rest = batches().count().saturating_sub(most);
    if out.json {
        let rest = json!({ "end": segment.end, "batches_not_shown": rest });
        return Ok(out.document_with("dump", &store, rest, "sections", &Rows(sections))?);
    }
    for section in sections() {
        out.line(out.styled(Style::Strong, &section.title()))?;
        for field in section.fields() {
            show(&field, out)?;
        }
        out.line("")?;
    }
    if rest > 0 {
        out.line(plural(rest as u64, "more batch", "more batches"))?;
    } else {
        let end = match &segment.ending {
            Ending::Open => "free space follows".to_owned(),
            Ending::Sealed => "sealed".to_owned(),
            Ending::Broken(error) => format!("broken: {error}"),
        };
        out.line(out.styled(Style::Strong, &format!("{:#010x}  {end}", segment.end)))?;
    }
    Ok(out.warnings(&store)?)
}

impl Field {
    /// Reads a field, given its offset, length and name; shortened if the file ends earlier. If it
    /// cannot be read, its meaning is the error.
    fn read(
        source: &Source,
        (offset, len, name): (u64, u64, &'static str),
        meaning: impl FnOnce(&[u8]) -> String,
    ) -> Field {
        let len = len.min(source.len().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        match source.read_exact(&mut bytes, offset) {
            Ok(()) => {
                let meaning = meaning(&bytes);
                Field { offset, bytes, more: 0, name, meaning }
            }
            Err(error) => {
                let meaning = format!("cannot be read: {error}");
                Field { offset, bytes: Vec::new(), more: len, name, meaning }
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn header_fields(segment: &Segment) -> impl Iterator<Item = Field> + '_ {
    let fixed = HEADER.into_iter().map(|field| {
        Field::read(&segment.source, field, |bytes| match field.2 {
            "magic" => escape(bytes),
            "store" => <[u8; 16]>::try_from(bytes).map_or(String::new(), |id| uuid(&id)),
            "salt" | "checksum of lists" | "checksum of header" => format!("{:#x}", number(bytes)),
            "reserved" => String::new(),
            "kind of segment" => match number(bytes) {
                1 => "1, of a writer".to_owned(),
                2 => "2, output of a compaction".to_owned(),
                other => format!("{other}, unknown"),
            },
            "durable_end" => match &segment.durable_end {
                Ok(0) => "nothing is known to be durable".to_owned(),
                Ok(end) => format!("durable up to {end:#x}"),
                Err(error) => error.to_string(),
            },
            _ => number(bytes).to_string(),
        })
    });
    let (inputs, retained) = match &segment.lists {
        Ok(lists) => (&lists.inputs[..], &lists.retained[..]),
        Err(_) => (&[][..], &[][..]),
    };
    let retained_at = HEADER_LEN + 8 * inputs.len() as u64;
    let inputs = inputs.iter().zip(0_u64..).map(|(id, i)| Field {
        offset: HEADER_LEN + 8 * i,
        bytes: id.to_le_bytes().to_vec(),
        more: 0,
        name: "inputs",
        meaning: format!("segment {id}"),
    });
    let retained = retained.iter().zip(0_u64..).map(move |(keep, i)| Field {
        offset: retained_at + 16 * i,
        bytes: [keep.id.to_le_bytes(), keep.end.to_le_bytes()].concat(),
        more: 0,
        name: "retained",
        meaning: format!("segment {} up to {:#x}", keep.id, keep.end),
    });
    fixed.chain(inputs).chain(retained)
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

fn batch_fields<'s>(
    segment: &'s Segment,
    batch: &'s BatchInfo,
    limit: u64,
) -> impl Iterator<Item = Field> + 's {
    let source = &segment.source;
    let fixed = BATCH.into_iter().map(move |(at, len, name)| {
        Field::read(source, (batch.offset + at, len, name), |bytes| match name {
            "link word" => format!("length {}", batch.len),
            "state word" => match &batch.state {
                Ok(State::Pending) => "pending".to_owned(),
                Ok(State::Void) => "void".to_owned(),
                Ok(State::Committed(sequence)) => format!("committed {sequence}"),
                Err(error) => error.to_string(),
            },
            "checksum of batch header" => match &batch.head {
                Some(Err(error)) => error.to_string(),
                Some(Ok(_)) => format!("{:#x}, right", number(bytes)),
                None => format!("{:#x}", number(bytes)),
            },
            _ => number(bytes).to_string(),
        })
    });
    let head = batch.good_head();
    let entries = head.map_or(&[][..], |head| segment.entries_of(head));
    let rows = entries.iter().zip(0_u64..).flat_map(move |(entry, i)| {
        let row = batch.offset + HEAD_LEN + i * ENTRY_LEN;
        ROW.into_iter().map(move |(at, len, name)| {
            let field = (row + at, len, name);
            Field::read(source, field, |_| row_meaning(segment, entry, name))
        })
    });
    let column_at = batch.offset + HEAD_LEN + entries.len() as u64 * ENTRY_LEN;
    let numbered = if head.is_some_and(|head| head.sequences) { entries } else { &[] };
    let column = numbered.iter().zip(0_u64..).map(move |(entry, i)| Field {
        offset: column_at + i * SEQUENCE_LEN,
        bytes: entry.sequence.to_le_bytes().to_vec(),
        more: 0,
        name: "sequence number",
        meaning: entry.sequence.to_string(),
    });
    let keys_at = column_at + numbered.len() as u64 * SEQUENCE_LEN;
    let keys = entries.iter().scan(keys_at, move |offset, entry| {
        let key = segment.key(entry);
        let shown = &key[..key.len().min(usize::try_from(limit).unwrap_or(usize::MAX))];
        let (more, meaning) = ((key.len() - shown.len()) as u64, escape(shown));
        let bytes = shown.to_vec();
        let field = Field { offset: *offset, bytes, more, name: "key", meaning };
        *offset += key.len() as u64;
        Some(field)
    });
    let with_value = entries.iter().filter(|entry| entry.kind.has_value());
    let values = with_value.map(move |entry| {
        let field = (entry.value_offset, entry.value_len.min(limit), "value");
        let field = Field::read(source, field, escape);
        Field { more: entry.value_len - field.bytes.len() as u64, ..field }
    });
    fixed.chain(rows).chain(column).chain(keys).chain(values)
}

fn row_meaning(segment: &Segment, entry: &EntryInfo, name: &str) -> String {
    match name {
        "kind of entry" => kind_name(entry.kind).to_owned(),
        "length of value" => entry.value_len.to_string(),
        "length of key" => entry.key_len.to_string(),
        _ => {
            let Some(salt) = segment.salt() else { return String::new() };
            match value_checksum(&segment.source, salt, entry) {
                Ok(found) if found == entry.value_checksum => format!("{found:#x}, right"),
                Ok(found) => format!("{:#x}, but the value has {found:#x}", entry.value_checksum),
                Err(error) => format!("{:#x}; cannot be read: {error}", entry.value_checksum),
            }
        }
    }
}

/// The name of a kind.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Append => "append",
        Kind::Set => "set",
        Kind::Delete => "delete",
        Kind::Clear => "clear",
        Kind::DeletePrefix => "delete-prefix",
    }
}

fn show(field: &Field, out: &mut Output) -> Result<(), Failure> {
    let mut chunks = field.bytes.chunks(8);
    let first = chunks.next().unwrap_or(&[]);
    let (name, meaning) = (field.name, &field.meaning);
    // A key or value longer than a line is split: each line shows the meaning of its own bytes.
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
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

fn field_json(field: &Field) -> Value {
    json!({
        "offset": field.offset,
        "bytes_hex": hex(&field.bytes),
        "bytes_not_shown": field.more,
        "name": field.name,
        "meaning": field.meaning,
    })
}
