//! A walk along one segment: its header, its chain of batches, the tables of the committed ones.
//!
//! Values are not read. What cannot be decoded is kept as evidence beside what can, and the walk
//! goes on as far as the chain does. Whether a broken piece is damage or the scar of a power cut
//! is for [`history`](super::history) to say.

use std::io;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, Retained, id_of_file_name};
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Batch, Ending, Error, Evidence, Kind, Link, Salt, SegmentHeader, State};

use super::repair;
use crate::path::shown;
use crate::source::{Source, Window};

/// One segment, as far as it can be read.
#[derive(Debug)]
pub struct Segment {
    /// Where to read its values.
    pub source: Source,
    /// The id that its file name says; `None` for a file of another name.
    pub name_id: Option<u64>,
    /// Its header.
    pub header: Result<SegmentHeader, Error>,
    /// The lists of an output, or why they cannot be read.
    pub lists: Result<Lists, Error>,
    /// The same where they do not match their checksum: good for a guess, and for nothing else.
    pub lists_as_found: Lists,
    /// The note: up to where its chain is known to be durable.
    pub durable_end: Result<u64, Error>,
    /// Its batches, in the order of the file.
    pub batches: Vec<BatchInfo>,
    /// The entries of all its committed batches.
    pub entries: Vec<EntryInfo>,
    /// The bytes of all their keys.
    keys: Vec<u8>,
    /// How many bytes of heads and lists were taken into memory.
    taken: u64,
    /// Where the chain ends.
    pub end: u64,
    /// How it ends.
    pub ending: Ending,
    /// An error of the operating system that ended the walk early.
    pub io: Option<String>,
    /// Whether the file could not even be opened.
    pub is_unreadable: bool,
}

/// The lists of an output; empty for the segment of a writer.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// The segments that it replaces.
    pub inputs: Vec<u64>,
    /// The segments that it found beside it.
    pub retained: Vec<Retained>,
}

/// One batch of a chain.
#[derive(Clone, Debug)]
pub struct BatchInfo {
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What became of it.
    pub state: Result<State, Error>,
    /// Its header; `None` where the batch is not committed.
    pub head: Option<Result<Head, Error>>,
}

/// What the header of a batch says.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its first entry among those of the segment.
    pub first: usize,
    /// How many entries it has.
    pub count: usize,
    /// Where its values begin in the segment.
    pub values_start: u64,
    /// The synced mark that it repeats.
    pub durable_seq: u64,
    /// Whether its entries have sequence numbers of their own.
    pub sequences: bool,
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryInfo {
    /// What it does to its key.
    pub kind: Kind,
    /// The checksum of its value, as the batch has it.
    pub value_checksum: u32,
    /// The length of its key.
    pub key_len: u32,
    key_start: u64,
    /// Where its value begins in the file.
    pub value_offset: u64,
    /// The length of its value.
    pub value_len: u64,
    /// The entry's own number in an output; 0 elsewhere.
    pub sequence: u64,
}

impl BatchInfo {
    /// The number that its state word says, if it is committed.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        match self.state {
            Ok(State::Committed(sequence)) => Some(sequence),
            _ => None,
        }
    }

    /// The header, if the batch is committed and it is good.
    #[must_use]
    pub fn good_head(&self) -> Option<&Head> {
        self.head.as_ref()?.as_ref().ok()
    }
}

