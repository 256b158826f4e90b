//! A reader of one value: `Read`, `BufRead` and `Seek` over the mapped segments.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::read::sequential::{Place, Sequential};
use crate::log::read::snapshot::{Snapshot, total};
use crate::log::segment::ahead::{AHEAD_BYTES, Ahead};
use crate::log::segment::extent::Extent;
use crate::log::seq::Seq;

/// The most bytes that one call of `fill_buf` returns.
const PIECE_BYTES: u64 = 1 << 20;
/// The fewest bytes that are made ready at a time.
const PAGE_BYTES: u64 = 4096;
/// The check of an extent up to this length needs no read-ahead of its own.
const SHORT_BYTES: u64 = 64 << 10;

/// A key's value as a stream of bytes.
///
/// Created by [`SegmentLog::reader`](crate::SegmentLog::reader). The reader shows the value as it
/// was at that moment, and stays valid whatever is appended, deleted or compacted meanwhile, also
/// after the handle is dropped. [`fill_buf`](BufRead::fill_buf) lends bytes of the mapping, so
/// reading needs no buffer beside those of the caller, however long the value is.
///
/// The store reads each append as one piece, with one checksum; a
/// [compaction](crate::SegmentLog::compact) joins neighbouring pieces. The reader compares the checksum of a whole piece before it returns the first byte
/// of it. A damaged piece is an error of kind [`InvalidData`](io::ErrorKind::InvalidData), and the
/// bytes before it can be read. The error converts back: its [`get_ref`](io::Error::get_ref) is the
/// [`Error`](crate::Error) with the file and the offset.
///
/// Bytes that are not in memory are requested from disk up to 8 MiB ahead of the reader. After a
/// jump, it requests little at first, and more the longer it is read in order.
///
/// ```
/// use std::io::{BufRead, Read, Seek, SeekFrom};
/// use partd::{Partd, SegmentLog};
/// let p = SegmentLog::temporary()?;
/// p.append([("x", "one line\n"), ("x", "another\n")])?;
/// let mut reader = p.reader("x")?;
/// let mut line = String::new();
/// reader.read_line(&mut line)?;
/// assert_eq!(line, "one line\n");
///
/// // A value read once is a prefix of what is read later, so a position stays valid.
/// let position = reader.stream_position()?;
/// p.append([("x", "more\n")])?;
/// p.compact()?;
/// let mut reader = p.reader("x")?;
/// reader.seek(SeekFrom::Start(position))?;
/// let mut rest = String::new();
/// reader.read_to_string(&mut rest)?;
/// assert_eq!(rest, "another\nmore\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ValueReader<D: Disk = OsDisk> {
    snapshot: Snapshot<D::File>,
    len: u64,
    place: Place,
    /// How many bytes at `place` are checked and requested, so that they can be returned.
    ready: u64,
    /// The position at which each extent starts. Made at the first jump to another extent.
    starts: Vec<u64>,
    ahead: Sequential,
    /// A bit for each extent whose checksum was compared.
    checked: Vec<u64>,
    /// Whether a checksum is computed while its bytes are returned, and how far.
    as_read: bool,
    partial: Option<Partial>,
}

/// The checksum of the first bytes of an extent.
struct Partial {
    extent: usize,
    len: u64,
    hasher: crc32fast::Hasher,
}

impl<D: Disk> ValueReader<D> {
    pub(crate) fn new(snapshot: Snapshot<D::File>) -> ValueReader<D> {
        let extents = snapshot.extents_of_first();
        ValueReader {
            len: total(extents),
            place: Place::default(),
            ready: 0,
            starts: Vec::new(),
            ahead: Sequential::new(),
            checked: vec![0; extents.len().div_ceil(64)],
            as_read: false,
            partial: None,
            snapshot,
        }
    }

