//! A segment file and the operations on it.
//!
//! The types of this folder uphold the safety sentence of `fs/mapping.rs`: only a [`claim::Claim`]
//! can be stored to, claims come only from the one [`claim::ActiveSegment`] of a segment, and
//! slices are handed out only for committed batches.

#![expect(unsafe_code, reason = "this folder keeps published and claimed ranges distinct")]

pub(crate) mod ahead;
pub(crate) mod batch_writer;
pub(crate) mod chain;
pub(crate) mod claim;
pub(crate) mod extent;
pub(crate) mod outputs;
pub(crate) mod recycle;
pub(crate) mod space;
pub(crate) mod through;
pub(crate) mod unpublished;
pub(crate) mod words;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crc32fast::Hasher;
use partd_format::batch::WORDS_LEN;
use partd_format::segment::{DURABLE_END_AT, Retained};
use partd_format::word::durable_end;
use partd_format::{Batch, Link, Salt, SegmentHeader, State};

use crate::error::{Error, ErrorKind, Result, damage};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::segment::extent::Extent;

/// The unit in which disk space is freed.
const PAGE: u64 = 4096;
/// The length of the word that seals a segment; this space is kept free after its batches.
pub(crate) const SEAL_LEN: u64 = 8;

/// The number of bytes that are sampled to tell whether a file is in memory.
const CACHED_SAMPLES: u64 = 16;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    file: F,
    /// The path of the store, for errors.
    dir: Arc<Path>,
    header: SegmentHeader,
    /// The hasher that the checksum of each value begins with. A clone of it is cheaper than a new
    /// one, which looks up what the processor can do.
    value_hasher: Hasher,
}

impl<F: DiskFile> Segment<F> {
    /// Opens a segment and checks its header. If `uuid` is given, the segment must belong to that
    /// store.
    pub(crate) fn open<D: Disk<File = F>>(
        directory: &Directory<D>,
        id: u64,
        uuid: Option<&[u8; 16]>,
        access: Access,
    ) -> Result<Segment<F>> {
        let name = segment_name(id);
        let file = directory
            .dir
            .open(&name, access)
            .map_err(|source| directory.error("open", &name, source))?;
        let mut bytes = [0; DURABLE_END_AT as usize];
        let len = file.mapping().len();
        if len >= DURABLE_END_AT {
            file.loaded(0, DURABLE_END_AT);
            file.mapping().copy_out(0, &mut bytes);
        }
        let path = || directory.path_of(&name);
        let header = SegmentHeader::decode(&bytes, len).map_err(|error| damage(path(), error))?;
        if uuid.is_some_and(|uuid| header.store != *uuid) {
            let why = "this segment belongs to another store: files of two stores are in one directory. It is not \
                       touched; `partd-inspect` shows which store it belongs to";
            return Err(Error::refused(ErrorKind::Corrupt, path(), why));
        }
        if header.id != id {
            let found = header.id;
            let why = format!("this file is segment {found:#x} of the store under another name");
            return Err(Error::refused(ErrorKind::Corrupt, path(), why));
        }
        Ok(Segment::new(file, Arc::clone(directory.path()), header))
    }

    fn new(file: F, dir: Arc<Path>, header: SegmentHeader) -> Segment<F> {
        let value_hasher = header.salt.value_hasher();
        Segment { file, dir, header, value_hasher }
    }

    pub(crate) fn id(&self) -> u64 {
        self.header.id
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(crate) fn salt(&self) -> Salt {
        self.header.salt
    }

    /// Returns the hasher for the checksum of a value.
    #[inline]
    pub(crate) fn value_hasher(&self) -> Hasher {
        self.value_hasher.clone()
    }

    /// Computes the checksum of a value.
    #[inline]
    pub(crate) fn value_checksum(&self, value: &[u8]) -> u32 {
        let mut hasher = self.value_hasher();
        hasher.update(value);
        hasher.finalize()
    }

    pub(crate) fn file(&self) -> &F {
        &self.file
    }

    /// The path of the file, for errors.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(segment_name(self.header.id))
    }

    /// Wraps a format error in this file.
    pub(crate) fn damage(&self, error: partd_format::Error) -> Error {
        damage(self.path(), error)
    }

