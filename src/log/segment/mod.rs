//! One segment file: made, opened, walked, and read; and the space in it that a writer owns.
//!
//! The types here keep the safety sentence of [`mapping`]: only a [`Claim`] can be stored to, there
//! is one [`ActiveSegment`] per segment to make claims from, and slices are handed out for committed batches
//! alone.

#![expect(unsafe_code, reason = "published and claimed ranges are told apart here")]

pub(crate) mod ahead;
pub(crate) mod outputs;
pub(crate) mod recycle;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use partd_format::batch::WORDS_LEN;
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, Retained, lists_checksum};
use partd_format::word::{STATE_AT, durable_end};
use partd_format::{Batch, Entry, Link, Salt, SegmentHeader, State};

use crate::error::{Error, ErrorKind, Result, damage};
use crate::log::fs::directory::Directory;
use crate::log::fs::names::segment_name;
use crate::log::fs::{Access, Dir, Disk, DiskFile, FileId};
use crate::log::segment::ahead::{Ahead, Span};

/// The unit in which disk space is given back.
const PAGE: u64 = 4096;
/// The bytes at the end of a segment's batches that are kept for the word that seals it.
pub(crate) const SEAL_LEN: u64 = 8;

/// For a claim of fewer pages, a fault for each is as quick as a call for all.
const POPULATE_MIN_BYTES: u64 = 16 << 10;
/// So many bytes of a file say whether it is in memory.
const CACHED_SAMPLES: u64 = 16;

/// A long value is read in pieces of so many bytes.
const LONG_PIECE_BYTES: usize = 1 << 20;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    file: F,
    /// The path of the store, for errors.
    dir: Arc<Path>,
    header: SegmentHeader,
}

/// Where an entry's value lies, the number of its batch, and the checksum that it must have.
///
/// Packed into 24 bytes, since there is one for each entry of the log:
/// `segment:20 | offset:44`, `len:44 | sequence's top 20`, `sequence's low 32 | checksum:32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent([u64; 3]);

/// The segments that a picture can number.
pub(crate) const SEGMENT_NUMBERS: usize = 1 << 20;
const OFFSET_BITS: u32 = 44;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const _: () = assert!(partd_format::word::BATCH_LEN_MAX <= OFFSET_MASK);
const _: () = assert!(partd_format::SEQUENCE_MAX >> 32 < 1 << 20);

impl Extent {
    /// The extent of an entry of a committed batch; `segment` is the picture's number for it.
    #[inline]
    pub(crate) fn of(entry: &Entry<'_>, segment: u32, sequence: u64) -> Extent {
        Extent([
            u64::from(segment) << OFFSET_BITS | entry.value_offset & OFFSET_MASK,
            entry.value_len | sequence >> 32 << OFFSET_BITS,
            sequence << 32 | u64::from(entry.value_checksum),
        ])
    }

    /// The length of the value in bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.0[1] & OFFSET_MASK
    }

    /// Where the value begins in its segment.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.0[0] & OFFSET_MASK
    }

    /// The order in which extents of one picture lie: by segment, then by offset.
    #[inline]
    pub(crate) fn place(&self) -> u64 {
        self.0[0]
    }

    /// The picture's number for the segment.
    #[inline]
    pub(crate) fn segment(&self) -> u32 {
        (self.0[0] >> OFFSET_BITS) as u32
    }

    /// The sequence number of the batch.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        self.0[1] >> OFFSET_BITS << 32 | self.0[2] >> 32
    }

    /// The checksum that the value must have.
    #[inline]
    pub(crate) fn checksum(&self) -> u32 {
        self.0[2] as u32
    }
}

/// What a new segment is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSegment<'a> {
    pub(crate) store: [u8; 16],
    /// The slot of the writer that makes it.
    pub(crate) slot: u16,
    /// For the output of a compaction: `max_seq`, the ids that it replaces, and what it found beside.
    pub(crate) output: Option<(u64, &'a [u64], &'a [Retained])>,
}

/// A segment under a temporary name, not yet part of the store.
#[derive(Debug)]
pub(crate) struct Unpublished<'s, D: Disk> {
    directory: &'s Directory<D>,
    temporary: Option<String>,
    file: Option<D::File>,
    id: FileId,
    salt: Salt,
    is_recycled: bool,
}

