//! Copies values into vectors, with many keys or long values in parallel.
//!
//! The thread that copies a value compares its checksum while the bytes are in its cache.

use std::hint::black_box;
use std::ops::Range;

use crate::error::Result;
use crate::log::fs::{DiskFile, populate};
use crate::log::read::snapshot::{PARALLEL_MIN_BYTES, PIECE_BYTES, Snapshot, total};
use crate::log::segment::Segment;
use crate::log::segment::ahead::Ahead;
use crate::log::segment::extent::Extent;
use crate::threads::{self, LentPool, Team};

/// About this many bytes are read before the first key of a group is read again: enough to read
/// forward, few enough that they and their destinations stay in the CPU cache.
const WINDOW_BYTES: u64 = 256 << 10;
/// If the extents of several keys are shorter than this on average, they are read in the order of
/// the log.
const SMALL_EXTENT_BYTES: u64 = 2048;
/// Keys are read in groups. One extent of each key in a group adds up to about this many bytes.
const ROW_BYTES: u64 = 64 << 10;
/// Longer values are read one after another. A thread takes the keys of about this many bytes at a time.
const GROUP_BYTES: u64 = 256 << 10;
/// The pages of a value are prepared for this many bytes at a time, or for an extent that is longer.
const PREPARED_BYTES: usize = 64 << 10;
/// The heap is extended by this many bytes at a time: well below 128 KiB, from which glibc maps a block
/// apart, and gives back the free end of a heap.
const HEAP_BYTES: usize = 60 << 10;

impl<F: DiskFile> Snapshot<F> {
    /// Returns the value of each key, in a vector with `room[key]` bytes of spare capacity; an
    /// empty `room` means none.
    pub(crate) fn values(&self, pool: Option<&LentPool>, room: &[usize]) -> Result<Vec<Vec<u8>>> {
        let extents: Vec<&[Extent]> = self.lists().collect();
        let bytes: u64 = extents.iter().map(|list| total(list)).sum();
        let count: u64 = extents.iter().map(|list| list.len() as u64).sum();
        if self.is_missing(&extents, bytes, count) {
            return threads::spread_if(bytes >= PARALLEL_MIN_BYTES, pool, |team| {
                self.gather(team, &extents, room)
            });
        }
        let lens: Vec<u64> = extents.iter().map(|list| total(list)).collect();
        let is_small =
            bytes < PARALLEL_MIN_BYTES || extents.len() > 1 && bytes < count * SMALL_EXTENT_BYTES;
        let allocate = |keys: Range<usize>, values: &mut [Vec<u8>], mut heap: Heap| {
            for (key, value) in keys.zip(values) {
                // `long_value` makes its own vector.
                if is_small || lens[key] <= PIECE_BYTES {
                    *value = heap.vector(lens[key] as usize + room_of(room, key));
                }
            }
        };
        let (all, mut values) = (0..lens.len(), vec![Vec::new(); lens.len()]);
        if bytes < PARALLEL_MIN_BYTES {
            allocate(all, &mut values, Heap::Plain);
            self.side_by_side(&extents, &mut values)?;
            return Ok(values);
        }
        if !is_small {
            // Threads that allocate and copy in turn wait for each other in the kernel.
            allocate(all, &mut values, Heap::extended(1));
        }
        threads::spread(pool, |team| {
            let groups = match is_small {
                true => evenly(lens.len(), team.threads()),
                false => groups_of(&lens),
            };
            let (mut parts, mut rest) = (Vec::new(), &mut values[..]);
            for keys in groups {
                let (values, behind) = rest.split_at_mut(keys.len());
                parts.push((keys, values));
                rest = behind;
            }
            team.in_order(parts, |_, (keys, values): (Range<usize>, &mut [_])| {
                let lists = &extents[keys.clone()];
                match (lists, &mut *values) {
                    _ if is_small => {
                        allocate(keys, values, Heap::extended(team.threads()));
                        self.side_by_side(lists, values)
                    }
                    ([list], [value]) if lens[keys.start] > PIECE_BYTES => {
                        let (len, room) = (lens[keys.start] as usize, room_of(room, keys.start));
                        *value = self.long_value(team, list, len, room)?;
                        Ok(())
                    }
                    (lists, values) => self.one_by_one(lists, values),
                }
            })
        })?;
        Ok(values)
    }

    /// Reads the values of some keys, one after another.
    fn one_by_one(&self, keys: &[&[Extent]], values: &mut [Vec<u8>]) -> Result<()> {
        self.fetch_missing(keys);
        for (list, value) in keys.iter().zip(values) {
            list.iter().try_for_each(|extent| self.append(extent, value))?;
        }
        Ok(())
    }

