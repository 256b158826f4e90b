//! A value lent from the mapped segments, without a copy.

use std::slice;
use std::sync::Arc;

use crate::Key;
use crate::error::Result;
use crate::log::fs::{Disk, OsDisk};
use crate::log::read::pieces::Pieces;
use crate::log::read::reader::Reader;
use crate::log::read::snapshot::{PIECE_BYTES, Snapshot, total};
use crate::log::read::view_reader::ViewReader;
use crate::log::segment::extent::Extent;
use crate::log::store::Store;

/// A key's value as chunks of the mapped segments, without a copy.
///
/// Created by [`SegmentLog::view`](crate::SegmentLog::view) and
/// [`SegmentLog::view_many`](crate::SegmentLog::view_many), which check the value once. The bytes
/// do not change as long as the view lives, whatever is appended, deleted or compacted meanwhile,
/// and even after the handle of the store is dropped.
///
/// # Chunks and appends
///
/// A chunk never splits what was appended: the bytes of one [append](crate::Partd::append) or
/// [set](crate::Partd::iset) of a key to the [`SegmentLog`](crate::SegmentLog) are in one chunk,
/// and so next to each other in memory. A chunk begins where some append begins. It holds one
/// append, or, after a compaction, several that followed one another. Layers above the log decide
/// what they append to it: a [`Buffer`](crate::Buffer) joins and splits the appends that it
/// received.
#[derive(Debug)]
pub struct View<D: Disk = OsDisk> {
    pub(super) snapshot: Arc<Snapshot<D::File>>,
}

impl<D: Disk> View<D> {
    /// Creates a view of each key's current value, all of one moment.
    pub(crate) fn of_keys(
        store: &Store<D>,
        reader: &Reader<D>,
        keys: &[Key],
    ) -> Result<Vec<View<D>>> {
        // Each view has a snapshot of its own, so that it keeps only its own segments alive.
        let (all, each) = reader.with_version(store, |version| {
            let of_key = |key| Snapshot::of_keys(store, version, slice::from_ref(key));
            let each: Vec<_> = keys.iter().map(of_key).collect();
            (Snapshot::of_keys(store, version, keys), each)
        })?;
        // Compare the checksums once, so that iterations need not; all at once, so that the log is
        // read in its order and in parallel.
        all.check(store.pool())?;
        store.tally.read(all.bytes());
        Ok(each.into_iter().map(|snapshot| View { snapshot: Arc::new(snapshot) }).collect())
    }

    /// Creates a view of a key's current value.
    pub(crate) fn of_key(store: &Store<D>, reader: &Reader<D>, key: Key) -> Result<View<D>> {
        let snapshot = reader.snapshot(store, &[key])?;
        snapshot.check(store.pool())?;
        store.tally.read(snapshot.bytes());
        Ok(View { snapshot: Arc::new(snapshot) })
    }

    /// Creates a view of a value whose checksums were already compared.
    pub(super) fn of_checked(snapshot: Snapshot<D::File>) -> View<D> {
        View { snapshot: Arc::new(snapshot) }
    }

    pub(super) fn extents(&self) -> &[Extent] {
        self.snapshot.extents_of_first()
    }

    /// Returns the chunks in order; together they are the value.
    ///
    /// Chunks that are not in memory are read from disk a little ahead of the iteration. A chunk
    /// may be as long as the value; [`pieces`](View::pieces) splits it, so that a value of any
    /// length passes through bounded memory.
    #[must_use]
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        Pieces::new(&self.snapshot, self.extents(), u64::MAX)
    }

    /// Returns the value in pieces of at most `max_bytes`, in order.
    ///
    /// The next pieces are read from disk ahead of the iteration. If the store was opened with
    /// [`release_after_read`](crate::Options::release_after_read), the iteration also drops the
    /// fetched pages behind it.
    pub fn pieces(&self, max_bytes: usize) -> impl Iterator<Item = &[u8]> {
        Pieces::new(&self.snapshot, self.extents(), (max_bytes as u64).max(1))
    }

    /// Returns a reader of the value, from its first byte.
    ///
    /// ```
    /// use std::io::{BufRead, Read};
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello\n"), ("x", "wor"), ("x", "ld!")])?;
    /// let view = p.view("x")?;
    /// let lines: Vec<String> = view.reader().lines().collect::<Result<_, _>>()?;
    /// assert_eq!(lines, ["Hello", "world!"]);
    /// let mut bytes = Vec::new();
    /// view.reader().read_to_end(&mut bytes)?;
    /// assert_eq!(bytes, p.get("x")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn reader(&self) -> ViewReader<'_, D> {
        let pieces = Pieces::new(&self.snapshot, self.extents(), PIECE_BYTES);
        ViewReader::new(pieces, self.len())
    }

    /// Returns the length of the value in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        total(self.extents())
    }

    /// Returns whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