    /// Creates a reader of bytes whose checksums were already compared.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_checked(mut snapshot: Snapshot<D::File>) -> ValueReader<D> {
        snapshot.verify = false;
        ValueReader::new(snapshot)
    }

    /// The path of the segment with the first byte, for errors.
    #[cfg(feature = "tokio")]
    pub(crate) fn path(&self) -> std::path::PathBuf {
        let first = self.snapshot.extents_of_first().first();
        first.map(|extent| self.snapshot.segment(extent).path()).unwrap_or_default()
    }

    /// Makes the reader compare the checksum of a piece when it returns its last bytes, not before
    /// the first.
    ///
    /// A piece longer than memory is then read from disk once instead of twice. In exchange, the
    /// bytes that come before an error may be wrong, so use them only once the reader has reached
    /// the end of the value. After a jump into the middle of a piece, the reader checks the whole
    /// piece first.
    #[must_use]
    pub fn check_as_read(mut self) -> ValueReader<D> {
        self.as_read = true;
        self
    }

    /// Makes the reader release the pages that it fetched from disk, some MiB behind its position.
    /// Pages that were in memory before stay.
    ///
    /// [`Options::release_after_read`](crate::Options::release_after_read) sets it for all reads of a
    /// handle.
    #[must_use]
    pub fn release_behind(mut self) -> ValueReader<D> {
        self.snapshot.release = true;
        self
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the position of the next byte, from the start of the value.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.place.at
    }

    /// Returns the sequence number of the batch with which the value began; `None` if the key is
    /// missing.
    ///
    /// It stays the same while the value grows and is compacted. If the key was deleted and written
    /// anew, it is greater. A position is valid in a later reader only if both have the same
    /// number.
    #[must_use]
    pub fn began(&self) -> Option<Seq> {
        self.snapshot.extents_of_first().first().map(|extent| Seq::from(extent.sequence()))
    }

    /// Returns the position that a seek leads to, from position `at` in a value of `len` bytes.
    pub(crate) fn target(to: SeekFrom, at: u64, len: u64) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (len, by),
            SeekFrom::Current(by) => (at, by),
        };
        from.checked_add_signed(by).ok_or_else(|| {
            let why = format!("a seek by {by} bytes from byte {from} leads out of the value");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })
    }

    /// Moves to a position, which may lie behind the end of the value.
    pub(crate) fn move_to(&mut self, at: u64) {
        let from = self.place;
        let to = self.place_of(at);
        if to.extent == from.extent && (from.at..=from.at + self.ready).contains(&at) {
            self.ready -= at - from.at;
        } else {
            self.ready = 0;
            self.ahead.jump(&self.snapshot, from, to);
        }
        self.place = to;
    }

    fn place_of(&mut self, at: u64) -> Place {
        let (extents, now) = (self.snapshot.extents_of_first(), self.place);
        if at >= self.len {
            return Place { at, extent: extents.len(), within: 0 };
        }
        let start = now.at - now.within;
        if extents.get(now.extent).is_some_and(|e| (start..start + e.len()).contains(&at)) {
            return Place { at, within: at - start, ..now };
        }
        if self.starts.is_empty() {
            let mut end = 0;
            let start = |extent: &Extent| {
                end += extent.len();
                end - extent.len()
            };
            self.starts = extents.iter().map(start).collect();
        }
        let extent = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        Place { at, extent, within: at - self.starts[extent] }
    }

    /// Returns bytes at the position, about `wanted` of them or those that are ready; none at the
    /// end of the value.
    pub(crate) fn fill(&mut self, wanted: u64) -> Result<&[u8]> {
        let extents = self.snapshot.extents_of_first();
        let Some(&extent) = self.place.settle(extents) else { return Ok(&[]) };
        if self.ready == 0 {
            let rest = extent.len() - self.place.within;
            let len = rest.min(wanted.clamp(PAGE_BYTES, PIECE_BYTES));
            let needed = if self.is_checked() { len } else { rest.min(AHEAD_BYTES) };
            self.ahead.begin(&self.snapshot, self.place, needed);
            self.check(&extent, len)?;
            self.ready = len;
        }
        let value = self.snapshot.segment(&extent).value(&extent);
        Ok(&value[self.place.within as usize..][..self.ready as usize])
    }

    /// Whether the extent at the position needs no check any more.
    fn is_checked(&self) -> bool {
        let number = self.place.extent;
        !self.snapshot.verify || self.checked[number / 64] >> (number % 64) & 1 == 1
    }

    /// Compares the checksum of the extent at the position, of which `len` bytes are about to be
    /// returned.
    fn check(&mut self, extent: &Extent, len: u64) -> Result<()> {
        if self.is_checked() {
            return Ok(());
        }
        let Place { extent: number, within, .. } = self.place;
        let segment = self.snapshot.segment(extent);
        let partial = self.partial.take().filter(|p| (p.extent, p.len) == (number, within));
        let begins = || Partial { extent: number, len: 0, hasher: segment.salt().value_hasher() };
        let partial = partial.or_else(|| (within == 0).then(begins));
        let hasher = match partial.filter(|_| self.as_read) {
            Some(mut partial) => {
                let bytes = &segment.value(extent)[within as usize..][..len as usize];
                partial.hasher.update(bytes);
                partial.len += len;
                if partial.len < extent.len() {
                    self.partial = Some(partial);
                    return Ok(());
                }
                partial.hasher
            }
            None if extent.len() <= SHORT_BYTES => {
                let mut hasher = segment.salt().value_hasher();
                hasher.update(segment.value(extent));
                hasher
            }
            None => {
                // A long extent does not stay in memory until it is returned, so its pages can be
                // released at once.
                let release = self.snapshot.release && extent.len() > AHEAD_BYTES;
                let ahead = Ahead::new([self.snapshot.span(extent)], release);
                let mut hasher = segment.salt().value_hasher();
                for piece in segment.value(extent).chunks(PIECE_BYTES as usize) {
                    ahead.begin(piece.len() as u64);
                    hasher.update(piece);
                }
                hasher
            }
        };
        segment.compare(extent, hasher.finalize())?;
        self.checked[number / 64] |= 1 << (number % 64);
        Ok(())
    }
}