    /// Reads the values of some keys, a few keys at a time, and a few extents of each in turn. Small
    /// values that are next to each other in the log are then read while they are in the cache, and
    /// the log is read forward.
    fn side_by_side(&self, keys: &[&[Extent]], values: &mut [Vec<u8>]) -> Result<()> {
        let row: u64 = keys.iter().map(|list| total(list) / list.len().max(1) as u64).sum();
        let count = (ROW_BYTES * keys.len() as u64).div_ceil(row.max(1)).max(1) as usize;
        for (keys, values) in keys.chunks(count).zip(values.chunks_mut(count)) {
            self.in_turn(keys, values)?;
        }
        Ok(())
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
    pub(super) fn append(&self, extent: &Extent, value: &mut Vec<u8>) -> Result<()> {
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
        self.fetch_missing(&[extents]);
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
}

/// Allocates the vectors of many values.
///
/// glibc extends the heap of any thread but the main one by only the pages that a vector needs, each time
/// with `mprotect`, which waits for other changes of the address space. So this allocates a longer block
/// now and then, and frees it: the heap stays extended. With another allocator, such a block costs little.
enum Heap {
    /// Vectors are allocated one by one.
    Plain,
    Extended {
        /// The bytes by which the heap was extended and that are not used yet.
        ready: usize,
        /// Whether the new pages are prepared too. Threads that do so at the same time wait for each
        /// other.
        populates: bool,
    },
}

impl Heap {
    /// Extends the heap ahead of the vectors. Each of `threads` threads has one.
    fn extended(threads: usize) -> Heap {
        Heap::Extended { ready: 0, populates: threads == 1 }
    }

    /// Allocates a vector.
    fn vector(&mut self, size: usize) -> Vec<u8> {
        if let Heap::Extended { ready, populates } = self {
            // With its header, a block takes a multiple of 16 bytes, at least 32.
            let taken = if size == 0 { 0 } else { (size + 8).next_multiple_of(16).max(32) };
            if *ready < taken && taken < HEAP_BYTES / 4 {
                let mut block = Vec::<u8>::new();
                if block.try_reserve_exact(HEAP_BYTES).is_ok() && *populates {
                    populate(block.spare_capacity_mut());
                }
                drop(black_box(block));
                *ready = HEAP_BYTES;
            }
            *ready = ready.saturating_sub(taken);
        }
        Vec::with_capacity(size)
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

/// Divides keys into at most `count` groups with the same number of keys.
fn evenly(keys: usize, count: usize) -> Vec<Range<usize>> {
    let some = keys.div_ceil(count).max(1);
    (0..keys).step_by(some).map(|first| first..keys.min(first + some)).collect()
}

/// Divides keys with values of these lengths into groups of about [`GROUP_BYTES`]. A value longer than
/// [`PIECE_BYTES`] is a group of its own.
fn groups_of(lens: &[u64]) -> Vec<Range<usize>> {
    let (mut groups, mut bytes) = (Vec::<Range<usize>>::new(), 0);
    for (key, &len) in lens.iter().enumerate() {
        match groups.last_mut() {
            Some(last) if bytes < GROUP_BYTES && len <= PIECE_BYTES => last.end += 1,
            _ => {
                groups.push(key..key + 1);
                bytes = 0;
            }
        }
        bytes += len;
    }
    groups
}

/// The spare capacity to reserve for a key.
pub(super) fn room_of(room: &[usize], key: usize) -> usize {
    room.get(key).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_is_extended_for_short_vectors_only_and_once_for_many() {
        let ready = |heap: &Heap| match heap {
            Heap::Plain => None,
            Heap::Extended { ready, .. } => Some(*ready),
        };
        for threads in [1, 2] {
            let mut heap = Heap::extended(threads);
            for (size, left) in [
                (0, 0),
                (HEAP_BYTES / 4, 0),
                (1, HEAP_BYTES - 32),
                (100, HEAP_BYTES - 32 - 112),
                (40_000, HEAP_BYTES - 32 - 112 - 40_016),
                (60_000, 0),
                (24, HEAP_BYTES - 32),
            ] {
                let vector = heap.vector(size);
                assert!(vector.is_empty() && vector.capacity() >= size);
                assert_eq!(ready(&heap), Some(left), "{size}");
            }
        }
        let mut plain = Heap::Plain;
        assert!(plain.vector(100).capacity() >= 100 && ready(&plain).is_none());
    }

    #[test]
    fn groups_cover_every_key_once_and_a_long_value_is_alone_in_its_group() {
        let long = PIECE_BYTES + 1;
        for lens in [
            vec![],
            vec![0],
            vec![long, long],
            vec![1, long, 1, 1, long],
            vec![GROUP_BYTES - 1, 1, 1, PIECE_BYTES, 0, 0],
            vec![100; 10_000],
        ] {
            let groups = groups_of(&lens);
            let keys: Vec<usize> = groups.iter().cloned().flatten().collect();
            assert!(keys.iter().copied().eq(0..lens.len()), "{groups:?}");
            for group in groups {
                let (last, others) = lens[group].split_last().unwrap();
                assert!(others.iter().sum::<u64>() < GROUP_BYTES);
                assert!(
                    others.iter().all(|&len| len < long) && (others.is_empty() || *last < long)
                );
            }
            for count in [1, 2, 3, 64] {
                let groups = evenly(lens.len(), count);
                assert!(groups.len() <= count);
                assert!(groups.into_iter().flatten().eq(0..lens.len()));
            }
        }
    }
}
