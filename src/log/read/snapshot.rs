//! Reads of values. They are copied into vectors, with many keys or long values in parallel, or
//! lent as chunks of the mapping.
//!
//! Each value's checksum is compared, unless an option says otherwise. The thread that copies a
//! value does so while the bytes are in its cache.

use crate::Key;
use crate::error::{Error, Result};
use crate::log::fs::{Disk, DiskFile, populate};
use crate::log::options::Options;
use crate::log::read::index::Extents;
use crate::log::read::pins::Pins;
use crate::log::read::version::Version;
use crate::log::segment::Segment;
use crate::log::segment::ahead::{self, Ahead};
use crate::log::segment::extent::Extent;
use crate::log::store::Store;
use crate::threads::{self, LentPool, Team};

/// Below this many bytes in total, one thread is faster than several.
const PARALLEL_MIN_BYTES: u64 = 256 << 10;
/// Below this many bytes in memory, one thread compares checksums faster than several do: a core
/// computes 10 to 50 GB/s.
const PARALLEL_CHECK_MIN_BYTES: u64 = 8 << 20;
/// If the extents of several keys are shorter than this on average, they are read in the order of
/// the log.
const SMALL_EXTENT_BYTES: u64 = 2048;
/// Keys are read in groups. One extent of each key in a group adds up to about this many bytes.
const ROW_BYTES: u64 = 64 << 10;
/// About this many bytes are read before the first key of a group is read again: enough to read
/// forward, few enough that they and their destinations stay in the CPU cache.
const WINDOW_BYTES: u64 = 256 << 10;
/// The pages of a value are prepared for this many bytes at a time, or for an extent that is longer.
const PREPARED_BYTES: usize = 64 << 10;
/// A value longer than this is copied in pieces of about this length.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// The values of some keys at one moment. They stay readable whatever happens to the store.
#[derive(Debug)]
pub(crate) struct Snapshot<F> {
    pins: Pins<F>,
    pub(super) extents: Vec<Option<Extents>>,
    /// The `rebuilds` of the version, which says whose segment numbers the extents use.
    rebuilds: u64,
    pub(super) verify: bool,
    /// Whether a read drops the pages that it fetched from disk.
    pub(super) release: bool,
}

impl<F: DiskFile> Snapshot<F> {
    /// Creates a snapshot of some extents of a version.
    pub(crate) fn new<D: Disk<File = F>>(
        version: &Version<D>,
        extents: Vec<Option<Extents>>,
        verify: bool,
        release: bool,
    ) -> Snapshot<F> {
        let all = extents.iter().flatten().flat_map(|list| list.iter());
        let pins = Pins::new(&version.segments, all);
        Snapshot { pins, extents, rebuilds: version.rebuilds, verify, release }
    }

    /// Creates a snapshot of one key's value, whose segments are among `pins`.
    pub(super) fn of_one(
        pins: &Pins<F>,
        extents: Extents,
        verify: bool,
        release: bool,
    ) -> Snapshot<F> {
        let pins = pins.subset(extents.iter());
        // Such a snapshot is compared with no other, so the version does not matter.
        Snapshot { pins, extents: vec![Some(extents)], rebuilds: 0, verify, release }
    }

    /// Creates a snapshot of the keys' values in a version.
    pub(crate) fn of_keys<D: Disk<File = F>>(
        store: &Store<D>,
        version: &Version<D>,
        keys: &[Key],
    ) -> Snapshot<F> {
        let extents =
            |key: &Key| version.index.get(key.as_bytes()).map(|slot| slot.extents.clone());
        let Options { verify_on_read, release_after_read, .. } = store.options;
        let extents = keys.iter().map(extents).collect();
        Snapshot::new(version, extents, verify_on_read, release_after_read)
    }

    /// Fails if the values are longer in total than a read may return.
    pub(crate) fn check_read<D: Disk<File = F>>(&self, store: &Store<D>) -> Result<()> {
        match store.options.max_read_bytes {
            Some(max) if self.bytes() > max => {
                let path = store.directory.path().to_path_buf();
                Err(Error::ReadTooLarge { path, bytes: self.bytes(), max })
            }
            _ => Ok(()),
        }
    }

