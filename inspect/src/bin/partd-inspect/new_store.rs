//! Writes a new store through `partd-format`, as segment files only.
//!
//! Each segment is written under a temporary name, sealed and synced, gets its `durable_end`, and
//! is renamed; the directory is synced before the next segment is started. So every visible batch
//! is durable with all batches before it, and each batch has its own number as `durable_seq`. There
//! is no control file: the engine creates it from the segments at the first open, by the recovery
//! rule (SPEC.md, "Which numbers are visible"). Sequence numbers are dense from 1, so the rule
//! finds every batch.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use partd_format::batch::{ENTRY_LEN, HEAD_LEN, Layout, NewEntry, WORDS_LEN, value_offset};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, file_name};
use partd_format::word::durable_end;
use partd_format::{Kind, Link, Salt, SegmentHeader, State};

use crate::Failure;
use crate::cmd::target::create;
use partd_inspect::index::EntryRef;

/// A batch is written once its values have this many bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// A batch is written once it has this many entries.
const BATCH_ENTRIES: usize = 8192;
/// A segment is closed if the next batch would make it longer than this.
const SEGMENT_BYTES: u64 = 64 << 20;

/// One entry to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'k> {
    pub(crate) key: &'k [u8],
    /// Whether the entry is a set; otherwise it is an append.
    pub(crate) set: bool,
    /// The length of the value in bytes.
    pub(crate) len: u64,
    /// The entry to copy the value from.
    pub(crate) at: EntryRef,
}

/// Receives a piece of a value.
pub(crate) type Take<'t> = dyn FnMut(&[u8]) -> Result<(), Failure> + 't;

/// Reads the bytes of a value, piece by piece.
pub(crate) type Read<'r> = dyn Fn(EntryRef, &mut Take<'_>) -> Result<(), Failure> + 'r;

/// A store that is being written.
#[derive(Debug)]
pub(crate) struct NewStore<'k> {
    dir: PathBuf,
    uuid: [u8; 16],
    sequence: u64,
    segments: u64,
    open: Option<Segment>,
    items: Vec<Item<'k>>,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    salt: Salt,
    end: u64,
}

impl<'k> NewStore<'k> {
    /// Starts a store in an empty directory.
    pub(crate) fn create(dir: &Path) -> Result<NewStore<'k>, Failure> {
        let mut uuid = random::<16>()?;
        // A random uuid has version 4 and variant 1.
        uuid[6] = uuid[6] & 0x0F | 0x40;
        uuid[8] = uuid[8] & 0x3F | 0x80;
        let dir = dir.to_owned();
        Ok(NewStore { dir, uuid, sequence: 0, segments: 0, open: None, items: vec![], bytes: 0 })
    }

    /// Adds an entry after all others.
    pub(crate) fn push(&mut self, item: Item<'k>, read: &Read<'_>) -> Result<(), Failure> {
        self.items.push(item);
        self.bytes += item.len;
        if self.bytes >= BATCH_BYTES || self.items.len() >= BATCH_ENTRIES {
            self.write_batch(read)?;
        }
        Ok(())
    }

    /// Writes the rest and makes everything durable; returns the number of batches and of segments.
    pub(crate) fn finish(mut self, read: &Read<'_>) -> Result<(u64, u64), Failure> {
        if !self.items.is_empty() || self.segments == 0 {
            self.write_batch(read)?;
        }
        self.close()?;
        Ok((self.sequence, self.segments))
    }

    fn write_batch(&mut self, read: &Read<'_>) -> Result<(), Failure> {
        let mut layout = Layout::new();
        for item in &self.items {
            let added = layout.add(item.key.len() as u64, item.len);
            added.map_err(|error| Failure::Message(format!("cannot build a batch: {error}")))?;
        }
        let is_full =
            |segment: &Segment| segment.end + layout.batch_len(segment.end) + 8 > SEGMENT_BYTES;
        if self.open.as_ref().is_some_and(is_full) {
            self.close()?;
        }
        let segment = match &mut self.open {
            Some(segment) => segment,
            None => {
                self.segments += 1;
                self.open.insert(Segment::create(&self.dir)?)
            }
        };
        self.sequence += 1;
        segment.write(&layout, self.sequence, &self.items, read)?;
        self.items.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Seals the open segment and gives it its name.
    fn close(&mut self) -> Result<(), Failure> {
        let Some(segment) = self.open.take() else { return Ok(()) };
        let name = String::from_utf8_lossy(&file_name(self.segments)).into_owned();
        let path = self.dir.join(name);
        let done = segment.seal(self.uuid, self.segments);
        done.and_then(|()| fs::rename(&segment.path, &path))
            .map_err(|error| Failure::io("write", &path, &error))?;
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| Failure::io("sync", &self.dir, &error))
    }
}

