//! Reads values that are not in memory: extents are read in the order of the log, and upcoming ones
//! are requested from disk while others are copied.
//!
//! The order of the log is the order on disk, whichever keys the extents belong to. So a read of
//! many keys reads forward, with a queue as deep as the read-ahead window.

use crate::error::Result;
use crate::log::fs::DiskFile;
use crate::log::read::copy::{room_of, zeroed};
use crate::log::read::snapshot::{PIECE_BYTES, Snapshot, total};
use crate::log::segment::Segment;
use crate::log::segment::ahead::{self, Ahead, Span};
use crate::log::segment::extent::Extent;
use crate::threads::Team;

/// The number of extents that are sorted at a time. More would take memory besides the values.
const PARTS_MAX: usize = 64 << 10;
/// The maximum number of extents in one piece of work.
const PIECE_PARTS_MAX: usize = 4096;

/// An extent and the destination of its bytes; `None` if only its checksum is compared.
struct Part<'s, 'v, F> {
    segment: &'s Segment<F>,
    extent: &'s Extent,
    to: Option<&'v mut [u8]>,
}

impl<F: DiskFile> Snapshot<F> {
    /// Whether a read of the keys needs pages that are not in memory, judged by a few samples.
    pub(crate) fn is_missing(&self, keys: &[&[Extent]], bytes: u64, count: u64) -> bool {
        let Some(first) = keys.iter().find_map(|list| list.first()) else { return false };
        let lists = keys.len() as u64;
        ahead::is_missing(count as usize, bytes, |i| {
            // Extent `i` of `count`, as if all lists were equally long.
            let list = keys[(i as u64 * lists / count) as usize];
            let within = i as u64 * lists % count * list.len() as u64 / count;
            self.span(list.get(within as usize).unwrap_or(first))
        })
    }

    /// Returns the extent's position in its segment.
    #[inline]
    pub(crate) fn span(&self, extent: &Extent) -> Span<'_, F> {
        self.segment(extent).span(extent)
    }

    /// Returns the values of the keys.
    pub(super) fn gather(
        &self,
        team: Team,
        keys: &[&[Extent]],
        room: &[usize],
    ) -> Result<Vec<Vec<u8>>> {
        let empty =
            |(key, list): (usize, &&[Extent])| zeroed(total(list) as usize, room_of(room, key));
        let mut values: Vec<Vec<u8>> = keys.iter().enumerate().map(empty).collect();
        let mut rest: Vec<(&[Extent], &mut [u8])> =
            keys.iter().zip(&mut values).map(|(list, value)| (*list, &mut value[..])).collect();
        loop {
            rest.retain(|(list, _)| !list.is_empty());
            if rest.is_empty() {
                return Ok(values);
            }
            let each = (PARTS_MAX / rest.len()).max(1);
            let mut parts = Vec::with_capacity(rest.iter().map(|(l, _)| l.len().min(each)).sum());
            for (list, value) in &mut rest {
                let (now, later) = list.split_at(each.min(list.len()));
                *list = later;
                for extent in now {
                    let len = extent.len() as usize;
                    let to = value.split_off_mut(..len).unwrap_or_default();
                    parts.push(Part { segment: self.segment(extent), extent, to: Some(to) });
                }
            }
            self.read_parts(team, parts, self.release)?;
        }
    }

    /// Compares the checksums of the extents, reading ahead. With `release`, drops the pages that it
    /// fetches.
    pub(super) fn check_ahead(&self, team: Team, extents: &[&Extent], release: bool) -> Result<()> {
        for extents in extents.chunks(PARTS_MAX) {
            let part = |extent| Part { segment: self.segment(extent), extent, to: None };
            self.read_parts(team, extents.iter().copied().map(part).collect(), release)?;
        }
        Ok(())
    }

    /// Requests the extents of some keys from disk if some of them are not in memory.
    pub(crate) fn fetch_missing(&self, keys: &[&[Extent]]) {
        let bytes = keys.iter().map(|list| total(list)).sum();
        let count = keys.iter().map(|list| list.len() as u64).sum();
        if self.is_missing(keys, bytes, count) {
            let all = keys.iter().flat_map(|list| list.iter());
            let mut spans: Vec<_> = all.map(|extent| self.span(extent)).collect();
            ahead::fetch(&mut spans);
        }
    }

    /// Requests `step` extents of each key, starting at index `first`, if some of them are not in
    /// memory, judged by samples from one of the keys.
    pub(crate) fn fetch_missing_rows(&self, keys: &[&[Extent]], first: usize, step: usize) {
        let looked_at = keys.get(first / step % keys.len().max(1));
        let some = looked_at.map_or(&[][..], |list| rows(list, first, step));
        if ahead::is_missing(some.len(), total(some), |i| self.span(&some[i])) {
            let all = keys.iter().flat_map(|list| rows(list, first, step));
            let mut spans: Vec<_> = all.map(|extent| self.span(extent)).collect();
            ahead::fetch(&mut spans);
        }
    }

    fn read_parts<'s>(
        &'s self,
        team: Team,
        mut parts: Vec<Part<'s, '_, F>>,
        release: bool,
    ) -> Result<()> {
        parts.sort_unstable_by_key(|part| part.extent.position());
        let spans: Vec<_> = parts.iter().map(|part| part.segment.span(part.extent)).collect();
        let mut pieces: Vec<(u64, Vec<Part<'s, '_, F>>)> = Vec::new();
        for part in parts {
            let len = part.extent.len();
            match pieces.last_mut() {
                Some((bytes, piece)) if *bytes < PIECE_BYTES && piece.len() < PIECE_PARTS_MAX => {
                    *bytes += len;
                    piece.push(part);
                }
                _ => pieces.push((len, vec![part])),
            }
        }
        let ahead = Ahead::of_missing(spans, release);
        team.in_order(pieces, |_, (bytes, piece)| {
            ahead.begin(bytes);
            piece.into_iter().try_for_each(|part| self.read_part(team, part))
        })
    }

    fn read_part(&self, team: Team, part: Part<'_, '_, F>) -> Result<()> {
        let Part { segment, extent, to } = part;
        match to {
            Some(to) => self.copy_extent(team, segment, extent, to),
            None => segment.checked_value(extent).map(drop),
        }
    }
}

/// Returns up to `step` extents, starting at index `first`.
fn rows(list: &[Extent], first: usize, step: usize) -> &[Extent] {
    list.get(first..).map_or(&[], |list| &list[..list.len().min(step)])
}