    /// Makes reads of the snapshot drop the pages that they fetch, for values that will not be read
    /// again.
    pub(crate) fn releasing(mut self) -> Snapshot<F> {
        self.release = true;
        self
    }

    /// Returns the bytes of all values.
    pub(crate) fn bytes(&self) -> u64 {
        self.extents.iter().flatten().map(|list| total(list)).sum()
    }

    /// Returns the extents of the first key, none if the key is missing.
    pub(super) fn extents_of_first(&self) -> &[Extent] {
        self.extents.first().and_then(|key| key.as_deref()).map_or(&[], |list| list)
    }

    /// Returns the `rebuilds` of the version that the snapshot was taken from.
    pub(super) fn rebuilds(&self) -> u64 {
        self.rebuilds
    }

    #[inline]
    pub(super) fn segment(&self, extent: &Extent) -> &Segment<F> {
        self.pins.segment(extent)
    }

    /// Returns the segment of an extent, to keep it alive beyond the snapshot.
    #[cfg(feature = "bytes")]
    pub(super) fn pinned(&self, extent: &Extent) -> &std::sync::Arc<Segment<F>> {
        self.pins.segment(extent)
    }

    /// Returns the value of each key, in a vector with `room[key]` bytes of spare capacity; an
    /// empty `room` means none.
    pub(crate) fn values(&self, pool: Option<&LentPool>, room: &[usize]) -> Result<Vec<Vec<u8>>> {
        let extents: Vec<&[Extent]> =
            self.extents.iter().map(|key| key.as_deref().map_or(&[][..], |list| list)).collect();
        let bytes: u64 = extents.iter().map(|list| total(list)).sum();
        let count: u64 = extents.iter().map(|list| list.len() as u64).sum();
        if self.is_missing(&extents, bytes, count) {
            return threads::spread_if(bytes >= PARALLEL_MIN_BYTES, pool, |team| {
                self.gather(team, &extents, room)
            });
        }
        if bytes < PARALLEL_MIN_BYTES {
            return self.side_by_side(&extents, room);
        }
        threads::spread(pool, |team| {
            if extents.len() > 1 && bytes < count * SMALL_EXTENT_BYTES {
                let group = extents.len().div_ceil(team.threads());
                let groups = extents.chunks(group).enumerate().collect();
                let groups = team.try_map(groups, |(number, keys): (usize, &[&[Extent]])| {
                    self.side_by_side(keys, room.get(number * group..).unwrap_or(&[]))
                })?;
                return Ok(groups.into_iter().flatten().collect());
            }
            let extents = extents.into_iter().enumerate().collect();
            team.try_map(extents, |(key, list)| self.value(team, list, room_of(room, key)))
        })
    }

    fn value(&self, team: Team, extents: &[Extent], room: usize) -> Result<Vec<u8>> {
        let len = total(extents);
        if len > PIECE_BYTES {
            return self.long_value(team, extents, len as usize, room);
        }
        self.fetch_missing(extents);
        let mut value = Vec::with_capacity(len as usize + room);
        extents.iter().try_for_each(|extent| self.append(extent, &mut value))?;
        Ok(value)
    }

    /// Reads the values of some keys, a few keys at a time, and a few extents of each in turn. Small
    /// values that are next to each other in the log are then read while they are in the cache, and
    /// the log is read forward.
    fn side_by_side(&self, keys: &[&[Extent]], room: &[usize]) -> Result<Vec<Vec<u8>>> {
        let empty = |(key, list): (usize, &&[Extent])| {
            Vec::with_capacity(total(list) as usize + room_of(room, key))
        };
        let mut values: Vec<_> = keys.iter().enumerate().map(empty).collect();
        let row: u64 = keys.iter().map(|list| total(list) / list.len().max(1) as u64).sum();
        let count = (ROW_BYTES * keys.len() as u64).div_ceil(row.max(1)).max(1) as usize;
        for (keys, values) in keys.chunks(count).zip(values.chunks_mut(count)) {
            self.in_turn(keys, values)?;
        }
        Ok(values)
    }

