//! A slab: memory from which blocks are cut, and the marks and links of those that are free.
//!
//! A free block holds the links to its neighbours in the list of its size, so that the lists take
//! no memory beside the blocks.

use memmap2::MmapMut;

/// The smallest block. Blocks begin at multiples of it.
pub(super) const UNIT_BYTES: usize = 64;
/// A slab of this size is mapped in huge pages if the system has them.
const HUGE_BYTES: usize = 2 << 20;
/// The mark of a unit at which no free block begins.
const NOT_FREE: u8 = u8::MAX;

/// A unit of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slab: u32,
    pub(super) unit: u16,
}

/// Memory of a power of two bytes.
#[derive(Default)]
pub(super) struct Slab {
    memory: Memory,
    /// For each unit, the order of the free block that begins there, or `NOT_FREE`.
    marks: Box<[u8]>,
    /// The bytes of the blocks in use.
    pub(super) used_bytes: usize,
    /// Whether no more blocks are taken from it, since it is about to be released.
    pub(super) closing: bool,
}

enum Memory {
    Heap(Box<[u8]>),
    Mapped(MmapMut),
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(Box::default())
    }
}

impl Slab {
    pub(super) fn new(bytes: usize) -> Slab {
        let mapped = (bytes >= HUGE_BYTES).then(|| MmapMut::map_anon(bytes).ok()).flatten();
        let memory = match mapped {
            Some(mapped) => {
                // Without huge pages it is only slower.
                #[cfg(target_os = "linux")]
                let _ = mapped.advise(memmap2::Advice::HugePage);
                Memory::Mapped(mapped)
            }
            None => Memory::Heap(vec![0; bytes].into()),
        };
        let marks = vec![NOT_FREE; bytes / UNIT_BYTES].into();
        Slab { memory, marks, used_bytes: 0, closing: false }
    }

    /// Whether the slab has no memory.
    pub(super) fn is_released(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether some of the slab is free.
    pub(super) fn is_partly_free(&self) -> bool {
        self.used_bytes < self.bytes().len()
    }

    /// The bytes that a slab of `bytes` takes with its marks.
    pub(super) fn memory_bytes_of(bytes: usize) -> usize {
        bytes + bytes / UNIT_BYTES
    }

    /// The bytes that the slab takes with its marks.
    pub(super) fn memory_bytes(&self) -> usize {
        Slab::memory_bytes_of(self.bytes().len())
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(bytes) => bytes,
        }
    }

    /// Whether a free block of the order begins at the unit.
    pub(super) fn is_free(&self, unit: u16, order: usize) -> bool {
        usize::from(self.marks[usize::from(unit)]) == order
    }

    /// Returns the first units and the orders of the free blocks.
    pub(super) fn free_blocks(&self) -> impl Iterator<Item = (u16, usize)> {
        let marks = self.marks.iter().enumerate().filter(|(_, mark)| **mark != NOT_FREE);
        marks.map(|(unit, order)| (unit as u16, usize::from(*order)))
    }

    /// Marks a block as free, with the next and the previous one of its order.
    pub(super) fn set_free(&mut self, unit: u16, order: usize, links: [Option<Place>; 2]) {
        self.marks[usize::from(unit)] = order as u8;
        for (number, link) in links.into_iter().enumerate() {
            self.set_link(unit, number, link);
        }
    }

    /// Marks a block as not free, and returns the next and the previous one of its order.
    pub(super) fn take_free(&mut self, unit: u16) -> [Option<Place>; 2] {
        self.marks[usize::from(unit)] = NOT_FREE;
        [0, 1].map(|number| self.link(unit, number))
    }

    pub(super) fn set_next(&mut self, unit: u16, next: Option<Place>) {
        self.set_link(unit, 0, next);
    }

    pub(super) fn set_previous(&mut self, unit: u16, previous: Option<Place>) {
        self.set_link(unit, 1, previous);
    }

    fn set_link(&mut self, unit: u16, number: usize, to: Option<Place>) {
        let word = to.map_or(u64::MAX, |to| u64::from(to.slab) << 16 | u64::from(to.unit));
        let at = usize::from(unit) * UNIT_BYTES + number * size_of::<u64>();
        self.bytes_mut()[at..at + size_of::<u64>()].copy_from_slice(&word.to_le_bytes());
    }

    fn link(&self, unit: u16, number: usize) -> Option<Place> {
        let at = usize::from(unit) * UNIT_BYTES + number * size_of::<u64>();
        let word = self.bytes()[at..].first_chunk().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
        (word != u64::MAX).then_some(Place { slab: (word >> 16) as u32, unit: word as u16 })
    }
}