impl<'s, D: Disk> Unpublished<'s, D> {
    /// Makes and allocates a file of that name. What a dead maker of the name has left behind goes.
    pub(crate) fn create(
        directory: &'s Directory<D>,
        name: &str,
        len: u64,
        uuid: &[u8; 16],
    ) -> Result<Unpublished<'s, D>> {
        let file = directory.create_anew(name, len, Some(uuid))?;
        Unpublished::of_file(directory, name.to_owned(), file, false)
    }

    /// Takes a file that this process alone knows: the reserve of the store, or a recycled segment.
    pub(crate) fn of_file(
        directory: &'s Directory<D>,
        name: String,
        file: D::File,
        is_recycled: bool,
    ) -> Result<Unpublished<'s, D>> {
        let salt = Salt(u64::from_le_bytes(directory.random()?));
        let (id, temporary, file) = (file.id(), Some(name), Some(file));
        Ok(Unpublished { directory, temporary, file, id, salt, is_recycled })
    }

    /// Writes the header, and returns the space behind it; nobody else knows of it yet.
    pub(crate) fn begin(
        &mut self,
        id: u64,
        new: &NewSegment<'_>,
    ) -> Result<ActiveSegment<D::File>> {
        let mut lists = Vec::new();
        if let Some((_, inputs, retained)) = new.output {
            lists.extend(inputs.iter().flat_map(|id| id.to_le_bytes()));
            for keep in retained {
                lists.extend(keep.id.to_le_bytes());
                lists.extend(keep.end.to_le_bytes());
            }
        }
        let Some(file) = self.file.take() else {
            return Err(Error::Invalid("a segment was begun twice".into()));
        };
        let header = SegmentHeader {
            store: new.store,
            id,
            len: file.mapping().len(),
            salt: self.salt,
            output: new.output.map(|(max_seq, inputs, retained)| partd_format::segment::Output {
                max_seq,
                inputs: inputs.len() as u32,
                retained: retained.len() as u32,
                lists_checksum: lists_checksum(self.salt, &lists),
            }),
            data_start: HEADER_LEN + lists.len() as u64,
            created_unix_ms: self.directory.disk.now_unix_ms(),
            pid: std::process::id(),
            slot: new.slot.into(),
        };
        let offset = header.data_start;
        let segment = Segment { file, dir: Arc::clone(self.directory.path()), header };
        segment.reserve(0, offset)?;
        segment.put(0, &header.encode());
        segment.put(HEADER_LEN, &lists);
        let has_pages = self.is_recycled && segment.is_cached();
        Ok(ActiveSegment {
            offset,
            segment: Arc::new(segment),
            is_recycled: self.is_recycled,
            has_pages,
        })
    }

    /// Gives the file its name; from then on others find it.
    pub(crate) fn publish(mut self, id: u64) -> Result<()> {
        if let Some(temporary) = self.temporary.take() {
            let name = segment_name(id);
            self.directory.dir.rename(&temporary, &name).map_err(|source| {
                self.temporary = Some(temporary);
                self.directory.error("publish the segment", &name, source)
            })?;
        }
        Ok(())
    }
}

impl<D: Disk> Drop for Unpublished<'_, D> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Left behind, it would be removed by the next recovery.
            let _ = self.directory.unlink_mapped(temporary, self.id);
        }
    }
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

    /// The bytes of an extent whose checksum holds.
    pub(crate) fn checked_value(&self, extent: &Extent) -> Result<&[u8]> {
        let bytes = self.value(extent);
        let mut hasher = self.salt().value_hasher();
        if extent.len() <= 2 * LONG_PIECE_BYTES as u64 {
            hasher.update(bytes);
        } else {
            let ahead = Ahead::new([self.span(extent)], false);
            for piece in bytes.chunks(LONG_PIECE_BYTES) {
                ahead.begin(piece.len() as u64);
                hasher.update(piece);
            }
        }
        self.compare(extent, hasher.finalize())?;
        Ok(bytes)
    }

    /// Where an extent lies.
    #[inline]
    pub(crate) fn span(&self, extent: &Extent) -> Span<'_, F> {
        Span { segment: self, offset: extent.offset(), len: extent.len() }
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
        // SAFETY: private to this file; `publish` calls it before the file has a name that others
        // know, and `Claim` for the range that it owns, of which nobody holds a slice.
        unsafe { self.file.mapping().copy_in(offset, bytes) };
        self.file.stored(offset, bytes.len() as u64);
    }
}

