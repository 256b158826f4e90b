//! The memory of a `Dict`: blocks of 64 bytes to 256 KiB, cut from slabs of up to 2 MiB.
//!
//! The blocks follow the buddy system (Knowlton, "A fast storage allocator", 1965): a block is
//! split until it fits, and merged with its buddy once both are free. The large slabs ask for huge
//! pages, which make new memory four times cheaper and cause fewer TLB misses. A buffer that fills
//! up and empties over and over uses the same slabs again.
//!
//! Invariant: all slabs, keys and tables stay within the limit of the write under way.

use std::ops::Range;

use super::slab::{Place, Slab, UNIT_BYTES};

/// The largest block.
pub(super) const BLOCK_MAX_BYTES: usize = 256 << 10;
/// The smallest and the largest slab.
const SLAB_MIN_BYTES: usize = 4 << 10;
const SLAB_MAX_BYTES: usize = 2 << 20;
/// A new slab has about 1/`SLAB_PARTS` of the bytes of all others together.
const SLAB_PARTS: usize = 8;
/// The number of block sizes, from one unit to a whole slab.
const ORDERS: usize = (SLAB_MAX_BYTES / UNIT_BYTES).ilog2() as usize + 1;
/// If there is no free block of a size, one that is smaller by up to this many orders will do.
const ORDERS_BELOW: usize = 2;
/// Blocks move to fewer slabs if more than 1/`SPARE_PARTS` of the slabs' bytes is free.
const SPARE_PARTS: usize = 8;

/// The limit of the write under way does not allow more memory.
#[derive(Debug)]
pub(super) struct LimitReached;

/// The result of something that needs memory.
pub(super) type Within<T> = Result<T, LimitReached>;

/// A block in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    at: Place,
    order: u8,
}

impl Block {
    /// The size of the block in bytes.
    #[inline]
    pub(super) fn len(self) -> usize {
        UNIT_BYTES << self.order
    }

    #[inline]
    fn range(self) -> Range<usize> {
        let start = usize::from(self.at.unit) * UNIT_BYTES;
        start..start + self.len()
    }
}

/// The blocks, and a count of what keys and tables take beside them.
#[derive(Default)]
pub(super) struct Arena {
    /// By number. A slab that was released is empty.
    slabs: Vec<Slab>,
    /// The first free block of each order.
    free: [Option<Place>; ORDERS],
    /// The bytes of all slabs, and of the blocks in use.
    slab_bytes: usize,
    block_bytes: usize,
    /// The bytes of values in those blocks.
    pub(super) value_bytes: usize,
    /// The bytes of keys, tables and lists of blocks.
    other_bytes: usize,
    /// `None` if there is no limit.
    limit_bytes: Option<usize>,
    /// Whether slabs that nothing uses are kept.
    keeps: bool,
}

