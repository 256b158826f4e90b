//! Builds the bytes of segments and control files by hand, for tests. The output is deterministic,
//! and a test may damage it as it likes.
//!
//! It uses the encoders of `partd-format` and nothing of the engine, and works on bytes in memory,
//! one batch after the other.

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, Layout, NewEntry, WORDS_LEN, value_offset};
use partd_format::segment::{self, DURABLE_END_AT, HEADER_LEN, Output, Retained};
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Error, Evidence, Kind, Link, Salt, SegmentHeader, State, control};

/// The store id that tests use by default.
pub const STORE: [u8; 16] = *b"\x10\x32\x54\x76\x98\xba\xdc\xfe\x01\x23\x45\x67\x89\xab\xcd\xef";

/// An entry to be built.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: Kind,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub sequence: u64,
}

impl Item {
    pub fn append(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Item {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        Item { kind: Kind::Append, key, value, sequence: 0 }
    }

    pub fn set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Item {
        Item { kind: Kind::Set, ..Item::append(key, value) }
    }

    pub fn delete(key: impl AsRef<[u8]>) -> Item {
        Item { kind: Kind::Delete, ..Item::append(key, "") }
    }

    pub fn clear() -> Item {
        Item { kind: Kind::Clear, ..Item::append("", "") }
    }

    pub fn delete_prefix(prefix: impl AsRef<[u8]>) -> Item {
        Item { kind: Kind::DeletePrefix, ..Item::append(prefix, "") }
    }

    /// The same entry with its own sequence number, for an output.
    pub fn at(self, sequence: u64) -> Item {
        Item { sequence, ..self }
    }
}

/// A segment under construction.
#[derive(Clone, Debug)]
pub struct Segment {
    pub bytes: Vec<u8>,
    pub header: SegmentHeader,
    /// Where the next batch goes.
    pub offset: u64,
}

impl Segment {
    /// An empty segment of a writer, `len` bytes long. Its salt depends only on the store and the
    /// id.
    pub fn new(store: [u8; 16], id: u64, len: u64) -> Segment {
        Segment::with(store, id, len, None, &[])
    }

    /// An empty output of a compaction.
    pub fn output(
        store: [u8; 16],
        id: u64,
        len: u64,
        max_seq: u64,
        inputs: &[u64],
        retained: &[Retained],
    ) -> Segment {
        let mut lists = Vec::new();
        for id in inputs {
            lists.extend_from_slice(&id.to_le_bytes());
        }
        for keep in retained {
            lists.extend_from_slice(&keep.id.to_le_bytes());
            lists.extend_from_slice(&keep.end.to_le_bytes());
        }
        let lists_checksum = segment::lists_checksum(salt_of(store, id), &lists);
        let (inputs, retained) = (inputs.len() as u32, retained.len() as u32);
        let output = Output { max_seq, inputs, retained, lists_checksum };
        Segment::with(store, id, len, Some(output), &lists)
    }

    fn with(store: [u8; 16], id: u64, len: u64, output: Option<Output>, lists: &[u8]) -> Segment {
        let header = SegmentHeader {
            store,
            id,
            len,
            salt: salt_of(store, id),
            output,
            data_start: (HEADER_LEN + lists.len() as u64).next_multiple_of(8),
            created_unix_ms: 1_700_000_000_000 + id % 1000,
            pid: 4242,
            slot: (id % 1000) as u32,
        };
        let mut bytes = vec![0; len as usize];
        bytes[..HEADER_LEN as usize].copy_from_slice(&header.encode());
        bytes[HEADER_LEN as usize..][..lists.len()].copy_from_slice(lists);
        Segment { bytes, header, offset: header.data_start }
    }

    pub fn salt(&self) -> Salt {
        self.header.salt
    }

    fn put(&mut self, offset: u64, word: u64) {
        Le::write_u64(&mut self.bytes[offset as usize..], word);
    }

    /// Claims a batch and writes all of it with the given state word. Returns its offset.
    pub fn batch(&mut self, state: State, durable_seq: u64, items: &[Item]) -> u64 {
        let offset = self.offset;
        let sequences = self.header.output.is_some();
        let mut layout = if sequences { Layout::with_sequences() } else { Layout::new() };
        for item in items {
            layout
                .add(item.key.len() as u64, item.value.len() as u64)
                .expect("the batch is not too large");
        }
        let salt = self.salt();
        let entries = items.iter().map(|item| NewEntry {
            kind: item.kind,
            key: &item.key,
            value_len: item.value.len() as u64,
            value_checksum: if item.kind.has_value() {
                salt.value_checksum(&item.value)
            } else {
                0
            },
            sequence: item.sequence,
        });
        let (start, values) = (offset + WORDS_LEN, offset + layout.values_start());
        let head = &mut self.bytes[start as usize..values as usize];
        layout
            .encode(salt, offset, durable_seq, entries, head)
            .expect("the layout matches the items");
        let mut end = values;
        for item in items {
            let at = value_offset(end, item.value.len() as u64);
            end = at + item.value.len() as u64;
            self.bytes[at as usize..end as usize].copy_from_slice(&item.value);
        }
        self.claim(layout.batch_len(offset));
        self.state(offset, state);
        offset
    }