impl Segment {
    /// The path of its file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        shown(self.path().file_name().unwrap_or_default())
    }

    /// Its id: as the header says, or else its name; 0 if neither can be read.
    pub fn id(&self) -> u64 {
        self.header.as_ref().map_or(self.name_id.unwrap_or(0), |header| header.id)
    }

    /// The salt of its checks; `None` if its header is damaged.
    pub fn salt(&self) -> Option<Salt> {
        self.header.as_ref().ok().map(|header| header.salt)
    }

    /// The key of an entry.
    pub fn key(&self, entry: &EntryInfo) -> &[u8] {
        let start = entry.key_start as usize;
        &self.keys[start..start + entry.key_len as usize]
    }

    /// The entries of a batch.
    pub fn entries_of(&self, head: &Head) -> &[EntryInfo] {
        &self.entries[head.first..head.first + head.count]
    }

    /// Whether a compaction wrote it.
    pub fn is_output(&self) -> bool {
        self.header.as_ref().is_ok_and(|header| header.output.is_some())
    }

    /// Whether the header would be good if one bit of it were another.
    pub(super) fn is_right_but_for_one_bit(&self) -> bool {
        let mut bytes = vec![0; self.source.len().min(HEADER_LEN) as usize];
        self.source.read_exact(&mut bytes, 0).is_ok()
            && repair::header(&bytes, self.source.len()).is_some()
    }

    /// Walks the segment in `source`.
    pub fn walk(source: Source) -> Segment {
        let mut segment = Segment::nothing(source.path());
        segment.with_source(source, Segment::walk_with);
        segment
    }

    /// A segment whose file cannot be opened.
    #[must_use]
    pub fn unreadable(path: &Path, error: &io::Error) -> Segment {
        Segment { io: Some(error.to_string()), is_unreadable: true, ..Segment::nothing(path) }
    }

    fn nothing(path: &Path) -> Segment {
        let name = path.file_name().unwrap_or_default();
        Segment {
            name_id: id_of_file_name(name.as_encoded_bytes()),
            header: Err(nothing_read()),
            lists: Ok(Lists::default()),
            lists_as_found: Lists::default(),
            durable_end: Ok(0),
            batches: Vec::new(),
            entries: Vec::new(),
            keys: Vec::new(),
            taken: 0,
            end: 0,
            ending: Ending::Broken(nothing_read()),
            io: None,
            is_unreadable: false,
            source: Source::memory(path, Vec::new()),
        }
    }

    /// Forgets everything but the file.
    pub(super) fn forget(&mut self) {
        let nothing = Segment::nothing(self.source.path());
        let source = std::mem::replace(&mut self.source, Source::memory(Path::new(""), Vec::new()));
        *self = Segment { source, name_id: self.name_id, ..nothing };
    }

    /// Lets `read` fill this segment from its own source, and notes an error that ends it.
    pub(super) fn with_own_source(
        &mut self,
        read: impl FnOnce(&mut Segment, &mut Window<'_>) -> io::Result<()>,
    ) {
        let nothing = Source::memory(self.source.path(), Vec::new());
        let source = std::mem::replace(&mut self.source, nothing);
        self.with_source(source, read);
    }

    fn with_source(
        &mut self,
        source: Source,
        read: impl FnOnce(&mut Segment, &mut Window<'_>) -> io::Result<()>,
    ) {
        if let Err(error) = read(self, &mut Window::new(&source)) {
            self.io = Some(error.to_string());
        }
        self.source = source;
    }

    fn walk_with(&mut self, window: &mut Window<'_>) -> io::Result<()> {
        let file_len = window.source().len();
        let header_len = file_len.min(HEADER_LEN);
        let bytes = window.get(0, header_len as usize)?;
        self.header = SegmentHeader::decode(bytes, file_len);
        let header = match &self.header {
            Ok(header) => *header,
            Err(error) => {
                self.ending = Ending::Broken(*error);
                return Ok(());
            }
        };
        self.enter(&header, window)?;
        self.ending = self.follow(&header, window)?;
        Ok(())
    }

    /// Reads what stands behind the header, and sets out at the first batch.
    pub(super) fn enter(&mut self, header: &SegmentHeader, w: &mut Window<'_>) -> io::Result<()> {
        let word = Le::read_u64(w.get(DURABLE_END_AT, 8)?);
        self.durable_end = durable_end::decode(header.salt, word);
        self.end = header.data_start;
        if header.output.is_none() {
            return Ok(());
        }
        if let Err(error) = self.afford(w.source(), HEADER_LEN, "lists of an output", self.end) {
            self.lists = Err(error);
            return Ok(());
        }
        let bytes = w.get(0, header.data_start as usize)?;
        self.lists = header.lists(bytes).map(|(inputs, retained)| Lists {
            inputs: inputs.collect(),
            retained: retained.collect(),
        });
        if let (Err(_), Some(output)) = (&self.lists, header.output) {
            let end = HEADER_LEN + u64::from(output.inputs) * 8;
            let words = |from: u64, to: u64| {
                let bytes = bytes.get(from as usize..to as usize).unwrap_or_default();
                bytes.chunks_exact(8).map(Le::read_u64).collect::<Vec<u64>>()
            };
            let keep = |pair: &[u64]| Retained { id: pair[0], end: pair[1] };
            let retained = words(end, HEADER_LEN + output.lists_len());
            let retained = retained.chunks_exact(2).map(keep).collect();
            self.lists_as_found = Lists { inputs: words(HEADER_LEN, end), retained };
        }
        Ok(())
    }

    /// Takes so many bytes more into memory, if all of it together stays affordable.
    pub(super) fn afford(
        &mut self,
        source: &Source,
        offset: u64,
        what: &'static str,
        bytes: u64,
    ) -> Result<(), Error> {
        let taken = self.taken.saturating_add(bytes);
        if !source.affordable(taken) {
            let (expected, found) = (Evidence::AtMost(source.stored()), Evidence::Number(taken));
            return Err(Error { offset, what, expected, found });
        }
        self.taken = taken;
        Ok(())
    }

    /// Follows the chain from where the walk stands to its end.
    pub(super) fn follow(
        &mut self,
        header: &SegmentHeader,
        window: &mut Window<'_>,
    ) -> io::Result<Ending> {
        loop {
            if let Some(ending) = self.step(header, window)? {
                return Ok(ending);
            }
        }
    }

    /// Takes one batch, or finds the end of the chain.
    fn step(&mut self, header: &SegmentHeader, w: &mut Window<'_>) -> io::Result<Option<Ending>> {
        let (offset, limit, salt) = (self.end, header.len, header.salt);
        if limit - offset < 8 {
            return Ok(Some(Ending::Sealed));
        }
        let word = Le::read_u64(w.get(offset, 8)?);
        let len = match Link::decode(salt, offset, word, limit) {
            Ok(Link::Batch(len)) => len,
            Ok(Link::End) => return Ok(Some(Ending::Open)),
            Ok(Link::Sealed) => return Ok(Some(Ending::Sealed)),
            Err(error) => return Ok(Some(Ending::Broken(error))),
        };
        self.take_batch(salt, offset, len, w)?;
        Ok(None)
    }

    /// Takes the batch of `len` bytes at `offset`, and goes on behind it.
    pub(super) fn take_batch(
        &mut self,
        salt: Salt,
        offset: u64,
        len: u64,
        w: &mut Window<'_>,
    ) -> io::Result<()> {
        let words = w.get(offset, WORDS_LEN as usize)?;
        let state = State::decode(salt, offset, Le::read_u64(&words[STATE_AT as usize..]));
        let head = match state {
            Ok(State::Committed(_)) => {
                let mut head = self.head(salt, offset, len, w)?;
                if head.is_err() {
                    // A live batch may have been caught between two pages: look once more.
                    w.forget();
                    head = self.head(salt, offset, len, w)?;
                }
                Some(head)
            }
            _ => None,
        };
        self.batches.push(BatchInfo { offset, len, state, head });
        self.end = offset + len;
        Ok(())
    }

    /// Reads and checks the header, table and keys of a batch.
    pub(super) fn head(
        &mut self,
        salt: Salt,
        offset: u64,
        len: u64,
        window: &mut Window<'_>,
    ) -> io::Result<Result<Head, Error>> {
        let fixed = &window.get(offset, HEAD_LEN as usize)?[WORDS_LEN as usize..];
        let values = match Batch::values_start(offset, len, fixed) {
            Ok(values) => values,
            Err(error) => return Ok(Err(error)),
        };
        let before = self.taken;
        if let Err(error) =
            self.afford(window.source(), offset, "entries and bytes of keys", values)
        {
            return Ok(Err(error));
        }
        let body = &window.get(offset, values as usize)?[WORDS_LEN as usize..];
        let head = self.take_head(salt, offset, len, body);
        if head.is_err() {
            self.taken = before;
        }
        Ok(head)
    }

    /// Checks the head of a batch and takes its entries. `body` begins behind link and state word.
    pub(super) fn take_head(
        &mut self,
        salt: Salt,
        offset: u64,
        len: u64,
        body: &[u8],
    ) -> Result<Head, Error> {
        let batch = Batch::parse_head(salt, offset, len, body)?;
        batch.check_sequences(self.is_output())?;
        let first = self.entries.len();
        if first + batch.len() > u32::MAX as usize {
            return Err(Error {
                offset,
                what: "entries of a segment",
                expected: Evidence::AtMost(u32::MAX.into()),
                found: Evidence::Number((first + batch.len()) as u64),
            });
        }
        self.entries.reserve(batch.len());
        for entry in batch.entries() {
            let key_start = self.keys.len() as u64;
            self.keys.extend_from_slice(entry.key);
            self.entries.push(EntryInfo {
                kind: entry.kind,
                value_checksum: entry.value_checksum,
                key_len: entry.key.len() as u32,
                key_start,
                value_offset: entry.value_offset,
                value_len: entry.value_len,
                sequence: entry.sequence.unwrap_or(0),
            });
        }
        Ok(Head {
            first,
            count: self.entries.len() - first,
            values_start: offset + batch.head_len(),
            durable_seq: batch.durable_seq(),
            sequences: batch.has_sequences(),
        })
    }
}

/// What stands for a header before it was read.
fn nothing_read() -> Error {
    Error {
        offset: 0,
        what: "segment file",
        expected: Evidence::Text("a header"),
        found: Evidence::Text("that it cannot be read"),
    }
}