    fn in_turn(&self, keys: &[&[Extent]], values: &mut [Vec<u8>]) -> Result<()> {
        let row: u64 = keys.iter().map(|list| total(list) / list.len().max(1) as u64).sum();
        let step = (WINDOW_BYTES / row.max(1)).max(1) as usize;
        let mut unfinished: Vec<_> = keys.iter().copied().zip(values).collect();
        let mut first = 0;
        while !unfinished.is_empty() {
            self.fetch_missing_rows(keys, first, step);
            for (list, value) in &mut unfinished {
                let rows = &list[first.min(list.len())..list.len().min(first + step)];
                rows.iter().try_for_each(|extent| self.append(extent, value))?;
            }
            first += step;
            unfinished.retain(|(list, _)| list.len() > first);
        }
        Ok(())
    }

    #[inline]
    fn append(&self, extent: &Extent, value: &mut Vec<u8>) -> Result<()> {
        let segment = self.segment(extent);
        prepare(value, extent.len() as usize);
        value.extend_from_slice(segment.value(extent));
        if self.verify {
            let copied = &value[value.len() - extent.len() as usize..];
            segment.compare(extent, segment.value_checksum(copied))?;
        }
        Ok(())
    }

    /// Reads a long value in pieces that are copied in parallel.
    fn long_value(
        &self,
        team: Team,
        extents: &[Extent],
        len: usize,
        room: usize,
    ) -> Result<Vec<u8>> {
        let mut value = zeroed(len, room);
        let mut pieces = Vec::new();
        let (mut rest, mut first, mut piece_len) = (&mut value[..], 0, 0);
        for (i, extent) in extents.iter().enumerate() {
            piece_len += extent.len();
            if piece_len >= PIECE_BYTES || i + 1 == extents.len() {
                let (piece, behind) = rest.split_at_mut(piece_len as usize);
                pieces.push((&extents[first..=i], piece));
                (rest, first, piece_len) = (behind, i + 1, 0);
            }
        }
        team.try_map(pieces, |(extents, piece)| self.copy(team, extents, piece))?;
        Ok(value)
    }

    fn copy(&self, team: Team, extents: &[Extent], mut to: &mut [u8]) -> Result<()> {
        self.fetch_missing(extents);
        // Of a longer one, most is a single extent, which several threads may copy.
        if (PREPARED_BYTES..2 * PIECE_BYTES as usize).contains(&to.len()) {
            populate(to);
        }
        for extent in extents {
            let (part, behind) = to.split_at_mut(extent.len() as usize);
            to = behind;
            self.copy_extent(team, self.segment(extent), extent, part)?;
        }
        Ok(())
    }

    pub(super) fn copy_extent(
        &self,
        team: Team,
        segment: &Segment<F>,
        extent: &Extent,
        to: &mut [u8],
    ) -> Result<()> {
        let computed = if extent.len() >= 2 * PIECE_BYTES {
            self.copy_long(team, segment, extent, to)?
        } else {
            to.copy_from_slice(segment.value(extent));
            self.verify.then(|| segment.value_checksum(to))
        };
        match computed {
            Some(computed) => segment.compare(extent, computed),
            None => Ok(()),
        }
    }

    /// Copies one long extent in pieces, and combines their checksums into that of the extent.
    fn copy_long(
        &self,
        team: Team,
        segment: &Segment<F>,
        extent: &Extent,
        to: &mut [u8],
    ) -> Result<Option<u32>> {
        let (from, piece) = (segment.value(extent), PIECE_BYTES as usize);
        let count = from.len().div_ceil(piece);
        // Only the first piece's checksum starts from the salt; the others are combined with it.
        let mut hashers = vec![crc32fast::Hasher::new(); count];
        if let Some(first) = hashers.first_mut() {
            *first = segment.value_hasher();
        }
        let pieces = to.chunks_mut(piece).zip(from.chunks(piece)).zip(&mut hashers).collect();
        let ahead = Ahead::new([self.span(extent)], self.release);
        team.in_order(pieces, |_, ((to, from), hasher): ((&mut [u8], &[u8]), &mut _)| {
            ahead.begin(from.len() as u64);
            populate(to);
            to.copy_from_slice(from);
            if self.verify {
                crc32fast::Hasher::update(hasher, to);
            }
            Ok(())
        })?;
        let whole = hashers.into_iter().reduce(|mut whole, next| {
            whole.combine(&next);
            whole
        });
        Ok(whole.filter(|_| self.verify).map(crc32fast::Hasher::finalize))
    }

