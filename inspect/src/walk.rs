//! Walks one segment: its header, its chain of batches, and the tables of committed batches.
//!
//! It does not read values. It keeps the error of each part that it cannot decode and continues to
//! the end of the chain. [`history`](super::history) decides whether such a part is damage or a
//! scar.

use std::io;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, Retained, id_of_file_name};
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Batch, Ending, Error, Evidence, Kind, Link, Salt, SegmentHeader, State};

use crate::path::shown;
use crate::repair;
use crate::source::{Source, Window};

/// One segment, as far as it can be read.
#[derive(Debug)]
pub struct Segment {
    /// The source to read its values from.
    pub source: Source,
    /// The id in its file name; `None` if the name is not that of a segment.
    pub name_id: Option<u64>,
    /// Its header.
    pub header: Result<SegmentHeader, Error>,
    /// The lists of an output, or why they cannot be decoded.
    pub lists: Result<Lists, Error>,
    /// The lists as found if they do not match their checksum; only good for a guess.
    pub unverified_lists: Lists,
    /// Its durable watermark: the chain before this offset is durable.
    pub durable_end: Result<u64, Error>,
    /// Its batches, in the order of the file.
    pub batches: Vec<BatchInfo>,
    /// The entries of all its committed batches.
    pub entries: Vec<EntryInfo>,
    /// The bytes of all their keys.
    keys: Vec<u8>,
    /// How many bytes of headers and lists are held in memory.
    taken: u64,
    /// The offset at which the chain ends.
    pub end: u64,
    /// How the chain ends.
    pub ending: Ending,
    /// The error of the operating system that ended the walk early.
    pub io: Option<String>,
    /// Whether the file could not even be opened.
    pub is_unreadable: bool,
}

/// The lists of an output; empty for the segment of a writer.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// The segments that it replaces.
    pub inputs: Vec<u64>,
    /// The segments that it did not replace although they held numbers up to `max_seq`.
    pub retained: Vec<Retained>,
}

/// One batch of a chain.
#[derive(Clone, Debug)]
pub struct BatchInfo {
    /// Its offset in the segment.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its state.
    pub state: Result<State, Error>,
    /// Its header; `None` if the batch is not committed.
    pub head: Option<Result<Head, Error>>,
}

/// The header of a batch, decoded.
#[derive(Clone, Debug)]
pub struct Head {
    /// The index of its first entry in the segment.
    pub first: usize,
    /// The number of its entries.
    pub count: usize,
    /// The offset of its values in the segment.
    pub values_start: u64,
    /// The store's `durable_seq` when it was written.
    pub durable_seq: u64,
    /// Whether its entries have sequence numbers of their own.
    pub sequences: bool,
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryInfo {
    /// The effect on its key.
    pub kind: Kind,
    /// The checksum of its value, as stored in the batch.
    pub value_checksum: u32,
    /// The length of its key in bytes.
    pub key_len: u32,
    key_start: u64,
    /// The offset of its value in the file.
    pub value_offset: u64,
    /// The length of its value in bytes.
    pub value_len: u64,
    /// The entry's own sequence number in an output; 0 elsewhere.
    pub sequence: u64,
}

impl BatchInfo {
    /// Its sequence number, if it is committed.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        match self.state {
            Ok(State::Committed(sequence)) => Some(sequence),
            _ => None,
        }
    }

    /// Its header, if the batch is committed and the header is good.
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

    /// Its id, from the header or else from the name; 0 if neither is readable.
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

    /// Whether it is the output of a compaction.
    pub fn is_output(&self) -> bool {
        self.header.as_ref().is_ok_and(|header| header.output.is_some())
    }

    /// Whether a correction of one bit makes the header good.
    pub(super) fn has_one_wrong_bit(&self) -> bool {
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

    /// Creates the segment of a file that cannot be opened.
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
            unverified_lists: Lists::default(),
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

    /// Discards everything but the source.
    pub(super) fn forget(&mut self) {
        let nothing = Segment::nothing(self.source.path());
        let source = std::mem::replace(&mut self.source, Source::memory(Path::new(""), Vec::new()));
        *self = Segment { source, name_id: self.name_id, ..nothing };
    }

    /// Calls `read` with a window over the segment's own source, and records its error.
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

    /// Reads the words and lists after the header, and moves to the first batch.
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
            self.unverified_lists = Lists { inputs: words(HEADER_LEN, end), retained };
        }
        Ok(())
    }

    /// Reserves memory for `bytes` more bytes, if the total remains affordable.
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

    /// Follows the chain from the current offset to its end.
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

    /// Reads one batch, or finds the end of the chain.
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

    /// Reads the batch of `len` bytes at `offset`, and moves to the end of it.
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
                    // The window may hold part of the batch from before it was written: read it
                    // again.
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

    /// Checks the header of a batch and adds its entries. `body` begins after the link and state
    /// words.
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

/// The error in place of a header that has not been read.
fn nothing_read() -> Error {
    Error {
        offset: 0,
        what: "segment file",
        expected: Evidence::Text("a header"),
        found: Evidence::Text("that it cannot be read"),
    }
}
