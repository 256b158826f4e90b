//! Read-ahead for values that are read one after the other.
//!
//! The kernel's own read-ahead is off: the extents of a key lie between those of other keys, so the
//! bytes around them are rarely needed. This module asks the kernel for the next extents instead,
//! in a bounded window, so that the disk always has requests queued.

use crate::index::EntryRef;
use crate::store::Store;

/// How many bytes to request ahead of the value that is being read.
const AHEAD: u64 = 8 << 20;

/// Values that the caller reads in this order.
#[derive(Debug)]
pub struct ReadAhead<'s> {
    store: &'s Store,
    /// The values not requested yet.
    rest: &'s [EntryRef],
    requested: u64,
    begun: u64,
}

impl<'s> ReadAhead<'s> {
    /// Creates the read-ahead for some values of a store.
    #[must_use]
    pub fn new(store: &'s Store, values: &'s [EntryRef]) -> ReadAhead<'s> {
        ReadAhead { store, rest: values, requested: 0, begun: 0 }
    }

    /// Announces that the caller is about to read the next value.
    pub fn begin(&mut self, value: EntryRef) {
        self.begun += self.len(value);
        while self.requested < self.begun + AHEAD
            && let [next, rest @ ..] = self.rest
        {
            let segment = &self.store.segments[next.segment as usize];
            let offset = segment.entries[next.entry as usize].value_offset;
            // The reader itself requests the rest of a longer value.
            segment.source.will_read(offset, self.len(*next).min(AHEAD));
            self.requested += self.len(*next);
            self.rest = rest;
        }
    }

    fn len(&self, value: EntryRef) -> u64 {
        self.store.segments[value.segment as usize].entries[value.entry as usize].value_len
    }
}