    /// Writes a batch committed under `sequence`, with a `durable_seq` of 0.
    pub fn commit(&mut self, sequence: u64, items: &[Item]) -> u64 {
        self.batch(State::Committed(sequence), 0, items)
    }

    /// Claims `len` bytes and leaves them pending.
    pub fn claim(&mut self, len: u64) -> u64 {
        assert!(len >= HEAD_LEN && len.is_multiple_of(8));
        let offset = self.offset;
        let link = Link::Batch(len).encode(self.salt(), offset);
        self.put(offset, link);
        self.offset += len;
        offset
    }

    /// Sets the state word of the batch at `offset`.
    pub fn state(&mut self, offset: u64, state: State) {
        let word = state.encode(self.salt(), offset);
        self.put(offset + STATE_AT, word);
    }

    /// Seals the segment at the current offset.
    pub fn seal(&mut self) {
        let link = Link::Sealed.encode(self.salt(), self.offset);
        self.put(self.offset, link);
    }

    /// Records that the chain before `end` is durable.
    pub fn set_durable_end(&mut self, end: u64) {
        let word = durable_end::encode(self.salt(), end);
        self.put(DURABLE_END_AT, word);
    }

    /// Flips one bit.
    pub fn flip(&mut self, offset: u64, bit: u32) {
        self.bytes[offset as usize] ^= 1 << bit;
    }

    /// The segment's file name.
    pub fn name(&self) -> String {
        String::from_utf8(segment::file_name(self.header.id).to_vec()).expect("digits")
    }
}

/// A salt that is the same in every run and different for every segment.
pub fn salt_of(store: [u8; 16], id: u64) -> Salt {
    let seed = Le::read_u64(&store) ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (seed ^ seed >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    Salt(mixed ^ mixed >> 29)
}

/// The contents of a control file.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    pub store: [u8; 16],
    pub boot: [u8; 16],
    pub commit: control::Commit,
    pub next_segment: u64,
    pub directory_epoch: u64,
    pub durable_seq: u64,
    pub sync_failed: bool,
    pub clean: bool,
    /// Slot, pid, active segment.
    pub holder: Option<(u16, u32, u64)>,
}

impl Control {
    /// The control file of an open store whose history ends at `sequence`.
    pub fn open(store: [u8; 16], boot: [u8; 16], sequence: u64) -> Control {
        let commit = control::Commit { sequence, slot: 0, done: true };
        Control {
            store,
            boot,
            commit,
            next_segment: 1,
            directory_epoch: 1,
            durable_seq: 0,
            sync_failed: false,
            clean: false,
            holder: None,
        }
    }

    /// Encodes the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; control::FILE_LEN as usize];
        let fixed = control::Fixed {
            store: self.store,
            boot: self.boot,
            created_unix_ms: 1_700_000_000_000,
            device: 0,
            inode: 0,
            temporary: false,
        };
        bytes[..control::FIXED_LEN].copy_from_slice(&fixed.encode());
        let commit = self.commit.encode();
        let durable_seq = control::encode_durable_seq(&self.store, self.durable_seq);
        let stamp = control::clean_stamp(&self.store, commit, self.next_segment, durable_seq);
        for (at, word) in [
            (control::CLEAN_AT, if self.clean { stamp } else { 0 }),
            (control::COMMIT_AT, commit),
            (control::NEXT_SEGMENT_AT, self.next_segment),
            (control::DIRECTORY_EPOCH_AT, self.directory_epoch),
            (control::DURABLE_SEQ_AT, durable_seq),
            (control::DURABLE_DIRECTORY_EPOCH_AT, 0),
            (control::SYNC_FAILED_AT, if self.sync_failed { control::SYNC_FAILED } else { 0 }),
        ] {
            Le::write_u64(&mut bytes[at as usize..], word);
        }
        if let Some((slot, pid, active)) = self.holder {
            let at = control::slot_at(slot);
            Le::write_u64(&mut bytes[(at + control::SLOT_ACTIVE_AT) as usize..], active);
            Le::write_u32(&mut bytes[(at + control::SLOT_PID_AT) as usize..], pid);
        }
        bytes
    }
}

/// Whether an error reports a found value that satisfies its own expectation.
pub fn is_contradiction(error: &Error) -> bool {
    match (error.expected, error.found) {
        (Evidence::AtMost(limit), Evidence::Number(found)) => found <= limit,
        (Evidence::AtLeast(limit), Evidence::Number(found)) => found >= limit,
        (Evidence::Between(first, last), Evidence::Number(found)) => {
            (first..=last).contains(&found)
        }
        (expected, found) => expected == found,
    }
}
