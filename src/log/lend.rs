//! The methods of `SegmentLog` that lend values instead of copying them: views, chunks that the caller
//! verifies, and byte ranges of files.

use crate::Key;
use crate::error::{Error, Result};
use crate::lend::Lend;
#[cfg(feature = "bytes")]
use crate::lend::{LentChunks, OwnedChunks};
use crate::log::SegmentLog;
use crate::log::fs::Disk;
use crate::log::maintain::engine::Engine;
use crate::log::read::file_extents::FileExtents;
use crate::log::read::unverified::Unverified;
use crate::log::read::view::View;

impl<D: Disk> SegmentLog<D> {
    /// Returns the key's value as chunks that borrow the mapped segments, without a copy.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("x", "world!")])?;
    /// let view = p.view("x")?;
    /// p.delete(["x"])?; // the view keeps its bytes
    /// assert_eq!(view.chunks().collect::<Vec<_>>().concat(), b"Hello world!");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read`](crate::Partd::read), except that a view has no limit on its length.
    pub fn view(&self, key: impl Into<Key>) -> Result<View<D>> {
        let Engine { store, reader, .. } = &*self.engine;
        View::of_key(store, reader, key.into())
    }

    /// Returns a view of each key's value. All views are of one moment: each batch is in all of
    /// them or in none.
    ///
    /// Their checksums are compared in parallel, as [`get_many`](crate::Partd::get_many) does. Each
    /// view keeps only its own segments alive, and can be dropped before the others.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("y", "world!")])?;
    /// let views = p.view_many(["x", "y", "missing"])?;
    /// assert_eq!(views.iter().map(|view| view.len()).collect::<Vec<_>>(), [6, 6, 0]);
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`view`](SegmentLog::view).
    pub fn view_many<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<View<D>>> {
        let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
        self.lend(&keys)
    }

    /// Lends the values of the keys to `visit` in chunks whose checksums are not compared yet, and
    /// returns what `visit` returns.
    ///
    /// It is meant for callers that copy the values, for example into buffers of another library.
    /// [`visit`](crate::Partd::visit) compares the checksums first, so that such a caller reads all
    /// bytes from memory a second time. Here, [`Unverified::verify`] compares a checksum while the caller
    /// copies.
    ///
    /// There is one list of chunks for each key, in the order of the keys; that of a missing key is
    /// empty. All values are of one moment, and
    /// [`max_read_bytes`](crate::Options::max_read_bytes) does not limit them. No lock is held, so
    /// `visit` may use the store, and other threads.
    ///
    /// ```
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("y", "123"), ("x", "world!")])?;
    /// let mut copied = Vec::new();
    /// p.visit_unverified(&["x".into(), "y".into()], |values| {
    ///     let mut chunks = values.iter().flatten();
    ///     chunks.try_for_each(|chunk| chunk.verify(|bytes| copied.extend_from_slice(bytes)))
    /// })?;
    /// assert_eq!(copied, b"Hello world!123");
    /// # Ok::<(), partd::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`view`](SegmentLog::view), and whatever `visit` returns. A checksum that differs is an
    /// error of [`Unverified::verify`], or, if bytes had to be read from disk, one before `visit` is
    /// called.
    pub fn visit_unverified<T, E: From<Error>>(
        &self,
        keys: &[Key],
        visit: impl FnOnce(&[Vec<Unverified<'_, D>>]) -> Result<T, E>,
    ) -> Result<T, E> {
        let Engine { store, reader, .. } = &*self.engine;
        let snapshot = reader.snapshot(store, keys)?;
        snapshot.visit_unverified(store.pool(), |values| {
            store.tally.read(snapshot.bytes());
            visit(values)
        })?
    }

    /// Returns the key's value as byte ranges of open files, to send or copy it inside the kernel.
    ///
    /// The bytes are neither read nor checked. Each range has a CRC-32 for the receiver to check.
    ///
    /// ```
    /// use std::os::unix::fs::FileExt;
    /// use partd::{Partd, SegmentLog};
    /// let p = SegmentLog::temporary()?;
    /// p.append([("x", "Hello "), ("x", "world!")])?;
    /// let extents = p.extents("x")?;
    /// p.delete(["x"])?;
    /// p.compact()?; // the extents keep their bytes
    /// let mut value = Vec::new();
    /// for extent in extents.iter() {
    ///     let mut bytes = vec![0; extent.len() as usize];
    ///     extent.file().read_exact_at(&mut bytes, extent.offset())?;
    ///     assert_eq!(crc32fast::hash(&bytes), extent.crc32());
    ///     value.extend(bytes);
    /// }
    /// assert_eq!(value, b"Hello world!");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// `examples/sendfile.rs` sends a value over a socket this way.
    ///
    /// # Errors
    ///
    /// Those of [`read`](crate::Partd::read) that concern no bytes of a value;
    /// [`Io`](crate::ErrorKind::Io) if a file cannot be opened, for example because the value lies
    /// in more segments than the process may have files open; and
    /// [`Removed`](crate::ErrorKind::Removed) if a segment was removed or replaced by anything but
    /// a compaction.
    pub fn extents(&self, key: impl Into<Key>) -> Result<FileExtents<D>> {
        let Engine { store, reader, .. } = &*self.engine;
        FileExtents::of_key(store, reader, &key.into())
    }
}

impl<D: Disk> Lend for SegmentLog<D> {
    type View = View<D>;

    fn lend(&self, keys: &[Key]) -> Result<Vec<View<D>>> {
        let Engine { store, reader, .. } = &*self.engine;
        View::of_keys(store, reader, keys)
    }
}

#[cfg(feature = "bytes")]
impl<D: Disk> OwnedChunks for View<D> {
    fn owned_chunks(&self) -> Box<dyn LentChunks> {
        Box::new(self.lent_chunks())
    }
}
