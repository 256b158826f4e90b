//! A value in memory: a rope of pieces that never move. An append copies each byte once, and the
//! memory stays within a small factor of the value.

use std::mem::size_of;

/// The smallest piece that a value grows by. The first piece is exact and may be smaller.
pub(super) const PIECE_MIN_BYTES: usize = 64;
/// The largest piece that a value grows by, unless a single append is larger.
pub(super) const PIECE_MAX_BYTES: usize = 64 << 10;
/// A value grows by at least its length divided by this, some of which may stay unused.
const GROWTH_PARTS: usize = 8;

/// One key's value: full pieces, and a last piece with spare room.
#[derive(Default)]
pub(super) struct Value {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    pub(super) len: usize,
    /// Whether the key was set since its last delete.
    pub(super) is_set: bool,
}

impl Value {
    /// Appends bytes, and returns by how many bytes the capacity of the value has grown.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let room = self.last.capacity() - self.last.len();
        if bytes.len() <= room {
            self.last.extend_from_slice(bytes);
            self.len += bytes.len();
            return 0;
        }
        let (fits, rest) = bytes.split_at(room);
        self.last.extend_from_slice(fits);
        let room = match self.len {
            0 => rest.len(),
            len => (len / GROWTH_PARTS).clamp(PIECE_MIN_BYTES, PIECE_MAX_BYTES).max(rest.len()),
        };
        let mut piece = Vec::with_capacity(room);
        piece.extend_from_slice(rest);
        let mut grown = piece.capacity();
        let full = std::mem::replace(&mut self.last, piece);
        if !full.is_empty() {
            let before = self.full.capacity();
            if self.full.len() == before {
                self.full.reserve_exact((before / GROWTH_PARTS).max(4));
            }
            self.full.push(full);
            grown += (self.full.capacity() - before) * size_of::<Vec<u8>>();
        }
        self.len += bytes.len();
        grown
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.full.iter().chain(Some(&self.last)).filter(|piece| !piece.is_empty()).map(|p| &p[..])
    }

    pub(super) fn concat(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        self.pieces().for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let pieces: usize = self.full.iter().map(Vec::capacity).sum();
        pieces + self.last.capacity() + self.full.capacity() * size_of::<Vec<u8>>()
    }
}