impl Arena {
    /// Returns the bytes in use: blocks, keys, tables and lists.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.block_bytes + self.other_bytes
    }

    /// Returns a lower bound on the total with `more_bytes` more of values: every block and every
    /// slab full.
    pub(super) fn least_bytes_with(&self, more_bytes: usize) -> usize {
        Slab::memory_bytes_of(self.value_bytes + more_bytes) + self.other_bytes
    }

    /// Counts bytes that were added to a block, or removed from one.
    #[inline]
    pub(super) fn count_value(&mut self, added: usize, removed: usize) {
        self.value_bytes = self.value_bytes + added - removed;
    }

    /// Returns the bytes of the slabs that are not in use.
    pub(super) fn spare_bytes(&self) -> usize {
        self.slab_bytes - self.block_bytes
    }

    /// Sets the limit for the writes to come. From the first limit on, slabs that nothing uses are
    /// kept.
    pub(super) fn set_limit(&mut self, limit_bytes: Option<usize>) {
        self.limit_bytes = limit_bytes;
        self.keeps |= limit_bytes.is_some();
    }

    /// Returns the bytes of everything, in use or not.
    pub(super) fn total_bytes(&self) -> usize {
        self.slab_bytes + self.other_bytes
    }

    /// Whether more slab memory is free than in use, and free slabs are not kept.
    pub(super) fn is_sparse(&self) -> bool {
        !self.keeps && self.spare_bytes() > self.block_bytes + SLAB_MAX_BYTES
    }

    /// Returns the size of the next slab if there is no limit.
    pub(super) fn next_slab_bytes(&self) -> usize {
        1 << (self.slab_bytes / SLAB_PARTS).clamp(SLAB_MIN_BYTES, SLAB_MAX_BYTES).ilog2()
    }

    /// Returns the bytes that the limit still allows.
    fn room_bytes(&self) -> usize {
        self.limit_bytes.unwrap_or(usize::MAX).saturating_sub(self.total_bytes())
    }

    /// Counts bytes of keys, tables or lists. Releases slabs that nothing uses if that makes room
    /// for them, and counts nothing if it does not.
    pub(super) fn charge(&mut self, bytes: usize) -> Within<()> {
        if bytes > self.room_bytes() {
            self.release_unused();
            if bytes > self.room_bytes() {
                return Err(LimitReached);
            }
        }
        self.other_bytes += bytes;
        Ok(())
    }

    /// Counts bytes of keys, tables or lists as gone.
    pub(super) fn discharge(&mut self, bytes: usize) {
        self.other_bytes -= bytes;
    }

    #[inline]
    pub(super) fn bytes(&self, block: Block) -> &[u8] {
        &self.slabs[block.at.slab as usize].bytes()[block.range()]
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, block: Block) -> &mut [u8] {
        &mut self.slabs[block.at.slab as usize].bytes_mut()[block.range()]
    }

    /// Takes a block of at least `bytes`, or a smaller one if the limit allows no other.
    #[inline]
    pub(super) fn alloc(&mut self, bytes: usize) -> Within<Block> {
        let order = order_of(bytes);
        if let Some(block) = self.cut(order) {
            return Ok(block);
        }
        self.grow(order);
        let smaller = order.saturating_sub(ORDERS_BELOW)..=order;
        smaller.rev().find_map(|order| self.cut(order)).ok_or(LimitReached)
    }

    /// Takes a block from the smallest free one that is large enough.
    #[inline]
    fn cut(&mut self, order: usize) -> Option<Block> {
        let from = (order..ORDERS).find(|&order| self.free[order].is_some())?;
        let at = self.free[from]?;
        self.unlink(at, from);
        for half in (order..from).rev() {
            self.link(Place { unit: at.unit + (1 << half), ..at }, half);
        }
        let block = Block { at, order: order as u8 };
        self.block_bytes += block.len();
        self.slabs[at.slab as usize].used_bytes += block.len();
        Some(block)
    }

    /// Frees a block.
    pub(super) fn dealloc(&mut self, block: Block) {
        let (mut at, mut order) = (block.at, usize::from(block.order));
        self.block_bytes -= block.len();
        let slab = &mut self.slabs[at.slab as usize];
        slab.used_bytes -= block.len();
        if slab.closing {
            return;
        }
        let (whole, is_unused) = (order_of(slab.bytes().len()), slab.used_bytes == 0);
        // Merge it with its buddy as long as that is free too.
        while order < whole {
            let buddy = Place { unit: at.unit ^ (1 << order), ..at };
            if !self.slabs[at.slab as usize].is_free(buddy.unit, order) {
                break;
            }
            self.unlink(buddy, order);
            at.unit = at.unit.min(buddy.unit);
            order += 1;
        }
        self.link(at, order);
        if is_unused && !self.keeps {
            self.close(at.slab);
            self.release(at.slab);
        }
    }

    /// Adds a slab with room for a block of the order, if the limit allows it.
    #[cold]
    fn grow(&mut self, order: usize) {
        let least = (UNIT_BYTES << order).max(SLAB_MIN_BYTES);
        let mut bytes = least.max(self.next_slab_bytes());
        while Slab::memory_bytes_of(bytes) > self.room_bytes() {
            bytes /= 2;
            if bytes < least {
                return;
            }
        }
        let vacant = self.slabs.iter().position(Slab::is_released);
        let number = vacant.unwrap_or(self.slabs.len());
        let slab = Slab::new(bytes);
        self.slab_bytes += slab.memory_bytes();
        match vacant {
            Some(number) => self.slabs[number] = slab,
            None => self.slabs.push(slab),
        }
        self.link(Place { slab: number as u32, unit: 0 }, order_of(bytes));
    }

    /// Adds a block to the free ones of its order.
    #[inline]
    fn link(&mut self, at: Place, order: usize) {
        let next = self.free[order].replace(at);
        self.slabs[at.slab as usize].set_free(at.unit, order, [next, None]);
        if let Some(next) = next {
            self.slabs[next.slab as usize].set_previous(next.unit, Some(at));
        }
    }

    /// Removes a block from the free ones of its order.
    fn unlink(&mut self, at: Place, order: usize) {
        let [next, previous] = self.slabs[at.slab as usize].take_free(at.unit);
        match previous {
            Some(previous) => self.slabs[previous.slab as usize].set_next(previous.unit, next),
            None => self.free[order] = next,
        }
        if let Some(next) = next {
            self.slabs[next.slab as usize].set_previous(next.unit, previous);
        }
    }

    /// Makes sure that no more blocks are taken from a slab.
    fn close(&mut self, number: u32) {
        let free: Vec<(u16, usize)> = self.slabs[number as usize].free_blocks().collect();
        for (unit, order) in free {
            self.unlink(Place { slab: number, unit }, order);
        }
        self.slabs[number as usize].closing = true;
    }

    /// Releases a closed slab that nothing uses.
    fn release(&mut self, number: u32) {
        let slab = std::mem::take(&mut self.slabs[number as usize]);
        self.slab_bytes -= slab.memory_bytes();
    }

    /// Releases the slabs that nothing uses.
    pub(super) fn release_unused(&mut self) {
        for number in 0..self.slabs.len() as u32 {
            let slab = &self.slabs[number as usize];
            if slab.used_bytes == 0 && !slab.is_released() {
                if !slab.closing {
                    self.close(number);
                }
                self.release(number);
            }
        }
        if self.slabs.iter().all(Slab::is_released) {
            self.slabs = Vec::new();
        }
    }

    /// Closes the least used slabs whose blocks fit into the free space of the others, apart from
    /// fragmentation, and returns whether it closed any. The caller then relocates every block and
    /// releases the closed slabs. Lifts the limit.
    ///
    /// Fragmentation may cost new slabs, so a move begins only if it frees more than one new slab
    /// takes.
    pub(super) fn begin_move(&mut self) -> bool {
        self.limit_bytes = None;
        if self.spare_bytes() <= self.slab_bytes / SPARE_PARTS {
            return false;
        }
        // In thousandths, so that a slab of any size comes first if little of it is used.
        let used = |slab: &Slab| slab.used_bytes * 1000 / slab.memory_bytes().max(1);
        let mut numbers: Vec<u32> = (0..self.slabs.len() as u32).collect();
        numbers.retain(|&number| self.slabs[number as usize].is_partly_free());
        numbers.sort_by_key(|&number| used(&self.slabs[number as usize]));
        let (mut spare, mut freed) = (self.spare_bytes(), 0);
        numbers.retain(|&number| {
            let slab = &self.slabs[number as usize];
            let Some(left) = spare.checked_sub(slab.memory_bytes()) else { return false };
            spare = left;
            freed += slab.memory_bytes() - slab.used_bytes;
            true
        });
        let begins = freed > Slab::memory_bytes_of(self.next_slab_bytes());
        if begins {
            numbers.into_iter().for_each(|number| self.close(number));
        }
        begins
    }

    /// Moves a block to another slab if its own is closed.
    pub(super) fn relocate(&mut self, block: Block) -> Within<Block> {
        if !self.slabs[block.at.slab as usize].closing {
            return Ok(block);
        }
        let order = usize::from(block.order);
        if self.free[order..].iter().all(Option::is_none) {
            self.grow(order);
        }
        let to = self.cut(order).ok_or(LimitReached)?;
        let numbers = [block.at.slab as usize, to.at.slab as usize];
        if let Ok([from, into]) = self.slabs.get_disjoint_mut(numbers) {
            into.bytes_mut()[to.range()].copy_from_slice(&from.bytes()[block.range()]);
        }
        self.dealloc(block);
        Ok(to)
    }
}

