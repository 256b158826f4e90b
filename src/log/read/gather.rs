//! Values that are not in memory: their extents in the order of the log, with those to come asked of the disk
//! while some are copied.
//!
//! The order of the log is the order of the disk, whatever keys the extents belong to: many keys together are read
//! forward, with a queue as deep as the window.

use super::{PIECE_BYTES, Snapshot, total};
use crate::error::Result;
use crate::log::disk::DiskFile;
use crate::log::segment::ahead::{self, Ahead, Span};
use crate::log::segment::{Extent, Segment};
use crate::threads::Team;

/// Extents that are brought into order at a time: more take memory beside the values.
const PARTS_MAX: usize = 64 << 10;
/// Extents that one piece of work has, at most.
const PIECE_PARTS_MAX: usize = 4096;

/// An extent, and where its bytes go; nowhere if only its checksum is to be compared.
struct Part<'s, 'v, F> {
    segment: &'s Segment<F>,
    extent: &'s Extent,
    to: Option<&'v mut [u8]>,
}

impl<F: DiskFile> Part<'_, '_, F> {
    fn span(&self) -> Span<'_, F> {
        // A long one is asked for piece by piece as it is copied.
        let len = self.extent.len().min(2 * PIECE_BYTES);
        Span { segment: self.segment, offset: self.extent.offset(), len }
    }
}

impl<F: DiskFile> Snapshot<F> {
    /// Whether some of what a read of the keys needs is not in memory, by a few samples.
    pub(super) fn is_missing(&self, keys: &[&[Extent]], bytes: u64, count: u64) -> bool {
        if bytes == 0 || keys.is_empty() {
            return false;
        }
        let lists = keys.len() as u64;
        ahead::is_missing(count as usize, bytes, |i| {
            // The `i`th of `count`, if the lists were as long as each other.
            let list = keys[(i as u64 * lists / count) as usize];
            let within = i as u64 * lists % count * list.len() as u64 / count;
            match list.get(within as usize) {
                Some(extent) => self.span(extent),
                None => self.any_span(keys),
            }
        })
    }

    fn any_span(&self, keys: &[&[Extent]]) -> Span<'_, F> {
        let extent = keys.iter().find_map(|list| list.first());
        extent.map_or_else(|| unreachable!("there are bytes, so there is an extent"), |e| self.span(e))
    }

    /// Where an extent lies.
    #[inline]
    pub(super) fn span(&self, extent: &Extent) -> Span<'_, F> {
        Span { segment: self.segment(extent), offset: extent.offset(), len: extent.len() }
    }

    /// The values of some keys.
    pub(super) fn gather(&self, team: Team, keys: &[&[Extent]]) -> Result<Vec<Vec<u8>>> {
        // Fresh zeroed memory: its pages are not touched before the copy does.
        let mut values: Vec<Vec<u8>> =
            keys.iter().map(|list| vec![0; total(list) as usize]).collect();
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
            self.read_parts(team, parts)?;
        }
    }

    /// Compares the checksums of some extents.
    pub(super) fn check_ahead(&self, team: Team, extents: &[&Extent]) -> Result<()> {
        for extents in extents.chunks(PARTS_MAX) {
            let part = |extent| Part { segment: self.segment(extent), extent, to: None };
            self.read_parts(team, extents.iter().copied().map(part).collect())?;
        }
        Ok(())
    }

    /// Asks for some extents of a key, if any of them is not in memory.
    pub(super) fn fetch_missing(&self, extents: &[Extent]) {
        if ahead::is_missing(extents.len(), total(extents), |i| self.span(&extents[i])) {
            let mut spans: Vec<_> = extents.iter().map(|extent| self.span(extent)).collect();
            ahead::fetch(&mut spans);
        }
    }

    /// The same for `step` extents of each key, from the one at `first` on; a look at one of the keys says if any is
    /// not in memory.
    pub(super) fn fetch_missing_rows(&self, keys: &[&[Extent]], first: usize, step: usize) {
        let looked_at = keys.get(first / step % keys.len().max(1));
        let some = looked_at.map_or(&[][..], |list| rows(list, first, step));
        if ahead::is_missing(some.len(), total(some), |i| self.span(&some[i])) {
            let all = keys.iter().flat_map(|list| rows(list, first, step));
            let mut spans: Vec<_> = all.map(|extent| self.span(extent)).collect();
            ahead::fetch(&mut spans);
        }
    }

    fn read_parts<'s>(&'s self, team: Team, mut parts: Vec<Part<'s, '_, F>>) -> Result<()> {
        parts.sort_unstable_by_key(|part| part.extent.place());
        let mut pieces: Vec<Vec<Part<'s, '_, F>>> = Vec::new();
        let mut spans: Vec<Vec<Span<'s, F>>> = Vec::new();
        let mut len = PIECE_BYTES;
        for part in parts {
            let is_full = pieces.last().is_none_or(|piece| piece.len() >= PIECE_PARTS_MAX);
            if is_full || len >= PIECE_BYTES {
                pieces.push(Vec::new());
                spans.push(Vec::new());
                len = 0;
            }
            len += part.extent.len();
            if let (Some(piece), Some(spans)) = (pieces.last_mut(), spans.last_mut()) {
                let segment = part.segment;
                spans.push(Span { segment, ..part.span() });
                piece.push(part);
            }
        }
        let ahead = Ahead::new(spans.len(), |i| ahead::fetch(&mut spans[i].clone()));
        team.in_order(pieces, |i, piece| {
            ahead.begin(i);
            piece.into_iter().try_for_each(|part| self.read_part(team, part))?;
            if self.release {
                ahead::release(&spans[i]);
            }
            Ok(())
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

/// `step` extents from the one at `first` on, as far as there are any.
fn rows(list: &[Extent], first: usize, step: usize) -> &[Extent] {
    list.get(first..).map_or(&[], |list| &list[..list.len().min(step)])
}