    /// Returns the chunks of each key's value in the mapping, after comparing their checksums.
    pub(crate) fn chunks(&self, pool: Option<&LentPool>) -> Result<Vec<Vec<&[u8]>>> {
        self.check(pool)?;
        let value = |extent: &Extent| self.segment(extent).value(extent);
        let chunks_of = |key: &Option<Extents>| {
            key.as_deref().map_or(&[][..], |list| list).iter().map(value).collect()
        };
        Ok(self.extents.iter().map(chunks_of).collect())
    }

    /// Compares the checksums of all values, unless this is turned off.
    pub(super) fn check(&self, pool: Option<&LentPool>) -> Result<()> {
        if !self.verify {
            return Ok(());
        }
        let all: Vec<&Extent> =
            self.extents.iter().flatten().flat_map(|list| list.iter()).collect();
        let bytes: u64 = all.iter().map(|extent| extent.len()).sum();
        let is_missing = ahead::is_missing(all.len(), bytes, |i| self.span(all[i]));
        let min = if is_missing { PARALLEL_MIN_BYTES } else { PARALLEL_CHECK_MIN_BYTES };
        threads::spread_if(bytes >= min, pool, |team| {
            if is_missing {
                return self.check_ahead(team, &all);
            }
            let check = |extent: &Extent| self.segment(extent).checked_value(extent).map(drop);
            team.try_map(all, check).map(drop)
        })
    }

    /// Updates values of an earlier snapshot of the same keys to this one. If a value has only
    /// grown, only its new extents are read.
    pub(crate) fn bring_up(&self, before: &Snapshot<F>, values: &mut [Vec<u8>]) -> Result<()> {
        for (key, value) in values.iter_mut().enumerate() {
            let (new, is_all) = self.since(before, key);
            if is_all {
                value.clear();
            }
            value.reserve_exact(total(new) as usize);
            self.fetch_missing(new);
            new.iter().try_for_each(|extent| self.append(extent, value))?;
        }
        Ok(())
    }

    /// Returns the bytes that [`bring_up`](Snapshot::bring_up) would read.
    pub(crate) fn new_bytes(&self, before: &Snapshot<F>) -> u64 {
        (0..self.extents.len()).map(|key| total(self.since(before, key).0)).sum()
    }

    /// Returns a key's extents that an earlier snapshot does not have, and `false`. If the value
    /// has done more than grow, returns all its extents and `true`.
    fn since<'s>(&'s self, before: &Snapshot<F>, key: usize) -> (&'s [Extent], bool) {
        let now = self.extents[key].as_deref().map_or(&[][..], |list| &list[..]);
        let then = before.extents[key].as_deref().map_or(&[][..], |list| &list[..]);
        match self.rebuilds == before.rebuilds && now.starts_with(then) {
            true => (&now[then.len()..], false),
            false => (now, true),
        }
    }
}

/// Prepares the pages of a long value before `len` bytes are appended: each time its length passes a
/// multiple of [`PREPARED_BYTES`], the pages up to the next multiple. Page faults of new memory take
/// as long as the copy itself.
#[inline]
fn prepare(value: &mut Vec<u8>, len: usize) {
    let within = value.len() % PREPARED_BYTES;
    if within == 0 || within + len > PREPARED_BYTES {
        prepare_next(value, len);
    }
}

#[cold]
fn prepare_next(value: &mut Vec<u8>, len: usize) {
    let next = value.len().next_multiple_of(PREPARED_BYTES);
    let end = value.len() + len.min(PIECE_BYTES as usize);
    let end = end.next_multiple_of(PREPARED_BYTES).min(value.capacity());
    if next < end && value.capacity() >= PREPARED_BYTES {
        let skip = next - value.len();
        let len = end - next;
        populate(&mut value.spare_capacity_mut()[skip..skip + len]);
    }
}

/// Returns fresh zeroed memory, whose pages are not touched yet.
pub(super) fn zeroed(len: usize, room: usize) -> Vec<u8> {
    let mut bytes = vec![0; len + room];
    bytes.truncate(len);
    bytes
}

/// The spare capacity to reserve for a key.
pub(super) fn room_of(room: &[usize], key: usize) -> usize {
    room.get(key).copied().unwrap_or(0)
}

pub(super) fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(Extent::len).sum()
}