impl<D: Disk> Read for ValueReader<D> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        // Pieces may be much shorter than the buffer.
        while done < to.len() {
            let wanted = (to.len() - done) as u64;
            let bytes = match self.fill(wanted) {
                Ok([]) => break,
                Ok(bytes) => bytes,
                // The next call returns it.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            };
            let len = bytes.len().min(to.len() - done);
            to[done..done + len].copy_from_slice(&bytes[..len]);
            self.consume(len);
            done += len;
        }
        Ok(done)
    }

    fn read_to_end(&mut self, to: &mut Vec<u8>) -> io::Result<usize> {
        let before = to.len();
        to.try_reserve(self.len.saturating_sub(self.place.at) as usize)?;
        loop {
            let bytes = self.fill(PIECE_BYTES)?;
            if bytes.is_empty() {
                return Ok(to.len() - before);
            }
            to.extend_from_slice(bytes);
            let len = bytes.len();
            self.consume(len);
        }
    }
}

impl<D: Disk> BufRead for ValueReader<D> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.fill(PIECE_BYTES)?)
    }

    fn consume(&mut self, len: usize) {
        // More than was lent is a bug of the caller, for which the trait leaves the effect open.
        let len = (len as u64).min(self.ready);
        self.place.advance(len);
        self.ready -= len;
    }
}

impl<D: Disk> Seek for ValueReader<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = ValueReader::<D>::target(to, self.place.at, self.len)?;
        self.move_to(at);
        Ok(at)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.place.at)
    }
}

impl<D: Disk> Drop for ValueReader<D> {
    fn drop(&mut self) {
        self.ahead.release_before(&self.snapshot, u64::MAX);
    }
}

impl<D: Disk> fmt::Debug for ValueReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reader = f.debug_struct("ValueReader");
        reader.field("position", &self.place.at).field("len", &self.len).finish_non_exhaustive()
    }
}