impl Segment {
    fn create(dir: &Path) -> Result<Segment, Failure> {
        // Recovery removes a file of this name if this process dies.
        let path = dir.join("tmp-output");
        let file = create(&path).map_err(|error| Failure::io("create", &path, &error))?;
        let salt = Salt(u64::from_le_bytes(random::<8>()?));
        Ok(Segment { path, file, salt, end: HEADER_LEN })
    }

    fn write(
        &mut self,
        layout: &Layout,
        sequence: u64,
        items: &[Item<'_>],
        read: &Read<'_>,
    ) -> Result<(), Failure> {
        let (offset, salt) = (self.end, self.salt);
        let path = self.path.clone();
        let failed = |error: io::Error| Failure::io("write", &path, &error);
        let mut at = offset + layout.values_start();
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            at = value_offset(at, item.len);
            let (mut hasher, begin) = (salt.value_hasher(), at);
            read(item.at, &mut |piece| {
                hasher.update(piece);
                self.file.write_all_at(piece, at).map_err(failed)?;
                at += piece.len() as u64;
                Ok(())
            })?;
            debug_assert_eq!(at - begin, item.len);
            entries.push(NewEntry {
                kind: if item.set { Kind::Set } else { Kind::Append },
                key: item.key,
                value_len: item.len,
                value_checksum: hasher.finalize(),
                sequence,
            });
        }
        let mut head = vec![0; layout.values_start() as usize];
        debug_assert!(head.len() as u64 >= HEAD_LEN + items.len() as u64 * ENTRY_LEN);
        let (words, body) = head.split_at_mut(WORDS_LEN as usize);
        let link = Link::Batch(layout.batch_len(offset)).encode(salt, offset);
        let state = State::Committed(sequence).encode(salt, offset);
        words[..8].copy_from_slice(&link.to_le_bytes());
        words[8..].copy_from_slice(&state.to_le_bytes());
        let encoded = layout.encode(salt, offset, sequence, entries, body);
        encoded.map_err(|error| Failure::Message(format!("cannot build a batch: {error}")))?;
        self.file.write_all_at(&head, offset).map_err(failed)?;
        self.end = offset + layout.batch_len(offset);
        Ok(())
    }

    /// Ends the chain, writes the header, syncs, and stores the `durable_end`.
    fn seal(&self, store: [u8; 16], id: u64) -> io::Result<()> {
        let word = Link::Sealed.encode(self.salt, self.end);
        self.file.write_all_at(&word.to_le_bytes(), self.end)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = SegmentHeader {
            store,
            id,
            len: self.end + 8,
            salt: self.salt,
            output: None,
            data_start: HEADER_LEN,
            created_unix_ms: now.as_millis() as u64,
            pid: std::process::id(),
            slot: 0,
        };
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_all()?;
        let word = durable_end::encode(self.salt, self.end);
        self.file.write_all_at(&word.to_le_bytes(), DURABLE_END_AT)?;
        self.file.sync_all()
    }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::Message(format!("cannot get random numbers from the system: {error}"))
    })?;
    Ok(bytes)
}
