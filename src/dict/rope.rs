//! A value in memory: a rope of blocks that an append never moves. An append copies each byte once,
//! and the memory stays within a small factor of the value.

use std::mem::{size_of, take};

use smallvec::SmallVec;

use super::arena::{Arena, BLOCK_MAX_BYTES, Block, Within};

/// A value of up to eight times this length grows by its own length, but at most by this; a longer
/// one by an eighth.
const DOUBLING_MAX_BYTES: usize = 1024;
const GROWTH_PARTS: usize = 8;

/// One key's value: full blocks, and a last block with spare room.
#[derive(Default)]
pub(super) struct Value {
    blocks: SmallVec<[Block; 2]>,
    /// The bytes in the last block.
    last_len: u32,
    /// Whether the key was set since its last delete.
    pub(super) is_set: bool,
    pub(super) len: usize,
}

impl Value {
    /// Appends bytes. If the limit does not allow it, some of the bytes may have been appended, and
    /// the caller cuts them off again.
    pub(super) fn append(&mut self, bytes: &[u8], arena: &mut Arena) -> Within<()> {
        let before = self.len;
        let mut rest = bytes;
        if let Some(&last) = self.blocks.last() {
            rest = self.fill(last, rest, arena);
        }
        while !rest.is_empty() {
            self.reserve_block(arena)?;
            let block = arena.alloc(block_bytes(before, bytes.len(), rest.len()))?;
            self.blocks.push(block);
            self.last_len = 0;
            rest = self.fill(block, rest, arena);
        }
        Ok(())
    }

    /// Copies bytes into the last block, and returns those for which it has no room.
    #[inline]
    fn fill<'b>(&mut self, last: Block, bytes: &'b [u8], arena: &mut Arena) -> &'b [u8] {
        let room = &mut arena.bytes_mut(last)[self.last_len as usize..];
        let (fits, rest) = bytes.split_at(room.len().min(bytes.len()));
        room[..fits.len()].copy_from_slice(fits);
        self.last_len += fits.len() as u32;
        self.len += fits.len();
        arena.count_value(fits.len(), 0);
        rest
    }

    /// Makes room for one more block in the list.
    fn reserve_block(&mut self, arena: &mut Arena) -> Within<()> {
        let (len, capacity) = (self.blocks.len(), self.blocks.capacity());
        if len == capacity {
            let more = (capacity / GROWTH_PARTS).max(6);
            let grown = len + more - if self.blocks.spilled() { capacity } else { 0 };
            arena.charge(grown * size_of::<Block>())?;
            self.blocks.reserve_exact(more);
        }
        Ok(())
    }

    /// Cuts the value off after `len` bytes, which it has.
    pub(super) fn truncate(&mut self, len: usize, arena: &mut Arena) {
        while self.len > len {
            let cut = (self.last_len as usize).min(self.len - len);
            self.last_len -= cut as u32;
            self.len -= cut;
            arena.count_value(0, cut);
            self.trim(arena);
        }
        self.trim(arena);
    }

    /// Gives back a last block without bytes.
    fn trim(&mut self, arena: &mut Arena) {
        if self.last_len == 0 {
            self.blocks.pop().into_iter().for_each(|block| arena.dealloc(block));
            self.last_len = self.blocks.last().map_or(0, |last| last.len() as u32);
        }
    }

    /// Gives the memory back.
    pub(super) fn release(mut self, arena: &mut Arena) {
        arena.discharge(self.list_bytes());
        arena.count_value(0, self.len);
        take(&mut self.blocks).into_iter().for_each(|block| arena.dealloc(block));
    }

    /// Moves the blocks out of slabs that are about to be released.
    pub(super) fn move_blocks(&mut self, arena: &mut Arena) -> Within<()> {
        for block in &mut self.blocks {
            *block = arena.relocate(*block)?;
        }
        Ok(())
    }

    pub(super) fn pieces<'a>(&self, arena: &'a Arena) -> impl Iterator<Item = &'a [u8]> {
        let full = self.blocks.len().saturating_sub(1);
        let piece = move |(number, block): (usize, &Block)| {
            let bytes = arena.bytes(*block);
            if number < full { bytes } else { &bytes[..self.last_len as usize] }
        };
        self.blocks.iter().enumerate().map(piece)
    }

    pub(super) fn concat(&self, arena: &Arena) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        self.pieces(arena).for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Returns a lower bound on the size of the next block if the value grows.
    pub(super) fn growth_bytes(&self) -> usize {
        block_bytes(self.len, 1, 1)
    }

    /// The bytes of the list of blocks, if it is on the heap.
    fn list_bytes(&self) -> usize {
        if self.blocks.spilled() { self.blocks.capacity() * size_of::<Block>() } else { 0 }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.list_bytes() + self.blocks.iter().map(|block| block.len()).sum::<usize>()
    }
}

/// Returns the size of the next block of a value of `before` bytes, to which `rest` of `appended`
/// bytes are still to be appended.
fn block_bytes(before: usize, appended: usize, rest: usize) -> usize {
    // A short value doubles, so that it has few blocks; a long one grows by a small part.
    let growth = match before / GROWTH_PARTS {
        0..DOUBLING_MAX_BYTES => before.min(DOUBLING_MAX_BYTES).next_power_of_two(),
        part => 1 << part.ilog2(),
    };
    let growth = if before == 0 { 0 } else { growth };
    // The bytes themselves get one block if that leaves little unused, otherwise several.
    let whole = rest.next_power_of_two();
    let needed = if whole - rest <= (before + appended) / GROWTH_PARTS { whole } else { whole / 2 };
    growth.max(needed).min(BLOCK_MAX_BYTES)
}