/// Returns the order of the smallest block of at least `bytes`.
fn order_of(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).next_power_of_two().ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random blocks are taken, filled, given back and moved.
    #[test]
    fn blocks_never_overlap_and_free_ones_join_again() {
        let mut state = 3_u64;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % limit
        };
        let mut arena = Arena::default();
        arena.set_limit(Some(16 << 20));
        let mut held: Vec<(Block, u8)> = Vec::new();
        let mut refused = 0;
        for step in 0..200_000 {
            // Phases in which the blocks become more, and fewer.
            if below(10) < if step / 20_000 % 2 == 0 { 7 } else { 3 } {
                match arena.alloc(1 << below(19)) {
                    Ok(block) => {
                        let fill = step as u8;
                        arena.bytes_mut(block).fill(fill);
                        held.push((block, fill));
                    }
                    Err(LimitReached) => refused += 1,
                }
            } else if !held.is_empty() {
                let (block, fill) = held.swap_remove(below(held.len()));
                assert!(arena.bytes(block).iter().all(|&byte| byte == fill), "step {step}");
                arena.dealloc(block);
            }
            if step % 30_000 == 29_999 {
                let before = arena.total_bytes();
                arena.begin_move();
                for (block, _) in &mut held {
                    *block = arena.relocate(*block).unwrap();
                }
                arena.release_unused();
                assert!(arena.total_bytes() <= before, "a move takes memory");
                assert!(arena.spare_bytes() <= arena.slab_bytes / 4 + SLAB_MAX_BYTES);
                arena.set_limit(Some(16 << 20));
            }
            let bytes: usize = held.iter().map(|(block, _)| block.len()).sum();
            assert_eq!(arena.block_bytes, bytes);
            assert!(arena.slab_bytes <= 16 << 20);
        }
        assert!(refused > 1000, "{refused}");
        for (block, fill) in held {
            assert!(arena.bytes(block).iter().all(|&byte| byte == fill));
            arena.dealloc(block);
        }
        for slab in arena.slabs.iter().filter(|slab| !slab.is_released()) {
            let whole = order_of(slab.bytes().len());
            assert!(slab.free_blocks().eq([(0, whole)]));
        }
        arena.release_unused();
        assert_eq!((arena.slab_bytes, arena.used_bytes(), arena.spare_bytes()), (0, 0, 0));
    }

    #[test]
    fn a_move_never_takes_more_memory_than_it_gives_back() {
        // The free blocks are smaller than some that stay, so those fit in new slabs only.
        for (stay, go) in [([2048, 64], 1024), ([8192, 64], 4096), ([128 << 10, 64], 32 << 10)] {
            for count in 1..300 {
                let mut arena = Arena::default();
                arena.set_limit(Some(64 << 20));
                let (mut held, mut given) = (Vec::new(), Vec::new());
                for _ in 0..count {
                    held.extend(stay.map(|bytes| arena.alloc(bytes).unwrap()));
                    given.push(arena.alloc(go).unwrap());
                }
                given.into_iter().for_each(|block| arena.dealloc(block));
                arena.release_unused();
                let before = arena.total_bytes();
                if arena.begin_move() {
                    held.iter_mut().for_each(|block| *block = arena.relocate(*block).unwrap());
                }
                arena.release_unused();
                let after = arena.total_bytes();
                assert!(after <= before, "{before} to {after}: {count} times {stay:?} of {go}");
            }
        }
    }

    #[test]
    fn a_move_beside_full_slabs_never_increases_the_total() {
        let mut arena = Arena::default();
        arena.set_limit(Some(64 << 20));
        let mut held: Vec<Block> = (0..256).map(|_| arena.alloc(64 << 10).unwrap()).collect();
        let half_given: Vec<Block> = (0..192).map(|_| arena.alloc(32 << 10).unwrap()).collect();
        for pair in half_given.chunks(2) {
            arena.dealloc(pair[0]);
            held.push(pair[1]);
        }
        let before = arena.total_bytes();
        if arena.begin_move() {
            held.iter_mut().for_each(|block| *block = arena.relocate(*block).unwrap());
        }
        arena.release_unused();
        assert!(arena.total_bytes() <= before, "{before} to {}", arena.total_bytes());
    }

    #[test]
    fn an_arena_without_a_limit_keeps_nothing() {
        let mut arena = Arena::default();
        let blocks: Vec<Block> = (0..1000).map(|_| arena.alloc(4096).unwrap()).collect();
        assert!(arena.slab_bytes < 1000 * 4096 * 5 / 4);
        blocks.into_iter().for_each(|block| arena.dealloc(block));
        assert_eq!(arena.slab_bytes, 0);
    }
}