    /// The error for a batch whose sequence number is also that of another batch in the store.
    pub(crate) fn number_used_twice(&self, offset: u64, sequence: u64) -> Error {
        self.damage(partd_format::Error {
            offset,
            what: "sequence number",
            expected: partd_format::Evidence::Text("one that no other batch has"),
            found: partd_format::Evidence::Number(sequence),
        })
    }

    /// The lists of a compaction output: the ids of its inputs, and the segments that it retained.
    pub(crate) fn lists(&self) -> Result<(Vec<u64>, Vec<Retained>)> {
        let len = self.header.data_start;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.loaded(0, len);
        self.file.mapping().copy_out(0, &mut bytes);
        let (inputs, retained) = self.header.lists(&bytes).map_err(|e| self.damage(e))?;
        Ok((inputs.collect(), retained.collect()))
    }

    /// Reads the link word at an offset that the chain has reached.
    #[inline]
    pub(crate) fn link(&self, offset: u64) -> Result<Link, partd_format::Error> {
        if offset > self.header.len.saturating_sub(SEAL_LEN) {
            return Ok(Link::Sealed);
        }
        self.file.loaded(offset, 8);
        let word = self.file.mapping().load(offset, Acquire);
        Link::decode(self.salt(), offset, word, self.header.len)
    }

    /// Reads the state of the batch at an offset that the chain has reached.
    #[inline]
    pub(crate) fn state(&self, offset: u64) -> Result<State, partd_format::Error> {
        self.file.loaded(offset + 8, 8);
        State::decode(self.salt(), offset, self.file.mapping().load(offset + 8, Acquire))
    }

    /// Sets the state of a batch to committed with its sequence number, if the state is not set
    /// yet.
    pub(crate) fn mark_committed(&self, offset: u64, sequence: u64) -> Result<()> {
        // The offset may come from another process.
        match self.link(offset & !7) {
            Ok(Link::Batch(_)) if offset.is_multiple_of(8) => {
                self.set_state(offset, State::Committed(sequence));
                Ok(())
            }
            Ok(_) => Err(self.damage(partd_format::Error {
                offset,
                what: "batch that is being committed",
                expected: partd_format::Evidence::Text("a claimed batch"),
                found: partd_format::Evidence::Text("free space"),
            })),
            Err(error) => Err(self.damage(error)),
        }
    }

    /// Makes the batch at `offset` void, if its state is not set yet.
    pub(crate) fn void(&self, offset: u64) {
        self.set_state(offset, State::Void);
    }

    fn set_state(&self, offset: u64, state: State) {
        let word = state.encode(self.salt(), offset);
        let mapping = self.file.mapping();
        if mapping.compare_exchange(offset + 8, 0, word, AcqRel, Acquire).is_ok() {
            self.file.stored(offset + 8, 8);
        }
    }

    /// Makes the batch at `offset` void whatever its state. For recovery only, which is alone in
    /// the store.
    pub(crate) fn force_void(&self, offset: u64) -> Result<()> {
        self.write_word(offset + 8, State::Void.encode(self.salt(), offset))
    }

    /// Seals the chain at `offset`. For recovery only, which is alone in the store.
    pub(crate) fn seal_alone(&self, offset: u64) -> Result<()> {
        if offset > self.header.len.saturating_sub(SEAL_LEN) {
            return Ok(());
        }
        self.write_word(offset, Link::Sealed.encode(self.salt(), offset))
    }

    /// Writes a word through the file: in a copied store the word may be in a hole, and a store
    /// into a hole raises SIGBUS on a full disk.
    fn write_word(&self, offset: u64, word: u64) -> Result<()> {
        let written = self.file.write_at(&mut [IoSlice::new(&word.to_le_bytes())], offset);
        written.map_err(|error| Error::io("write to the segment", self.path(), error))
    }