/// The end of a segment's batches, and the right to add more: there is one for each segment.
#[derive(Debug)]
pub(crate) struct ActiveSegment<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    /// Whether bytes of the file's earlier life lie behind `offset`, and not zeros.
    is_recycled: bool,
    /// Whether these are in memory.
    has_pages: bool,
}

impl<F: DiskFile> ActiveSegment<F> {
    pub(crate) fn segment(&self) -> &Arc<Segment<F>> {
        &self.segment
    }

    /// The bytes that a batch can still have, with room left for the seal.
    pub(crate) fn room(&self) -> u64 {
        (self.segment.header.len & !7).saturating_sub(self.offset + SEAL_LEN)
    }

    /// Claims space for a batch of `len` bytes, a multiple of 8 within [`room`](Self::room), and
    /// links it into the chain. `None` if there is no room.
    pub(crate) fn claim(&mut self, len: u64) -> Result<Option<Claim<F>>> {
        if len > self.room() {
            return Ok(None);
        }
        let (offset, next) = (self.offset, self.offset + len);
        self.segment.reserve(offset, WORDS_LEN)?;
        if self.is_recycled {
            self.segment.reserve(next, 8)?;
        }
        if self.is_recycled {
            // The batch must begin as pending, and the chain end behind it, before it is linked.
            for word in [offset + STATE_AT, next] {
                self.segment.file.mapping().store(word, 0, Release);
                self.segment.file.stored(word, 8);
            }
        }
        let word = Link::Batch(len).encode(self.segment.salt(), offset);
        self.segment.file.mapping().store(offset, word, Release);
        self.segment.file.stored(offset, 8);
        self.offset = next;
        let segment = Arc::clone(&self.segment);
        Ok(Some(Claim { segment, offset, len, has_pages: self.has_pages }))
    }

    /// Ends the segment, and gives back the space behind its batches.
    pub(crate) fn close(self) {
        self.segment.file().mapping().expect_random_reads();
        // Where there is no space for the word, the end stays open: whoever takes over the slot seals it.
        if self.segment.reserve(self.offset & !7, SEAL_LEN).is_ok() {
            self.segment.seal(self.offset);
            self.segment.punch_behind(self.offset);
        }
    }
}

/// Space for one batch that belongs to its owner alone until the batch is committed.
#[derive(Debug)]
pub(crate) struct Claim<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    len: u64,
    has_pages: bool,
}

impl<F: DiskFile> Claim<F> {
    pub(crate) fn segment(&self) -> &Arc<Segment<F>> {
        &self.segment
    }

    /// Where the batch begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether `len` bytes at `at`, counted from the link word, lie in the claim behind the words.
    fn covers(&self, at: u64, len: u64) -> bool {
        at >= WORDS_LEN && at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Whether its pages hold bytes of the file's earlier life and are in memory, so that stores
    /// through the mapping need neither zeros nor the disk.
    pub(crate) fn has_pages(&self) -> bool {
        self.has_pages
    }

    /// Makes its pages ready to be stored to, where they are many, or where a store may need disk space.
    pub(crate) fn populate(&self) -> io::Result<()> {
        if self.len >= POPULATE_MIN_BYTES {
            self.segment.file.mapping().populate(self.offset, self.len);
        }
        self.segment.file.reserve(self.offset, self.len)
    }

    /// Makes sure that the words of the batch can be stored to.
    #[inline]
    pub(crate) fn reserve_words(&self) -> Result<()> {
        self.segment.reserve(self.offset, WORDS_LEN)
    }

    /// Copies bytes to `at`, counted from the link word, through the mapping.
    #[inline]
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.covers(at, bytes.len() as u64), "outside of the claim");
        self.segment.put(self.offset + at, bytes);
    }

    /// Writes buffers to `at`, counted from the link word, through the file: cheaper for fresh
    /// pages, which a mapping would first fill with zeros.
    pub(crate) fn write(&mut self, at: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        assert!(self.covers(at, len), "outside of the claim");
        self.segment.file.write_at(buffers, self.offset + at)
    }

    /// Gives the claim up; readers pass over it.
    pub(crate) fn void(&self) {
        // Without space for the word the batch stays pending, which readers pass over too.
        if self.reserve_words().is_ok() {
            self.segment.void(self.offset);
        }
    }
}
