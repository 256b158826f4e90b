//! Values that are read one after the other: those to come are asked of the disk while some are read.
//!
//! Files are read as they are asked for, and nothing around it: the extents of one key lie among those of others. So
//! that the disk still has a queue, the next ones are announced, in a bounded window.

use crate::index::EntryRef;
use crate::store::Store;

/// Bytes that are asked for ahead of the value that is read.
const AHEAD: u64 = 8 << 20;

/// Values that will be read in this order.
#[derive(Debug)]
pub struct Ahead<'s> {
    store: &'s Store,
    /// Those that were not asked for yet.
    rest: &'s [EntryRef],
    asked: u64,
    begun: u64,
}

impl<'s> Ahead<'s> {
    /// Some values of a store.
    #[must_use]
    pub fn new(store: &'s Store, values: &'s [EntryRef]) -> Ahead<'s> {
        Ahead { store, rest: values, asked: 0, begun: 0 }
    }

    /// Says that the next value is about to be read.
    pub fn begin(&mut self, value: EntryRef) {
        self.begun += self.len(value);
        while self.asked < self.begun + AHEAD
            && let [next, behind @ ..] = self.rest
        {
            let segment = &self.store.segments[next.segment as usize];
            let offset = segment.entries[next.entry as usize].value_offset;
            // Longer values are read ahead piece by piece.
            segment.source.will_read(offset, self.len(*next).min(AHEAD));
            self.asked += self.len(*next);
            self.rest = behind;
        }
    }

    fn len(&self, value: EntryRef) -> u64 {
        self.store.segments[value.segment as usize].entries[value.entry as usize].value_len
    }
}