    /// Reserves disk space for stores to a range.
    #[inline]
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        let reserved = self.file.reserve(offset, len);
        reserved.map_err(|error| Error::io("store to the segment", self.path(), error))
    }

    /// Seals the chain at `offset`, so that no batch follows. Only the owner of the end of the
    /// chain may call this, or a caller that has made sure that the owner is dead.
    pub(crate) fn seal(&self, offset: u64) {
        if offset <= self.header.len.saturating_sub(SEAL_LEN) {
            let word = Link::Sealed.encode(self.salt(), offset);
            self.file.mapping().store(offset, word, Release);
            self.file.stored(offset, 8);
        }
    }

    /// Frees the disk space after a seal at `offset`, to which nothing is ever stored again.
    pub(crate) fn punch_behind(&self, offset: u64) {
        let start = (offset + SEAL_LEN).next_multiple_of(PAGE);
        let end = self.header.len / PAGE * PAGE;
        if start < end {
            // Failure is harmless: the file keeps the space.
            let _ = self.file.punch(start, end - start);
        }
    }

    /// The durable watermark: the chain is on stable storage up to this offset.
    pub(crate) fn durable_end(&self) -> u64 {
        self.file.loaded(DURABLE_END_AT, 8);
        // A word that does not decode promises nothing.
        durable_end::decode(self.salt(), self.file.mapping().load(DURABLE_END_AT, Acquire))
            .unwrap_or(0)
    }

    /// Sets the durable watermark.
    pub(crate) fn set_durable_end(&self, end: u64) {
        self.file.mapping().store(DURABLE_END_AT, durable_end::encode(self.salt(), end), Release);
        self.file.stored(DURABLE_END_AT, 8);
    }

    /// Parses the committed batch at `offset`, of `len` bytes as its link says, and checks its
    /// header, table and keys, but not its values.
    pub(crate) fn batch(&self, offset: u64, len: u64) -> Result<Batch<'_>> {
        match self.state(offset) {
            Ok(State::Committed(_)) => {}
            Ok(_) => {
                return Err(self.damage(partd_format::Error {
                    offset: offset + 8,
                    what: "state word",
                    expected: partd_format::Evidence::Text("a committed batch"),
                    found: partd_format::Evidence::Text("one that is not"),
                }));
            }
            Err(error) => return Err(self.damage(error)),
        }
        let body = offset + WORDS_LEN..offset + len;
        // SAFETY: the batch is committed, so its bytes are published: published bytes never change,
        // and a file that may be mapped never shrinks. The range excludes the words before them.
        let body = unsafe { self.file.mapping().bytes(body) };
        let batch = Batch::parse(self.salt(), offset, body).map_err(|e| self.damage(e))?;
        batch.check_sequences(self.header.output.is_some()).map_err(|e| self.damage(e))?;
        self.file.loaded(offset, batch.head_len());
        Ok(batch)
    }

    /// Returns the bytes of an extent without checking them.
    #[inline]
    pub(crate) fn value(&self, extent: &Extent) -> &[u8] {
        let (offset, len) = (extent.offset(), extent.len());
        self.file.loaded(offset, len);
        let range = offset..offset + len;
        // SAFETY: an extent comes from an entry of a committed batch in the segment in which it is
        // looked up, and covers no word that changes; published bytes never change, and a file that
        // may be mapped never shrinks.
        unsafe { self.file.mapping().bytes(range) }
    }

    /// Compares a computed checksum with that of an extent.
    #[inline]
    pub(crate) fn compare(&self, extent: &Extent, computed: u32) -> Result<()> {
        if computed == extent.checksum() {
            return Ok(());
        }
        Err(self.damage(partd_format::Error {
            offset: extent.offset(),
            what: "checksum of value",
            expected: partd_format::Evidence::Bits(extent.checksum().into()),
            found: partd_format::Evidence::Bits(computed.into()),
        }))
    }

    /// Whether the file is in memory, judged by a few samples.
    fn is_cached(&self) -> bool {
        let len = self.header.len;
        (0..len).step_by((len / CACHED_SAMPLES) as usize).all(|offset| self.file.is_cached(offset))
    }

    /// Stores to space that the caller owns alone.
    fn put(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: private to this folder; `Claim` calls it for the range that it owns, of which no slice
        // exists.
        unsafe { self.file.mapping().copy_in(offset, bytes) };
        self.file.stored(offset, bytes.len() as u64);
    }
}
