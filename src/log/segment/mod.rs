//! One segment file, and what can be done to it by whom.
//!
//! The types of this folder keep the safety sentence of `fs/mapping.rs`: only a [`claim::Claim`] can be stored to,
//! there is one [`claim::ActiveSegment`] per segment to make claims from, and slices are handed out for committed
//! batches alone.

#![expect(unsafe_code, reason = "published and claimed ranges are told apart here")]

pub(crate) mod ahead;
pub(crate) mod batch_writer;
pub(crate) mod chain;
pub(crate) mod claim;
pub(crate) mod extent;
pub(crate) mod outputs;
pub(crate) mod recycle;
pub(crate) mod space;
pub(crate) mod unpublished;
pub(crate) mod words;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use partd_format::batch::WORDS_LEN;
use partd_format::segment::{DURABLE_END_AT, Retained};
use partd_format::word::durable_end;
use partd_format::{Batch, Link, Salt, SegmentHeader, State};

use crate::error::{Error, ErrorKind, Result, damage};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Access, Dir, Disk, DiskFile};
use crate::log::segment::extent::Extent;

/// The unit in which disk space is given back.
const PAGE: u64 = 4096;
/// The bytes at the end of a segment's batches that are kept for the word that seals it.
pub(crate) const SEAL_LEN: u64 = 8;

/// So many bytes of a file say whether it is in memory.
const CACHED_SAMPLES: u64 = 16;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    file: F,
    /// The path of the store, for errors.
    dir: Arc<Path>,
    header: SegmentHeader,
}

