//! An iterator over keys and views of their values, as they were at one moment.

use std::fmt;
use std::iter::FusedIterator;
use std::vec::IntoIter;

use crate::Key;
use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::read::index::Extents;
use crate::log::read::pins::Pins;
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::Snapshot;
use crate::log::read::view::View;
use crate::log::store::Store;
use crate::threads::LentPool;

/// The keys of a store with views of their values, as they were at one moment, in key order.
///
/// Created by [`SegmentLog::entries`](crate::SegmentLog::entries) and
/// [`SegmentLog::entries_with_prefix`](crate::SegmentLog::entries_with_prefix).
///
/// The iterator holds the sorted keys: 32 bytes each, and the bytes of keys longer than 16. It
/// holds no values. A view is made, and the checksums of its value are compared, when the iterator
/// returns it. A damaged value is an error in its place; the iteration then continues with the next
/// key. The iterator keeps alive the segments of all its values until it is dropped; a view keeps
/// alive only its own. The iterator shares the lists of extents with the index, so the first append
/// to a key that it still has to return copies the list of that key.
pub struct Entries<D: Disk = OsDisk> {
    keys: IntoIter<(Key, Extents)>,
    pins: Pins<D::File>,
    verify: bool,
    release: bool,
    pool: Option<LentPool>,
}

impl<D: Disk> Entries<D> {
    pub(crate) fn new(store: &Store<D>, reader: &Reader<D>, prefix: &Key) -> Result<Entries<D>> {
        let (mut keys, segments) = reader.with_version(store, |version| {
            let slots = version.index.keys();
            let inside = slots.filter(|slot| slot.key.as_bytes().starts_with(prefix.as_bytes()));
            let keys = inside.map(|slot| (slot.key.clone(), Extents::clone(&slot.extents)));
            (keys.collect::<Vec<_>>(), version.segments.clone())
        })?;
        let pins = Pins::new(&segments, keys.iter().flat_map(|(_, extents)| extents.iter()));
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Entries {
            keys: keys.into_iter(),
            pins,
            verify: store.options.verify_on_read,
            release: store.options.release_after_read,
            pool: store.pool().cloned(),
        })
    }

    fn entry(&self, (key, extents): (Key, Extents)) -> Result<(Key, View<D>)> {
        let snapshot = Snapshot::of_one(&self.pins, extents, self.verify, self.release);
        snapshot.check(self.pool.as_ref())?;
        Ok((key, View::of_checked(snapshot)))
    }
}

impl<D: Disk> Iterator for Entries<D> {
    type Item = Result<(Key, View<D>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.keys.next().map(|next| self.entry(next))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.keys.size_hint()
    }
}

impl<D: Disk> DoubleEndedIterator for Entries<D> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.keys.next_back().map(|last| self.entry(last))
    }
}

impl<D: Disk> ExactSizeIterator for Entries<D> {}

impl<D: Disk> FusedIterator for Entries<D> {}

impl<D: Disk> fmt::Debug for Entries<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("left", &self.keys.len()).finish_non_exhaustive()
    }
}