impl<F: DiskFile> Segment<F> {
    /// Opens a segment and checks its header, and that it is of the store if one is given.
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
            let why = "this segment belongs to another store: files of two stores are in one directory. This one \
                       is left alone; `partd-inspect` shows which store it is of";
            return Err(Error::refused(ErrorKind::Corrupt, path(), why));
        }
        if header.id != id {
            let found = header.id;
            let why = format!("this file is segment {found:#x} of the store under another name");
            return Err(Error::refused(ErrorKind::Corrupt, path(), why));
        }
        Ok(Segment { file, dir: Arc::clone(directory.path()), header })
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

    pub(crate) fn file(&self) -> &F {
        &self.file
    }

    /// The path of the file, for errors.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(segment_name(self.header.id))
    }

    /// An error about this file.
    pub(crate) fn damage(&self, error: partd_format::Error) -> Error {
        damage(self.path(), error)
    }

    /// The error for a batch whose sequence number another batch of the store has too.
    pub(crate) fn number_used_twice(&self, offset: u64, sequence: u64) -> Error {
        self.damage(partd_format::Error {
            offset,
            what: "sequence number",
            expected: partd_format::Evidence::Text("one that no other batch has"),
            found: partd_format::Evidence::Number(sequence),
        })
    }

    /// The lists of an output: ids that it replaces, segments that it found beside it.
    pub(crate) fn lists(&self) -> Result<(Vec<u64>, Vec<Retained>)> {
        let len = self.header.data_start;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.loaded(0, len);
        self.file.mapping().copy_out(0, &mut bytes);
        let (inputs, retained) = self.header.lists(&bytes).map_err(|e| self.damage(e))?;
        Ok((inputs.collect(), retained.collect()))
    }

    /// The link word at an offset that the chain has led to.
    #[inline]
    pub(crate) fn link(&self, offset: u64) -> Result<Link, partd_format::Error> {
        if offset > self.header.len.saturating_sub(SEAL_LEN) {
            return Ok(Link::Sealed);
        }
        self.file.loaded(offset, 8);
        let word = self.file.mapping().load(offset, Acquire);
        Link::decode(self.salt(), offset, word, self.header.len)
    }

    /// The state of the batch at an offset that the chain has led to.
    #[inline]
    pub(crate) fn state(&self, offset: u64) -> Result<State, partd_format::Error> {
        self.file.loaded(offset + 8, 8);
        State::decode(self.salt(), offset, self.file.mapping().load(offset + 8, Acquire))
    }

    /// Gives a batch its sequence number, unless its state is set.
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

    /// Gives up the batch at `offset`, unless its state is set.
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

    /// Makes the batch at `offset` void whatever its state; only recovery may, which is alone.
    pub(crate) fn force_void(&self, offset: u64) -> Result<()> {
        self.write_word(offset + 8, State::Void.encode(self.salt(), offset))
    }

    /// Seals the chain at `offset`; only recovery may, which is alone.
    pub(crate) fn seal_alone(&self, offset: u64) -> Result<()> {
        if offset > self.header.len.saturating_sub(SEAL_LEN) {
            return Ok(());
        }
        self.write_word(offset, Link::Sealed.encode(self.salt(), offset))
    }

    /// Writes a word through the file: in a copy of a store it may lie in a hole, and a store into a hole of a
    /// full disk is a SIGBUS.
    fn write_word(&self, offset: u64, word: u64) -> Result<()> {
        let written = self.file.write_at(&mut [IoSlice::new(&word.to_le_bytes())], offset);
        written.map_err(|error| Error::io("write to the segment", self.path(), error))
    }

    /// Makes sure that stores to a range find disk space.
    #[inline]
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        let reserved = self.file.reserve(offset, len);
        reserved.map_err(|error| Error::io("store to the segment", self.path(), error))
    }

    /// Says that no batch will come at `offset` or behind. Only whoever owns the tail may, or
    /// whoever knows that its owner is dead.
    pub(crate) fn seal(&self, offset: u64) {
        if offset <= self.header.len.saturating_sub(SEAL_LEN) {
            let word = Link::Sealed.encode(self.salt(), offset);
            self.file.mapping().store(offset, word, Release);
            self.file.stored(offset, 8);
        }
    }

    /// Gives back the disk space behind a seal at `offset`, where nothing is ever stored again.
    pub(crate) fn punch_behind(&self, offset: u64) {
        let start = (offset + SEAL_LEN).next_multiple_of(PAGE);
        let end = self.header.len / PAGE * PAGE;
        if start < end {
            // A file system that cannot only wastes the space.
            let _ = self.file.punch(start, end - start);
        }
    }

    /// How far the chain is known to be on stable storage.
    pub(crate) fn durable_end(&self) -> u64 {
        self.file.loaded(DURABLE_END_AT, 8);
        // A note that does not parse says nothing.
        durable_end::decode(self.salt(), self.file.mapping().load(DURABLE_END_AT, Acquire))
            .unwrap_or(0)
    }

    /// Notes how far the chain is on stable storage.
    pub(crate) fn set_durable_end(&self, end: u64) {
        self.file.mapping().store(DURABLE_END_AT, durable_end::encode(self.salt(), end), Release);
        self.file.stored(DURABLE_END_AT, 8);
    }

    /// The committed batch at `offset`, of `len` bytes as its link says: header, table and keys
    /// checked, values not.
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
        // and a file that may be mapped never shrinks. The words in front of them are left out.
        let body = unsafe { self.file.mapping().bytes(body) };
        let batch = Batch::parse(self.salt(), offset, body).map_err(|e| self.damage(e))?;
        batch.check_sequences(self.header.output.is_some()).map_err(|e| self.damage(e))?;
        self.file.loaded(offset, batch.head_len());
        Ok(batch)
    }

    /// The bytes of an extent. They are not checked.
    #[inline]
    pub(crate) fn value(&self, extent: &Extent) -> &[u8] {
        let (offset, len) = (extent.offset(), extent.len());
        self.file.loaded(offset, len);
        let range = offset..offset + len;
        // SAFETY: an extent is made from an entry of a committed batch of the segment that it is
        // looked up in, and covers no word that changes; published bytes never change, and a file
        // that may be mapped never shrinks.
        unsafe { self.file.mapping().bytes(range) }
    }

    /// Holds a computed checksum against that of an extent.
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

    /// Whether the file is in memory, by a few samples.
    fn is_cached(&self) -> bool {
        let len = self.header.len;
        (0..len).step_by((len / CACHED_SAMPLES) as usize).all(|offset| self.file.is_cached(offset))
    }

    /// Stores to space that belongs to the caller alone.
    fn put(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: private to this folder; `Unpublished` calls it before the file has a name that others
        // know, and `Claim` for the range that it owns, of which nobody holds a slice.
        unsafe { self.file.mapping().copy_in(offset, bytes) };
        self.file.stored(offset, bytes.len() as u64);
    }
}
